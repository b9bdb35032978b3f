"""What a part has measured: rows of samples, some with a bound, as Markdown and as JSON."""

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

RESULTS = Path(__file__).parent / "results"

_COLUMNS = ("measured", "unit", "n", "min", "median", "p95", "x floor", "bound")


@dataclass(frozen=True, slots=True)
class Bound:
    """What the median of a row may be."""

    at_most: float = math.inf
    at_least: float = -math.inf

    def is_met(self, median: float) -> bool:
        return self.at_least <= median <= self.at_most

    def __str__(self) -> str:
        if self.at_most < math.inf:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured several times; `floor` is the same without our server."""

    label: str
    unit: str
    samples: Sequence[float]
    floor: Sequence[float] = ()
    bound: Bound | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p95(self) -> float:
        """Of few samples, the largest."""
        return sorted(self.samples)[math.ceil(0.95 * len(self.samples)) - 1]

    @property
    def over_floor(self) -> float | None:
        return self.median / statistics.median(self.floor) if self.floor else None

    @property
    def is_met(self) -> bool | None:
        return self.bound.is_met(self.median) if self.bound else None

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return ""
        return f"{self.bound} {'met' if self.is_met else '**MISSED**'}"

    def cells(self) -> list[str]:
        numbers = (min(self.samples), self.median, self.p95)
        ratio = "" if self.over_floor is None else f"{self.over_floor:.2f}"
        count = str(len(self.samples))
        return [self.label, self.unit, count, *map(_number, numbers), ratio, self.verdict]

    def facts(self) -> dict[str, object]:
        return {
            "label": self.label,
            "unit": self.unit,
            "samples": list(self.samples),
            "median": self.median,
            "p95": self.p95,
            "over_floor": self.over_floor,
            "bound": str(self.bound) if self.bound else None,
            "met": self.is_met,
        }


@dataclass(slots=True)
class Part:
    """What one part of the benchmarks tells."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list[Row])
    notes: list[str] = field(default_factory=list[str])
    failure: str | None = None  # what ended it early; then it has no rows
    took_s: float = 0.0
    load_average: tuple[float, float] = (0.0, 0.0)  # over a minute, before and after

    def markdown(self) -> str:
        before, after = self.load_average
        measured = _table([_COLUMNS, *(row.cells() for row in self.rows)]) if self.rows else ()
        lines = [
            f"## {self.name}: {self.title}",
            "",
            *measured,
            *([f"**FAILED**: {self.failure}"] if self.failure else ()),
            "",
            *(f"- {note}" for note in self.notes),
            f"- Took {self.took_s:.0f} s; load average {before:.1f} before, {after:.1f} after.",
        ]
        return "\n".join(lines)

    def facts(self) -> dict[str, object]:
        return {
            "name": self.name,
            "title": self.title,
            "rows": [row.facts() for row in self.rows],
            "notes": self.notes,
            "failure": self.failure,
            "took_s": self.took_s,
            "load_average": self.load_average,
        }


def machine() -> str:
    """What the numbers were taken on."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} CPUs, {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def summary(parts: Sequence[Part]) -> str:
    """Every bound on one page, and which parts failed."""
    bounded = [(part, row) for part in parts for row in part.rows if row.bound is not None]
    met = sum(row.is_met is True for _, row in bounded)
    cells = [
        (part.name, row.label, f"{_number(row.median)} {row.unit}", row.verdict)
        for part, row in bounded
    ]
    return "\n".join(
        [
            "## Bounds",
            "",
            *_table([("part", "measured", "median", "bound"), *cells]),
            "",
            f"{met} of {len(bounded)} bounds met. {machine()}.",
            *(f"\n**FAILED** {part.name}: {part.failure}" for part in parts if part.failure),
        ]
    )


def write_json(parts: Sequence[Part]) -> Path:
    """Keep everything, each sample too, under the time of the run."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    facts = {
        "at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "parts": [part.facts() for part in parts],
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")
    return path


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )
    return [head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *body]


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
