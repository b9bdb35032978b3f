"""Prints answers: JSON for programs, something to read for people.

What comes from a model or a tool is made harmless first: it must not steer the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pydantic import JsonValue

    from handinger.cli.options import Shape
    from handinger.sdk.models import ApiObject, File, JsonObject, Usage, Worker, WorkerPage

# All control characters but tab and line feed; among them ESC, which begins terminal commands.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}

_UNITS = ("B", "kB", "MB", "GB")


def printable(text: str) -> str:
    """The text without control characters."""
    return text.translate(_CONTROLS)


def stdout() -> Console:
    """The console for answers. NO_COLOR is honoured."""
    return Console(highlight=False)


def stderr() -> Console:
    """The console for everything else."""
    return Console(stderr=True, highlight=False)


def write_json(value: JsonValue, *, indent: int | None = None) -> None:
    """One JSON document on the standard output, at once."""
    separators = None if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_object(answer: ApiObject, shape: Shape) -> None:
    """An answer for programs."""
    write_json(answer.to_dict(), indent=2 if shape == "json" else None)


def write_records(records: Sequence[JsonObject], shape: Shape) -> None:
    """A list for programs: one array, or for `jsonl` a line each."""
    if shape == "jsonl":
        for record in records:
            write_json(record)
    else:
        write_json(list(records), indent=2 if shape == "json" else None)


def note(message: str) -> None:
    """A line for a person, which is no part of the answer."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def show_worker(worker: Worker) -> None:
    """A worker, for a person: its latest answer and what it took."""
    console = stdout()
    if worker.running:
        console.print(f"[bold]{worker.status}[/bold]")
    if worker.output_text:
        console.print(prose(worker.output_text))
    console.print(closing(worker))


def show_workers(page: WorkerPage) -> None:
    """Workers, for a person."""
    console = stdout()
    table = Table("worker", "status", "created", "USD", "latest answer", box=None, pad_edge=False)
    for worker in page.workers:
        table.add_row(
            Text(printable(worker.id), no_wrap=True),
            worker.status if worker.error is None else "failed",
            "" if worker.created_at is None else moment(worker.created_at),
            money(worker.usage.cost_usd) if worker.usage else "",
            Text(one_line(worker.output_text), no_wrap=True, overflow="ellipsis"),
        )
    console.print(table if page.workers else "No workers yet.")
    if page.next_cursor:
        note(f"More: handinger workers list --cursor {page.next_cursor}")


def prose(text: str) -> Markdown:
    """What a model wrote, which is Markdown as a rule."""
    # Not every terminal shows links behind words, so the addresses stay visible.
    return Markdown(printable(text), hyperlinks=False)


def closing(worker: Worker) -> RenderableType:
    """The end of an answer: what is wrong with it, its files, its price, and how to go on."""
    lines: list[RenderableType] = [Text()]
    if worker.error is not None:
        what = f"failed: {worker.error.code}: {worker.error.message}"
        lines.append(Text(printable(what), style="bold red"))
    if worker.incomplete_details is not None:
        why = printable(worker.incomplete_details.reason)
        lines.append(Text(f"cut short: {why}", style="yellow"))
    lines.extend(_file_line(file) for file in worker.files)
    lines.append(Text(cost_line(worker), style="dim"))
    hint = f'{worker.id}  continue: handinger workers continue {worker.id} --input "..."'
    lines.append(Text(printable(hint), style="dim", no_wrap=True, overflow="ignore"))
    return Group(*lines)


def cost_line(worker: Worker) -> str:
    """Steps, tokens, dollars and time of the turn, or of the worker if the turn's are not told."""
    usage = _turn_usage(worker) or worker.usage
    model = worker.metadata.get("model")
    parts = [printable(model)] if isinstance(model, str) else []
    if usage is not None:
        parts += [
            counted(usage.steps, "step"),
            counted(usage.total_tokens, "token"),
            money(usage.cost_usd),
            duration(usage.duration_ms / 1000),
        ]
    return " · ".join(parts)


def counted(number: int, noun: str) -> str:
    """`1 step`, `1,234 tokens`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def money(usd: float) -> str:
    """US dollars; most turns cost less than a cent."""
    if usd == 0 or usd >= 1:
        return f"${usd:.2f}"
    return f"${usd:.4f}" if usd >= 0.0001 else "<$0.0001"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def one_line(text: str, *, limit: int = 200) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(printable(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def bytes_size(size: int) -> str:
    """`812 B`, `1.2 kB`."""
    amount, unit = float(size), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{size} B" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def moment(at: datetime | int) -> str:
    """A time, or Unix seconds, in the time zone of this machine."""
    aware = datetime.fromtimestamp(at, UTC) if isinstance(at, int) else at
    return aware.astimezone().strftime("%Y-%m-%d %H:%M")


def iso(at: datetime) -> str:
    """A time as it stands in JSON."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def rows(table: Iterable[tuple[str, ...]], *titles: str) -> Table:
    """A table without lines, which can be copied from."""
    made = Table(*titles, box=None, pad_edge=False, show_header=bool(titles))
    for row in table:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def _file_line(file: File) -> Text:
    line = Text("file  ", style="dim", no_wrap=True, overflow="ignore")
    line.append(printable(file.filename or "(unnamed)"), style="not dim bold")
    line.append(f"  {bytes_size(file.size)}  {printable(file.url)}")
    return line


def _turn_usage(worker: Worker) -> Usage | None:
    from handinger.sdk.models import Usage

    usage = worker.messages[-1].metadata.get("usage") if worker.messages else None
    return Usage.model_validate(usage) if isinstance(usage, dict) else None
