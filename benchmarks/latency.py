"""What a one-step turn takes beside the model: a new worker, a POST that waits, 100 chunks."""

import os
import tempfile
import time
from collections.abc import Sequence

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import ModelTime, Stage
from benchmarks.turn import Turn

CHUNKS = 100


def run(stage: Stage) -> Part:
    """Our server, the bare agent and a bare HTTP call in turn."""
    part = Part("latency", "a one-step turn, milliseconds beside the model's own time")
    text = stage.script_text("turn", "agent", "post", chunks=CHUNKS)
    warm = {"prompt": stages.prompt("ok"), "expected": "", "count": 20}
    stage.serving.turns("turns", **warm)
    stage.bare_turns("agent_turns", **warm)
    ours, agents, posts = (list[Turn]() for _ in range(3))
    for _ in range(stage.rounds):
        asked = {"expected": text, "count": stage.count(30, quick=15)}
        ours += stage.serving.turns("turns", prompt=stages.prompt("turn"), **asked)
        agents += stage.bare_turns("agent_turns", prompt=stages.prompt("agent"), **asked)
        posts += stage.bare_turns("posts", prompt=stages.prompt("post"), **asked)
    calls = stage.model_times("turn")
    agent_calls = stage.model_times("agent")
    agents_ms = stages.above_model_ms(agents, agent_calls)
    agent_arrival_ms = _arrival_ms(agents, agent_calls)
    part.rows = [
        Row(
            "POST to answer, beside the model",
            "ms",
            stages.above_model_ms(ours, calls),
            agents_ms,
            Bound(at_most=30),
        ),
        Row(
            "POST to the model's first request",
            "ms",
            _arrival_ms(ours, calls),
            agent_arrival_ms,
            Bound(at_most=25),
        ),
        Row("model's last byte to answer", "ms", _answering_ms(ours, calls)),
        Row("floor: bare agent.run, beside the model", "ms", agents_ms),
        Row("floor: bare agent.run to the model's request", "ms", agent_arrival_ms),
        Row(
            "floor: bare HTTP call, beside the model",
            "ms",
            stages.above_model_ms(posts, stage.model_times("post")),
        ),
        Row("floor: one write of 8 kB with fdatasync", "ms", _synced_writes_ms()),
    ]
    part.notes.append(stages.require_right([*ours, *agents, *posts]))
    return part


def _arrival_ms(turns: Sequence[Turn], calls: Sequence[ModelTime]) -> list[float]:
    pairs = zip(turns, calls, strict=True)
    return [(call.at - turn.sent_at) * 1000 for turn, call in pairs]


def _answering_ms(turns: Sequence[Turn], calls: Sequence[ModelTime]) -> list[float]:
    pairs = zip(turns, calls, strict=True)
    return [(turn.ended_at - call.ended_at) * 1000 for turn, call in pairs]


def _synced_writes_ms() -> list[float]:
    """What the disk takes for the least that a commit needs; a turn has several."""
    took_ms: list[float] = []
    with tempfile.TemporaryFile(prefix="handinger-bench-") as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(bytes(8192))
            file.flush()
            os.fdatasync(file.fileno())
            took_ms.append((time.perf_counter() - began) * 1000)
    return took_ms
