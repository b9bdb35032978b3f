"""How much memory the server's process holds: at the start, with readers, with stored workers."""

import time

from tests.support.model_server import Step

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Serving, Stage

STREAMS = 200
WORKERS = 1000
CHUNKS = 100


def run(stage: Stage) -> Part:
    """One server goes through all of it, so that each row holds what those above have left."""
    part = Part("memory", "resident memory of the server's process, one after the other")
    held = Step(chunks=CHUNKS, gate_after_chunks=(CHUNKS // 2, "held"))
    stage.model.script("held", [held], after_last="repeat")
    stage.model.script("held-each", [Step(chunks=CHUNKS, gate="held-each")], after_last="repeat")
    text = stage.script_text("stored", chunks=CHUNKS)
    workers = stage.count(WORKERS, quick=100)
    with stage.fresh_server() as serving:
        part.rows.append(_row(serving, "at the start, idle", Bound(at_most=200)))
        on_one = f"{STREAMS} GET streams on one turn, held in the middle"
        part.rows.append(_with_streams_on_one_turn(stage, serving, on_one))
        part.rows.append(_row(serving, "after those have ended"))
        turns = serving.turns(
            "turns", prompt=stages.prompt("stored"), expected=text, count=workers, concurrency=16
        )
        part.rows.append(_row(serving, f"with {workers} stored workers"))
        on_each = f"{STREAMS} GET streams, each on its own worker's held turn"
        part.rows.append(_with_streams_on_each_worker(stage, serving, on_each))
        part.rows.append(_row(serving, "after those have ended, too"))
    part.notes.append(stages.require_right(turns))
    part.notes.append("MB is 10^6 bytes. PostgreSQL is apart. Every stream told its turn's end.")
    return part


def _row(serving: Serving, label: str, bound: Bound | None = None) -> Row:
    """Several looks, because memory moves a little even when nothing happens."""
    samples: list[float] = []
    for _ in range(5):
        time.sleep(0.1)
        samples.append(serving.rss_mb)
    return Row(label, "MB", samples, bound=bound)


def _with_streams_on_one_turn(stage: Stage, serving: Serving, label: str) -> Row:
    (worker_id,) = _accepted(serving, "held", 1)
    return _with_streams(stage, serving, [worker_id] * STREAMS, gate="held", label=label)


def _with_streams_on_each_worker(stage: Stage, serving: Serving, label: str) -> Row:
    worker_ids = _accepted(serving, "held-each", STREAMS)
    return _with_streams(stage, serving, worker_ids, gate="held-each", label=label)


def _accepted(serving: Serving, script: str, count: int) -> list[str]:
    return serving.client.call("accepted", list[str], prompt=stages.prompt(script), count=count)


def _with_streams(
    stage: Stage, serving: Serving, worker_ids: list[str], *, gate: str, label: str
) -> Row:
    serving.client.call("open_streams", type(None), worker_ids=worker_ids)
    row = _row(serving, label, Bound(at_most=300))
    stage.model.open_gate(gate)
    finished = serving.client.call("finish_streams", int)
    assert finished == len(worker_ids), f"{finished} of {len(worker_ids)} streams ended well"
    return row
