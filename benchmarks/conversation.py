"""Whether a turn costs more the longer its conversation is, beyond what the bare agent pays."""

import statistics
from collections.abc import Sequence

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import ModelTime, Stage
from benchmarks.turn import Turn

CHUNKS = 100
TURNS = 101
# The turns that stand for an early, a late and a very late one, each with its neighbours.
WINDOWS = {2: range(2, 5), 50: range(49, 52), 100: range(99, 102)}
CONVERSATIONS = 4

# What two medians of such samples differ by when nothing differs.
NOISE_MS = 1.0

Measured = dict[int, list[float]]  # by the number of the turn


def run(stage: Stage) -> Part:
    """Conversations with and without messages in the answer, and the bare agent's, in turn."""
    part = Part("conversation", "a late turn against an early one, beside the model's own time")
    text = stage.script_text("long", chunks=CHUNKS)
    asked = {"prompt": stages.prompt("long"), "expected": text, "count": TURNS}
    without, with_messages, bare_ms = ({turn: list[float]() for turn in WINDOWS} for _ in range(3))
    everything: list[Turn] = []
    for _ in range(stage.count(CONVERSATIONS, quick=1)):
        for messages, measured in ((False, without), (True, with_messages)):
            turns = stage.serving.turns("conversation", messages=messages, **asked)
            everything += turns
            _note(measured, turns, stage.model_times("long")[-TURNS:])
        turns = stage.bare_turns("agent_conversation", **asked)
        everything += turns
        _note(bare_ms, turns, stage.model_times("long")[-TURNS:])
    for label, measured in (("?messages=false", without), ("with messages", with_messages)):
        above = {turn: stages.differences(measured[turn], bare_ms[turn]) for turn in WINDOWS}
        early = statistics.median(above[2])
        part.rows += [
            Row(
                f"turn {late} above bare, less turn 2 above bare, {label}",
                "ms",
                [value - early for value in above[late]],
                bound=Bound(at_most=NOISE_MS) if late == 50 else None,
            )
            for late in (50, 100)
        ]
        part.rows += [
            Row(f"turn {turn}, {label}", "ms", measured[turn], bare_ms[turn]) for turn in WINDOWS
        ]
    part.rows += [Row(f"floor: bare agent, turn {turn}", "ms", bare_ms[turn]) for turn in WINDOWS]
    part.notes.append(stages.require_right(everything))
    part.notes.append(
        f"Turn N stands for {len(WINDOWS[2])} turns around N; the bare agent is given the same "
        f"history. The bound allows {NOISE_MS:g} ms for noise."
    )
    return part


def _note(measured: Measured, turns: Sequence[Turn], model: Sequence[ModelTime]) -> None:
    above_ms = stages.above_model_ms(turns, model)
    for turn, window in WINDOWS.items():
        measured[turn] += [above_ms[number - 1] for number in window]
