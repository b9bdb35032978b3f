"""Whether a turn costs more the longer its conversation is, beyond what the bare agent pays."""

import functools
import statistics
from collections.abc import Callable, Sequence

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Stage
from benchmarks.turn import Turn

CHUNKS = 100
TURNS = 100
# Our conversations and the bare agent's go on by so many turns at a time, so that noise meets all.
BLOCK = 5
# The turns that stand for an early, a late and a very late one.
WINDOWS = {2: range(2, 7), 50: range(48, 53), 100: range(96, 101)}

# What two medians of such samples differ by when nothing differs.
NOISE_MS = 1.0

Measured = dict[int, list[float]]  # by the number of the turn


def run(stage: Stage) -> Part:
    """A conversation with messages in the answer, one without, and the bare agent's, in turn."""
    part = Part("conversation", "a late turn against an early one, beside the model's own time")
    names = ("?messages=false", "with messages", "bare agent")
    scripts = {name: f"long-{number}" for number, name in enumerate(names)}
    text = stage.script_text(*scripts.values(), chunks=CHUNKS)
    stage.serving.turns("turns", prompt=stages.prompt("ok"), expected="", count=20)
    measured: dict[str, Measured] = {name: {turn: [] for turn in WINDOWS} for name in names}
    everything: list[Turn] = []
    for _ in range(stage.count(4, quick=1)):
        turns: dict[str, list[Turn]] = {name: [] for name in names}
        for first in range(0, TURNS, BLOCK):
            for name, ask in _asks(stage).items():
                asked = {"prompt": stages.prompt(scripts[name]), "expected": text}
                turns[name] += ask(**asked, count=BLOCK, anew=first == 0)
        for name in names:
            calls = stage.model_times(scripts[name])[-TURNS:]
            _note(measured[name], stages.above_model_ms(turns[name], calls))
            everything += turns[name]
    bare = measured.pop("bare agent")
    for name, ours in measured.items():
        part.rows += _rows(name, ours, bare)
    part.rows += [Row(f"floor: bare agent, turn {turn}", "ms", bare[turn]) for turn in WINDOWS]
    part.notes.append(stages.require_right(everything))
    part.notes.append(
        f"Turn N stands for {len(WINDOWS[2])} turns near N; the bare agent is given the same "
        f"history. The bound allows {NOISE_MS:g} ms for noise."
    )
    return part


def _asks(stage: Stage) -> dict[str, Callable[..., list[Turn]]]:
    ours = functools.partial(stage.serving.turns, "conversation")
    return {
        "?messages=false": functools.partial(ours, messages=False),
        "with messages": functools.partial(ours, messages=True),
        "bare agent": functools.partial(stage.bare_turns, "agent_conversation"),
    }


def _note(measured: Measured, above_model_ms: Sequence[float]) -> None:
    for turn, window in WINDOWS.items():
        measured[turn] += [above_model_ms[number - 1] for number in window]


def _rows(name: str, ours: Measured, bare: Measured) -> list[Row]:
    above = {turn: stages.differences(ours[turn], bare[turn]) for turn in WINDOWS}
    early = statistics.median(above[2])
    least = {turn: min(ours[turn]) - min(bare[turn]) for turn in WINDOWS}
    bounds = {50: Bound(at_most=NOISE_MS)}
    rows = [Row(f"turn {turn}, {name}", "ms", ours[turn], bare[turn]) for turn in WINDOWS]
    for late in (50, 100):
        label = f"turn {late} above bare, less turn 2 above bare"
        more = [value - early for value in above[late]]
        rows.append(Row(f"{label}, {name}", "ms", more, bound=bounds.get(late)))
        rows.append(Row(f"the same of the minima, {name}", "ms", [least[late] - least[2]]))
    return rows
