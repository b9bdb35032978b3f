"""`handinger workers ...`: everything here goes through the SDK."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter

from handinger.cli import following, output, wording
from handinger.cli.arguments import read_mapping
from handinger.cli.examples import example
from handinger.cli.failures import CommandError
from handinger.cli.following import Instruction, Place
from handinger.cli.parameters import (
    Budget,
    Cursor,
    Given,
    IdempotencyKey,
    Input,
    Limit,
    MaxItems,
    WorkerId,
)

if TYPE_CHECKING:
    from handinger.cli.options import Options
    from handinger.sdk.answers import FileContent
    from handinger.sdk.caller import APIResponse
    from handinger.sdk.client import Handinger
    from handinger.sdk.models import JsonObject
    from handinger.sdk.operations import CreateParams

app = App(name="workers", help_format="plaintext")

_LARGEST_PAGE = 100

Stream: TypeAlias = Annotated[
    bool | None,
    Parameter(help="Show what happens as it does. [default: in a terminal]", show_default=False),
]
Background: TypeAlias = Annotated[
    bool, Parameter(help="Return at once; the turn goes on by itself.", negative="")
]
Files: TypeAlias = Annotated[
    list[Path] | None,
    Parameter(name="--file", help="A file for its workspace; repeat it.", negative=""),
]
Messages: TypeAlias = Annotated[bool, Parameter(help="The conversation too.")]


@app.command(help_epilogue=example('handinger workers create --input "What is 12.5% of 240?"'))
def create(
    *,
    input: Input,
    budget: Budget = "standard",
    file: Files = None,
    metadata: Annotated[
        str | None, Parameter(help="An object of yours, in JSON or YAML, or @FILE.")
    ] = None,
    stream: Stream = None,
    background: Background = False,
    idempotency_key: IdempotencyKey = None,
    options: Given,
) -> int:
    """Create a worker and run its first turn."""
    params: CreateParams = {
        "input": input,
        "budget": budget,
        "files": file,
        "metadata": None if metadata is None else read_mapping(metadata, option="--metadata"),
        "idempotency_key": idempotency_key,
    }
    with options.client() as client:
        return following.carry_out(
            client, Instruction(params), options, stream=stream, background=background
        )


@app.command(
    name="continue",
    help_epilogue=example('handinger workers continue "$WORKER" --input "Now double it."'),
)
def continue_(
    worker_id: WorkerId,
    *,
    input: Input,
    budget: Budget = "standard",
    file: Files = None,
    stream: Stream = None,
    background: Background = False,
    idempotency_key: IdempotencyKey = None,
    options: Given,
) -> int:
    """Give a worker its next instruction."""
    params: CreateParams = {
        "input": input,
        "budget": budget,
        "files": file,
        "idempotency_key": idempotency_key,
    }
    with options.client() as client:
        return following.carry_out(
            client, Instruction(params, worker_id), options, stream=stream, background=background
        )


@app.command(
    help_epilogue=example('handinger workers retrieve "$WORKER" --transform output_text -r')
)
def retrieve(worker_id: WorkerId, *, messages: Messages = True, options: Given) -> None:
    """Show a worker as it is now."""
    with options.client() as client:
        answer = client.workers.with_raw_response.retrieve(worker_id, messages=messages)
        following.show_worker(answer, options)


@app.command(
    name="list",
    help_epilogue=example("handinger workers list --status completed --max-items 3 --format jsonl"),
)
def list_(
    *,
    limit: Limit = None,
    cursor: Cursor = None,
    max_items: MaxItems = None,
    status: Annotated[
        Literal["pending", "running", "completed"] | None, Parameter(help="Only these.")
    ] = None,
    options: Given,
) -> None:
    """List workers, newest first."""
    with options.client() as client:
        listing = _Listing("workers", limit, cursor, max_items, options)
        page = listing.show(
            lambda limit, cursor: client.workers.with_raw_response.list(
                limit=limit, cursor=cursor, status=status
            )
        )
    if page is not None:
        from handinger.cli import pretty
        from handinger.sdk.models import WorkerPage

        pretty.show_workers(WorkerPage.model_validate(page))


@app.command(help_epilogue=example('handinger workers turns "$WORKER"'))
def turns(
    worker_id: WorkerId,
    *,
    limit: Limit = None,
    cursor: Cursor = None,
    max_items: MaxItems = None,
    options: Given,
) -> None:
    """List the turns of a worker, newest first."""
    with options.client() as client:
        listing = _Listing("turns", limit, cursor, max_items, options)
        page = listing.show(
            lambda limit, cursor: client.workers.with_raw_response.turns(
                worker_id, limit=limit, cursor=cursor
            )
        )
    if page is not None:
        from handinger.cli import pretty
        from handinger.sdk.models import TurnPage

        pretty.show_turns(TurnPage.model_validate(page), worker_id)


@app.command(help_epilogue=example('handinger workers stream-updates "$WORKER" --format jsonl'))
def stream_updates(
    worker_id: WorkerId,
    *,
    last_event_id: Annotated[str | None, Parameter(help="Go on after this place.")] = None,
    messages: Messages = True,
    options: Given,
) -> int:
    """Show a worker's conversation, then what it does, until it is idle."""
    with options.client() as client:
        return following.show_stream(
            client,
            lambda: client.workers.stream_updates(
                worker_id, last_event_id=last_event_id, messages=messages
            ),
            options,
            unseen=lambda: Place(worker_id, last_event_id=last_event_id),
        )


