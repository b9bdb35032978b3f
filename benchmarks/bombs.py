"""What commands that take all they can get cost everybody else: one bomb after the other."""

import math
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from tests.support.model_server import Step, ToolCall

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Stage
from benchmarks.turn import Turn

BOMB_S = 10
# Most are stopped by a limit long before that, and are set off again.
BOMBS: Mapping[str, str] = {
    "a fork bomb": "bomb() { bomb | bomb & }; bomb; sleep 1000",
    "a memory bomb": "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'",
    "output without end (yes)": "yes",
    "a file of 10 GB": "dd if=/dev/zero of=scratchpad/huge bs=1M count=10240",
    "two loops that compute": "while :; do :; done & while :; do :; done",
}
TURNS, READS = 10, 100
TIMES_QUIET, READ_MS = 3, 100


def run(stage: Stage) -> Part:
    """A small turn and a read of somebody else, beside nothing and beside each bomb in turn."""
    part = Part("bombs", "a bystander's turn and read beside one worker's bomb")
    stage.script_text("bystander", chunks=1)
    quiet_turns: list[float] = []
    quiet_reads: list[float] = []
    beside: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in BOMBS}
    for _ in range(stage.count(3, quick=1)):
        for name, command in BOMBS.items():
            turns, reads = _bystander(stage)
            quiet_turns += turns
            quiet_reads.append(_p95(reads))
            with _bomb(stage, name, command):
                turns, reads = _bystander(stage)
            beside[name][0].extend(turns)
            beside[name][1].append(_p95(reads))
    part.rows = [
        Row("floor: a turn beside none", "ms", quiet_turns),
        Row("floor: GET of a worker beside none, p95", "ms", quiet_reads),
    ]
    quiet_ms = part.rows[0].median
    for name, (turns, reads) in beside.items():
        ratios = [turn / quiet_ms for turn in turns]
        part.rows += [
            Row(f"a turn beside {name}", "x quiet", ratios, (), Bound(at_most=TIMES_QUIET)),
            Row("  GET of a worker, p95", "ms", reads, quiet_reads, Bound(at_most=READ_MS)),
        ]
    return part


def _bystander(stage: Stage) -> tuple[list[float], list[float]]:
    """What turns, and reads, of somebody else take now, in ms."""
    prompt = stages.prompt("bystander")
    turns = stage.serving.turns("turns", prompt=prompt, expected=stages.CHUNK_TEXT, count=TURNS)
    stages.require_right(turns)
    reads = stage.serving.client.call("reads", list[Turn], count=READS)
    return [turn.took_ms for turn in turns], [read.took_ms for read in reads]


@contextmanager
def _bomb(stage: Stage, name: str, command: str) -> Generator[None]:
    """One worker that sets it off again and again, until the block ends."""
    call = ToolCall("run_command", {"command": command, "timeout_seconds": BOMB_S})
    script = name.replace(" ", "-")
    stage.model.script(script, [Step(tool_calls=[call])], after_last="repeat")
    client = stage.serving.client
    asked = {"prompt": stages.prompt(script), "count": 1, "budget": "unlimited"}
    workers = client.call("accepted", list[str], **asked)
    deadline = time.monotonic() + 20
    while not stage.model.requests(script, bodies=False) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # Until it has begun to hurt.
    yield
    client.call("cancelled", list[str], worker_ids=workers)


def _p95(samples: list[float]) -> float:
    return sorted(samples)[math.ceil(0.95 * len(samples)) - 1]
