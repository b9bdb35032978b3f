"""Prints answers for people."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markdown import Markdown
from rich.style import Style
from rich.table import Table
from rich.text import Text

from handinger.cli.output import note
from handinger.cli.wording import age, bytes_size, counted, duration, money, one_line, printable

if TYPE_CHECKING:
    from handinger.sdk.models import File, TurnPage, Usage, Worker, WorkerPage


def stdout() -> Console:
    """The console for answers. NO_COLOR is honoured."""
    return Console(highlight=False)


def stderr() -> Console:
    """The console for everything else."""
    return Console(stderr=True, highlight=False)


def show_worker(worker: Worker) -> None:
    """A worker, for a person: its latest answer and what it took."""
    console = stdout()
    if worker.running:
        console.print(Text(printable(worker.status), style="bold"))
    if worker.output_text:
        console.print(prose(worker.output_text))
    show_closing(console, worker)


def show_workers(page: WorkerPage) -> None:
    """Workers, for a person."""
    console = stdout()
    table = Table("worker", "status", "age", "USD", "answer", box=None, pad_edge=False)
    for worker in page.workers:
        table.add_row(
            Text(printable(worker.id)),
            Text(printable(worker.status if worker.error is None else "failed")),
            Text("" if worker.created_at is None else age(worker.created_at), no_wrap=True),
            money(worker.usage.cost_usd) if worker.usage else "",
            Text(one_line(worker.output_text), no_wrap=True, overflow="ellipsis"),
        )
    _show_whole(table, [worker.id for worker in page.workers])
    console.print(table if page.workers else "No workers yet.")
    if page.next_cursor:
        note(f"More: handinger workers list --cursor {page.next_cursor}")


def show_turns(page: TurnPage, worker_id: str) -> None:
    """Turns, for a person."""
    table = (
        (
            turn.id,
            "failed" if turn.error else turn.status,
            turn.source,
            money(turn.usage.cost_usd) if turn.usage else "",
            one_line(turn.input, limit=60),
        )
        for turn in page.turns
    )
    stdout().print(rows(table, "turn", "status", "source", "USD", "input"))
    if page.next_cursor:
        note(f"More: handinger workers turns {worker_id} --cursor {page.next_cursor}")


def show_files(worker: Worker) -> None:
    """The published files, for a person."""
    console = stdout()
    for file in worker.files:
        console.print(_file_line(file), soft_wrap=True)
    if not worker.files:
        console.print("No files.")


@contextmanager
def progress(name: str) -> Generator[Callable[[int, int | None], None]]:
    """A bar on the error output; gives what is to be called with the bytes so far and in all."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    named = TextColumn("{task.description}", markup=False)
    columns = (named, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(one_line(name, limit=40), total=None)

        def tell(received: int, total: int | None) -> None:
            bar.update(task, completed=received, total=total)

        yield tell


def prose(text: str) -> Markdown:
    """What a model wrote, which is Markdown as a rule."""
    # Not every terminal shows links behind words, so the addresses stay visible.
    return Markdown(printable(text), hyperlinks=False)


def show_closing(console: Console, worker: Worker) -> None:
    """The end of an answer: what is wrong with it, its files, its price, and how to go on."""
    lines = [Text()]
    if worker.error is not None:
        which = "the turn before failed" if worker.running else "failed"
        what = f"{which}: {worker.error.code}: {worker.error.message}"
        lines.append(Text(printable(what), style="bold red"))
    if worker.incomplete_details is not None:
        why = printable(worker.incomplete_details.reason)
        lines.append(Text(f"cut short: {why}", style="yellow"))
    lines.extend(_file_line(file) for file in worker.files)
    lines.append(Text(cost_line(worker), style="dim"))
    hint = f'continue: handinger workers continue {worker.id} --input "..."'
    lines.append(Text(printable(hint), style="dim"))
    for line in lines:
        # Addresses and commands are copied, so only the terminal itself may break them.
        console.print(line, soft_wrap=True)


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


def rows(table: Iterable[tuple[str, ...]], *titles: str) -> Table:
    """A table without lines, which can be copied from."""
    listed = list(table)
    made = Table(*titles, box=None, pad_edge=False, show_header=bool(titles))
    for row in listed:
        made.add_row(*(Text(one_line(cell, limit=1000)) for cell in row))
    _show_whole(made, [row[0] for row in listed])
    return made


def _show_whole(table: Table, ids: Sequence[str]) -> None:
    """However narrow the terminal is, ids in the first column can be copied."""
    if table.columns:
        table.columns[0].min_width = max(map(len, ids), default=0)
        table.columns[0].no_wrap = True


def _file_line(file: File) -> Text:
    line = Text("file  ", style="dim")
    name = one_line(file.filename or "(unnamed)", limit=1000)
    line.append(name, style=Style(dim=False, bold=True, link=printable(file.url) or None))
    line.append(f"  {bytes_size(file.size)}  {printable(file.url)}")
    return line


def _turn_usage(worker: Worker) -> Usage | None:
    from handinger.sdk.models import Usage

    usage = worker.messages[-1].metadata.get("usage") if worker.messages else None
    return Usage.model_validate(usage) if isinstance(usage, dict) else None