@app.command(help_epilogue=example('handinger workers cancel "$WORKER"'))
def cancel(
    worker_id: WorkerId,
    *,
    turn_id: Annotated[str | None, Parameter(help="Only this turn.")] = None,
    options: Given,
) -> None:
    """Stop what a worker does, and drop what waits."""
    with options.client() as client:
        answer = client.workers.with_raw_response.cancel(worker_id, turn_id=turn_id)
        following.show_worker(answer, options)


@app.command(help_epilogue=example('handinger workers delete "$WORKER"'))
def delete(worker_id: WorkerId, *, options: Given) -> None:
    """Remove a worker, its conversation and its files."""
    with options.client() as client:
        answer = client.workers.with_raw_response.delete(worker_id)
    output.show_answer(
        answer, options, pretty=lambda: output.note(f"Deleted {wording.printable(worker_id)}.")
    )


@app.command(help_epilogue=example('handinger workers retrieve-email "$WORKER" -r'))
def retrieve_email(worker_id: WorkerId, *, options: Given) -> None:
    """Show the address of a worker; what is sent there is an instruction."""
    with options.client() as client:
        answer = client.workers.with_raw_response.retrieve_email(worker_id)
    output.show_answer(
        answer, options, pretty=lambda: sys.stdout.write(wording.printable(answer.json()) + "\n")
    )


@app.command(
    help_epilogue=example('handinger workers retrieve-file "$WORKER" result.txt -o copy.txt')
)
def retrieve_file(
    worker_id: WorkerId,
    file_path: Annotated[str, Parameter(help="The file's path in the worker's workspace.")],
    *,
    target: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="Write it here, not to the output.")
    ] = None,
    options: Given,
) -> None:
    """Fetch a file of a worker."""
    with options.client() as client:
        if target is not None and str(target) != "@-":
            _download(client, worker_id, file_path, target)
        elif target is None and sys.stdout.isatty():
            _print_text(client.workers.retrieve_file(file_path, worker_id=worker_id))
        else:
            client.workers.download_file(file_path, worker_id=worker_id, to=sys.stdout.buffer)
            sys.stdout.buffer.flush()


class _Listing:
    """One page, or with `--max-items` as many as it takes."""

    def __init__(
        self,
        name: str,
        limit: int | None,
        cursor: str | None,
        max_items: int | None,
        options: Options,
    ) -> None:
        if max_items is not None and max_items < 1:
            raise CommandError("--max-items must be at least 1.")
        self._name = name
        self._limit = limit
        self._cursor = cursor
        self._left = max_items
        self._options = options

    def show(
        self, fetch: Callable[[int | None, str | None], APIResponse[Any]]
    ) -> JsonObject | None:
        """Print the items; gives one page with all of them if a person is to see it instead."""
        shape = self._options.shape()
        items: list[Any] = []
        while True:
            answer = fetch(self._page_size(), self._cursor)
            page = answer.json()
            found, self._cursor = page.get(self._name, []), page.get("nextCursor")
            if shape == "jsonl":
                for item in found:
                    output.write(item, self._options)
            items += found
            if self._left is not None:
                self._left -= len(found)
            if not self._left or self._cursor is None or not found:
                break
        whole: JsonObject = {self._name: items, "nextCursor": self._cursor}
        if shape == "pretty" and not self._options.picks:
            return whole
        if shape != "jsonl":
            output.write(whole, self._options)
        return None

    def _page_size(self) -> int | None:
        if self._left is None:
            return self._limit
        return min(self._left, self._limit or _LARGEST_PAGE)


def _print_text(file: FileContent) -> None:
    if b"\0" in file.content:
        raise CommandError("The file is not text; use --output FILE.")
    sys.stdout.write(wording.printable(file.content.decode(errors="replace")))


def _download(client: Handinger, worker_id: str, file_path: str, target: Path) -> None:
    try:
        if sys.stderr.isatty():
            from handinger.cli.pretty import progress

            with progress(file_path) as told:
                done = client.workers.download_file(
                    file_path, worker_id=worker_id, to=target, progress=told
                )
        else:
            done = client.workers.download_file(file_path, worker_id=worker_id, to=target)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}.") from error
    output.note(f"Wrote {target} ({wording.bytes_size(done.size)}).")
