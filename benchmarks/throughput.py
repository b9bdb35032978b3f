"""How many one-step turns a second one server finishes, what they cost, and whether any is lost."""

from dataclasses import dataclass, field

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Stage
from benchmarks.turn import Turn

CHUNKS = 100
TURNS = {1: 100, 16: 250, 64: 250}  # by how many are under way at a time
BOUNDS = {16: Bound(at_least=30)}

# "No slower", as far as two such runs on the same machine agree at all.
NOISE = 0.05


@dataclass(slots=True)
class Measured:
    """At one concurrency, a sample a round."""

    rates: list[float] = field(default_factory=list[float])
    server_ms: list[float] = field(default_factory=list[float])
    postgres_ms: list[float] = field(default_factory=list[float])
    turns: list[Turn] = field(default_factory=list[Turn])

    def measure(self, stage: Stage, text: str, *, concurrency: int, count: int) -> None:
        """One round, by one client in a process of its own."""
        before = stage.serving.cpu()
        turns = stage.serving.turns(
            "turns",
            prompt=stages.prompt("load"),
            expected=text,
            count=count,
            concurrency=concurrency,
        )
        used = stage.serving.cpu()
        elapsed_s = max(turn.ended_at for turn in turns) - min(turn.sent_at for turn in turns)
        self.rates.append(count / elapsed_s)
        self.server_ms.append((used.server_s - before.server_s) * 1000 / count)
        self.postgres_ms.append((used.postgres_s - before.postgres_s) * 1000 / count)
        self.turns += turns


def run(stage: Stage) -> Part:
    """Each concurrency in turn, several times."""
    part = Part("throughput", "one-step turns of new workers, 100 chunks each")
    text = stage.script_text("load", "load-bare", chunks=CHUNKS)
    warm = Measured()
    warm.measure(stage, text, concurrency=16, count=32)
    measured = {concurrency: Measured() for concurrency in TURNS}
    for _ in range(stage.count(3, quick=1)):
        for concurrency, full in TURNS.items():
            count = stage.count(full, quick=full // 2)
            measured[concurrency].measure(stage, text, concurrency=concurrency, count=count)
    bare_ms = _bare_cpu_ms(stage, text)
    pairs = zip(measured[16].rates, measured[64].rates, strict=True)
    ratios = [more / some for some, more in pairs]
    part.rows = [
        Row("64 at a time over 16", "x", ratios, bound=Bound(at_least=1 - NOISE)),
        Row("floor: CPU of a bare agent.run", "ms", bare_ms),
    ]
    for n, m in measured.items():
        part.rows += [
            Row(f"turns, {n} at a time", "1/s", m.rates, bound=BOUNDS.get(n)),
            Row(f"one turn, {n} at a time", "ms", [turn.took_ms for turn in m.turns]),
            Row(f"server CPU a turn, {n} at a time", "ms", m.server_ms, bare_ms),
            Row(f"PostgreSQL CPU a turn, {n} at a time", "ms", m.postgres_ms),
        ]
    everything = [turn for m in (warm, *measured.values()) for turn in m.turns]
    calls = len(stage.model_times("load"))
    assert calls == len(everything), f"{calls} model calls for {len(everything)} turns"
    part.notes.append(stages.require_right(everything) + " One model call each, none lost.")
    return part


def _bare_cpu_ms(stage: Stage, text: str) -> list[float]:
    asked = {"prompt": stages.prompt("load-bare"), "expected": text}
    stage.bare_turns("agent_turns", count=10, **asked)
    return [turn.cpu_ms for turn in stage.bare_turns("agent_turns", count=50, **asked)]
