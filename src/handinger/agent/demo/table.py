"""Finds a table in a text (CSV or the like, or Markdown) and adds up its columns of numbers."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import groupby

from handinger.agent.demo import arithmetic
from handinger.agent.demo.arithmetic import Quantity

_DELIMITERS = "|\t;,"
_MAX_LINES = 20_000
_MAX_LINE_CHARACTERS = 20_000
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3}){1,10}|\d{1,30})(?:\.\d{1,30})?")
_WORD = re.compile(r"[^\W_]+")
_DECORATION = "$€£% \t"
_MARKDOWN_RULE = re.compile(r"[-:]{3,}")
_NUMERIC_SHARE = 0.8
# More digits than any sum of numbers that fit `_NUMBER` can have.
_EXACT_DIGITS = 100


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    numbers: tuple[Decimal, ...]

    def total(self) -> Fraction:
        with localcontext() as context:
            context.prec = _EXACT_DIGITS
            return Fraction(sum(self.numbers, Decimal(0)))


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` are those of numbers; `covers` is the table's share of the text's lines."""

    names: tuple[str, ...]
    rows: int
    columns: tuple[Column, ...]
    covers: float


def find(text: str) -> Table | None:
    """The largest table in the text that has a column of numbers."""
    lines = text.split("\n")[:_MAX_LINES]
    filled = sum(1 for line in lines if line.strip()) or 1
    best: Table | None = None
    for has_text, group in groupby(lines, key=lambda line: bool(line.strip())):
        block = list(group)
        if not has_text or len(block) < 2:
            continue
        for delimiter in _DELIMITERS:
            table = _read(block, delimiter, filled)
            if table and (best is None or table.rows > best.rows):
                best = table
    return best


def totals(table: Table, wanted: str = "") -> str:
    """A Markdown table with count, total, mean, least and greatest of each column.

    With `wanted`, only the columns whose names occur in it, if there are any.
    """
    wanted = _worded(wanted)
    named = [column for column in table.columns if _worded(column.name) in wanted]
    lines = [
        "| column | values | total | mean | min | max |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for column in named or table.columns:
        total = column.total()
        least, greatest = Fraction(min(column.numbers)), Fraction(max(column.numbers))
        numbers = (total, total / len(column.numbers), least, greatest)
        cells = [column.name, str(len(column.numbers)), *map(_short, numbers)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _worded(text: str) -> str:
    """The words alone, each between spaces, so that whole words are found."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _short(value: Fraction) -> str:
    written = arithmetic.written(Quantity(value))
    return written.partition(" (")[0] if "/" in written else written


def _read(block: Sequence[str], delimiter: str, filled: int) -> Table | None:
    if sum(delimiter in line for line in block) < 2:
        return None
    if any(len(line) > _MAX_LINE_CHARACTERS for line in block):
        return None
    rows = _cells(block, delimiter)
    widths = Counter(len(row) for row in rows)
    width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
    rows = [row for row in rows if len(row) == width]
    if width < 2 or count < 2:
        return None
    header = rows[0] if not any(_number(cell) is not None for cell in rows[0]) else None
    body = rows[1:] if header else rows
    names = header or [f"column {index + 1}" for index in range(width)]
    columns = tuple(
        column
        for index, name in enumerate(names)
        if (column := _column(name or f"column {index + 1}", [row[index] for row in body]))
    )
    if not columns:
        return None
    return Table(names=tuple(names), rows=len(body), columns=columns, covers=len(rows) / filled)


def _cells(block: Sequence[str], delimiter: str) -> list[list[str]]:
    if delimiter == "|":
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block]
        return [row for row in rows if not all(_MARKDOWN_RULE.fullmatch(cell) for cell in row)]
    try:
        parsed = list(csv.reader(block, delimiter=delimiter))
    except csv.Error:  # A stray quotation mark; then it is no table that could be trusted.
        return []
    return [[cell.strip() for cell in row] for row in parsed if row]


def _column(name: str, cells: Sequence[str]) -> Column | None:
    filled = [cell for cell in cells if cell]
    numbers = [number for cell in filled if (number := _number(cell)) is not None]
    if not numbers or len(numbers) < _NUMERIC_SHARE * len(filled):
        return None
    return Column(name=name, numbers=tuple(numbers))


def _number(cell: str) -> Decimal | None:
    bare = cell.strip(_DECORATION)
    return Decimal(bare.replace(",", "")) if _NUMBER.fullmatch(bare) else None
