"""How much later a reader sees the first word than one who reads the model directly."""

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Stage
from benchmarks.turn import Turn

CHUNKS = 100
PACES_S = {"chunks 2 ms apart": 0.002, "all at once": 0.0}


def run(stage: Stage) -> Part:
    """One turn at a time, a new worker each; our server, the bare agent and the model in turn."""
    part = Part("first_delta", "POST with stream=true to the first text delta")
    for label, chunk_delay_s in PACES_S.items():
        ours, agent, model = (list[Turn]() for _ in range(3))
        text = stage.script_text("first", chunks=CHUNKS, chunk_delay_s=chunk_delay_s)
        asked = {"prompt": stages.prompt("first"), "expected": text}
        stage.serving.turns("streamed_turns", count=2, **asked)
        stage.bare_turns("agent_streams", count=2, **asked)
        for _ in range(stage.rounds):
            count = stage.count(6, quick=3)
            ours += stage.serving.turns("streamed_turns", count=count, **asked)
            agent += stage.bare_turns("agent_streams", count=count, **asked)
            model += stage.bare_turns("first_deltas", count=count, **asked)
        part.notes.append(f"{label}: {stages.require_right([*ours, *agent, *model])}")
        part.rows += _rows(label, _first_ms(ours), _first_ms(agent), _first_ms(model))
    return part


def _first_ms(turns: list[Turn]) -> list[float]:
    return [turn.to_first_delta_ms for turn in turns]


def _rows(label: str, ours: list[float], agent: list[float], model: list[float]) -> list[Row]:
    above_model = stages.differences(ours, model)
    return [
        Row(f"above the model, {label}", "ms", above_model, bound=Bound(at_most=15)),
        Row(f"from our server, {label}", "ms", ours, agent),
        Row(f"floor: from the bare agent, {label}", "ms", agent),
        Row(f"floor: from the model, {label}", "ms", model),
    ]
