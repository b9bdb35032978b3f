"""What a command takes beside the model, and what commands take of everybody else."""

import itertools
import math
import time
from collections.abc import Sequence

from tests.support.model_server import Step, ToolCall

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import ModelTime, Stage
from benchmarks.turn import Turn

FILES = 5_000
COMMANDS = 5
SPINNING, SPIN_S, READS = 20, 12, 100
DONE = "done"


def run(stage: Stage) -> Part:
    """Commands in turns of new workers; then reads beside many that do nothing but compute."""
    part = Part("commands", "run_command, from the model's call to its next request")
    _script(stage, "commands", *["true"] * COMMANDS)
    _script(stage, "lists", *[ToolCall("list_files", {})] * COMMANDS)
    fill = f"mkdir -p scratchpad/d; cd scratchpad/d; seq {FILES} | split -l 1 -a 4"
    touch = "date +%N > scratchpad/d/xaaaa"
    _script(stage, "files", fill, *[touch] * COMMANDS)
    _script(stage, "spin", f"timeout {SPIN_S} sh -c 'while :; do :; done'")
    asked = {"expected": DONE, "count": stage.count(10, quick=4)}
    turns = stage.serving.turns("turns", prompt=stages.prompt("commands"), **asked)
    turns += stage.serving.turns("turns", prompt=stages.prompt("lists"), **asked)
    large = stage.serving.turns("turns", prompt=stages.prompt("files"), expected=DONE, count=2)
    part.notes.append(stages.require_right([*turns, *large]))
    commands = _gaps_ms(stage.model_times("commands"), COMMANDS + 1)
    lists = [gap for gaps in _gaps_ms(stage.model_times("lists"), COMMANDS + 1) for gap in gaps]
    # The first of these has the files to store, and is no measure of a scan.
    files = [gap for gaps in _gaps_ms(stage.model_times("files"), COMMANDS + 2) for gap in gaps[1:]]
    later = [gap for gaps in commands for gap in gaps[1:]]
    empty_ms = sorted(later)[len(later) // 2]
    idle, busy = _reads_ms(stage, spinning=0), _reads_ms(stage, spinning=SPINNING)
    part.rows = [
        Row(
            "run_command true, the first of its turn",
            "ms",
            [gaps[0] for gaps in commands],
            lists,
            Bound(at_most=60),
        ),
        Row("run_command true, a later one", "ms", later, lists, Bound(at_most=60)),
        Row("floor: list_files", "ms", lists),
        Row(f"a command that changes one of {FILES} files", "ms", files, later),
        Row(
            "  of that beyond an empty workspace",
            "ms",
            [gap - empty_ms for gap in files],
            (),
            Bound(at_most=50),
        ),
        Row(
            f"GET of a worker beside {SPINNING} computing commands, p95",
            "ms",
            busy,
            idle,
            Bound(at_most=100),
        ),
        Row("floor: the same beside none, p95", "ms", idle),
    ]
    return part


def _script(stage: Stage, name: str, *calls: str | ToolCall) -> None:
    tools = [
        ToolCall("run_command", {"command": call}) if isinstance(call, str) else call
        for call in calls
    ]
    steps = [Step(tool_calls=[tool]) for tool in tools]
    stage.model.script(name, [*steps, Step(text=DONE)], after_last="repeat")


def _gaps_ms(calls: Sequence[ModelTime], steps: int) -> list[list[float]]:
    """For each turn: from the end of each answer to the arrival of the next request."""
    turns = [calls[first : first + steps] for first in range(0, len(calls), steps)]
    return [
        [(after.at - before.ended_at) * 1000 for before, after in itertools.pairwise(turn)]
        for turn in turns
    ]


def _reads_ms(stage: Stage, *, spinning: int) -> list[float]:
    """The 95th percentile of each round of reads, one after the other."""
    workers = stage.serving.client.call(
        "accepted", list[str], prompt=stages.prompt("spin"), count=spinning
    )
    if workers:
        time.sleep(2)  # Until all of them compute.
    rounds: list[float] = []
    for _ in range(stage.count(5, quick=3)):
        reads = stage.serving.client.call("reads", list[Turn], count=READS)
        took = sorted(read.took_ms for read in reads)
        rounds.append(took[math.ceil(0.95 * len(took)) - 1])
    if workers:
        time.sleep(SPIN_S)
    return rounds
