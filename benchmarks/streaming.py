"""What a streamed turn of 500 chunks costs the server's processor, against the bare agent."""

import statistics

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Stage
from benchmarks.turn import Turn

CHUNKS = 500
# So that each chunk arrives by itself; a model is slower still.
CHUNK_DELAY_S = 0.002
# Short rounds: a processor's pace changes within seconds, and the three are compared by round.
TURNS_A_ROUND = 2


def run(stage: Stage) -> Part:
    """The three readers in turn. CPU, not time: the pace of the chunks sets the time."""
    pace = f"{CHUNK_DELAY_S * 1000:g} ms apart"
    part = Part("streaming", f"CPU of one streamed turn of {CHUNKS} chunks, {pace}")
    text = stage.script_text("stream", chunks=CHUNKS, chunk_delay_s=CHUNK_DELAY_S)
    count = TURNS_A_ROUND
    asked = {"prompt": stages.prompt("stream"), "expected": text}
    server_ms, postgres_ms, agent_ms, parse_ms = (list[float]() for _ in range(4))
    everything = stage.serving.turns("streamed_turns", count=1, **asked)
    for name in ("agent_streams", "parsed_streams"):
        everything += stage.bare_turns(name, count=1, **asked)
    for _ in range(stage.count(8, quick=2)):
        before = stage.serving.cpu()
        everything += stage.serving.turns("streamed_turns", count=count, **asked)
        used = stage.serving.cpu()
        server_ms.append((used.server_s - before.server_s) * 1000 / count)
        postgres_ms.append((used.postgres_s - before.postgres_s) * 1000 / count)
        for name, samples in (("agent_streams", agent_ms), ("parsed_streams", parse_ms)):
            turns = stage.bare_turns(name, count=count, **asked)
            samples.append(_mean_cpu_ms(turns))
            everything += turns
    ratios = [ours / theirs for ours, theirs in zip(server_ms, agent_ms, strict=True)]
    idle_ms, idle_postgres_ms = stages.idle_cpu_ms(stage.serving)
    part.rows = [
        Row("server over bare agent", "x", ratios, bound=Bound(at_most=1.2)),
        Row("server CPU a turn", "ms", server_ms, agent_ms),
        Row("PostgreSQL CPU a turn", "ms", postgres_ms),
        Row("floor: bare agent reading the stream", "ms", agent_ms),
        Row("floor: the stream's lines parsed as JSON", "ms", parse_ms),
        Row("server CPU a second when idle", "ms", [idle_ms]),
        Row("PostgreSQL CPU a second when idle", "ms", [idle_postgres_ms]),
    ]
    part.notes.append(stages.require_right(everything))
    part.notes.append(f"Each sample is the mean of {count} turns in a row.")
    return part


def _mean_cpu_ms(turns: list[Turn]) -> float:
    return statistics.mean(turn.cpu_ms for turn in turns)
