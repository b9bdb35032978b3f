"""What a large file takes: to be published by a command, and to be read over HTTP."""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.model_server import Step, ToolCall

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Stage
from benchmarks.turn import Turn

SIZE = 10_000_000
DONE = "done"
# Other bytes each time, so that they are stored each time.
_PUBLISH = "cp scratchpad/large.bin published.bin && date +%N >> published.bin"


def run(stage: Stage) -> Part:
    """Publish it again and again in one turn; read it beside a static server and a plain copy."""
    part = Part("files", f"a file of {SIZE // 1_000_000} MB, published and read")
    count = stage.count(10, quick=4)
    commands = [f"mkdir -p scratchpad; head -c {SIZE} /dev/urandom > scratchpad/large.bin", "true"]
    commands += ["true", _PUBLISH] * count
    steps = [Step(tool_calls=[ToolCall("run_command", {"command": each})]) for each in commands]
    stage.model.script("publish", [*steps, Step(text=DONE)])
    prompt = stages.prompt("publish")
    # One turn makes more model calls than the standard budget allows.
    turns = stage.serving.turns("turns", prompt=prompt, expected=DONE, count=1, budget="high")
    calls = stage.model_times("publish")
    gaps = [(after.at - call.ended_at) * 1000 for call, after in itertools.pairwise(calls)]
    empty, published = gaps[2::2], gaps[3::2]
    publishing = stages.differences(published, empty)

    with tempfile.TemporaryDirectory(prefix="handinger-bench-") as folder:
        file = Path(folder) / "large.bin"
        file.write_bytes(os.urandom(SIZE))
        copies = _copies_ms(file, count)
        static = stage.bare.call("serve_file", str, path=str(file), size=SIZE)
        served: list[Turn] = []
        read: list[Turn] = []
        for _ in range(stage.rounds):
            read += stage.serving.turns("file_reads", size=SIZE, count=5)
            served += stage.serving.turns("static_reads", url=static, size=SIZE, count=5)
    part.notes.append(stages.require_right([*turns, *read, *served]))
    floor = [turn.took_ms for turn in served]
    part.rows = [
        _bounded("published by a command that copies it, beyond `true`", publishing, copies),
        Row("floor: a plain copy, synced", "ms", copies),
        _bounded("read over HTTP", [turn.took_ms for turn in read], floor),
        Row("floor: read from a static server", "ms", floor),
    ]
    return part


def _bounded(label: str, samples: Sequence[float], floor: Sequence[float]) -> Row:
    """Of which the median may be three times its floor's."""
    at_most = 3 * sorted(floor)[len(floor) // 2]
    return Row(label, "ms", samples, floor, Bound(at_most=round(at_most, 1)))


def _copies_ms(file: Path, count: int) -> list[float]:
    took: list[float] = []
    for number in range(count):
        copy = file.with_name(f"copy-{number}")
        began = time.monotonic()
        shutil.copyfile(file, copy)
        with copy.open("rb+") as written:
            os.fsync(written.fileno())
        took.append((time.monotonic() - began) * 1000)
        copy.unlink()
    return took
