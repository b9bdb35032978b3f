"""`handinger workers ...`: everything here goes through the SDK."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cyclopts import App, Parameter

from handinger.cli import output, wording
from handinger.cli.arguments import read_object, read_text
from handinger.cli.failures import CommandError, ExitCode
from handinger.cli.options import Options

if TYPE_CHECKING:
    from handinger.sdk.models import Worker
    from handinger.sdk.operations import ContinueParams, CreateParams
    from handinger.sdk.streams import EventStream

app = App(name="workers", help_format="plaintext")

Given: TypeAlias = Annotated[Options, Parameter(parse=False)]
WorkerId: TypeAlias = Annotated[str, Parameter(help="The worker's id.")]
Input: TypeAlias = Annotated[
    str,
    Parameter(
        help="What to do. @FILE reads a file, @- the standard input; \\@ is an @ as such.",
        allow_leading_hyphen=True,
    ),
]
Budget: TypeAlias = Annotated[
    Literal["low", "standard", "high", "unlimited"], Parameter(help="The hard cap of this turn.")
]
Stream: TypeAlias = Annotated[bool, Parameter(help="Show what happens as it does.", negative="")]
Background: TypeAlias = Annotated[
    bool, Parameter(help="Return at once; the turn goes on by itself.", negative="")
]
IdempotencyKey: TypeAlias = Annotated[
    str | None, Parameter(help="The same key within 24 hours joins the first request.")
]
Messages: TypeAlias = Annotated[bool, Parameter(help="The conversation too.")]


@app.command
def create(
    *,
    input: Input,
    budget: Budget = "standard",
    metadata: Annotated[str | None, Parameter(help="A JSON object of yours, or @FILE.")] = None,
    stream: Stream = False,
    background: Background = False,
    idempotency_key: IdempotencyKey = None,
    options: Given,
) -> int:
    """Create a worker and run its first turn."""
    params: CreateParams = {
        "input": read_text(input),
        "budget": budget,
        "metadata": None if metadata is None else read_object(metadata, option="--metadata"),
        "idempotency_key": idempotency_key,
    }
    _refuse_both(stream=stream, background=background)
    with options.client() as client:
        with _waiting("handinger workers list"):
            answer = (
                client.workers.create(stream=True, **params)
                if stream
                else client.workers.create(background=background, **params)
            )
        return _show_answer(answer, options)


@app.command(name="continue")
def continue_(
    worker_id: WorkerId,
    *,
    input: Input,
    budget: Budget = "standard",
    stream: Stream = False,
    background: Background = False,
    idempotency_key: IdempotencyKey = None,
    options: Given,
) -> int:
    """Give a worker its next instruction."""
    params: ContinueParams = {
        "input": read_text(input),
        "budget": budget,
        "idempotency_key": idempotency_key,
    }
    _refuse_both(stream=stream, background=background)
    with options.client() as client:
        with _waiting(f"handinger workers stream-updates {worker_id}"):
            answer = (
                client.workers.continue_(worker_id, stream=True, **params)
                if stream
                else client.workers.continue_(worker_id, background=background, **params)
            )
        return _show_answer(answer, options)


@app.command
def retrieve(worker_id: WorkerId, *, messages: Messages = True, options: Given) -> None:
    """Show a worker as it is now."""
    with options.client() as client:
        _show_worker(client.workers.retrieve(worker_id, messages=messages), options)


@app.command(name="list")
def list_(
    *,
    limit: Annotated[int | None, Parameter(help="At most so many, 1 to 100.")] = None,
    cursor: Annotated[str | None, Parameter(help="Where the page before this one ended.")] = None,
    status: Annotated[
        Literal["pending", "running", "completed"] | None, Parameter(help="Only these.")
    ] = None,
    options: Given,
) -> None:
    """List workers, newest first."""
    with options.client() as client:
        page = client.workers.list(limit=limit, cursor=cursor, status=status)
    shape = options.shape()
    if shape == "pretty":
        from handinger.cli import pretty

        pretty.show_workers(page)
    elif shape == "jsonl":
        for worker in page.workers:
            output.write_object(worker, shape)
    else:
        output.write_object(page, shape)


@app.command
def stream_updates(
    worker_id: WorkerId,
    *,
    last_event_id: Annotated[str | None, Parameter(help="Go on after this place.")] = None,
    messages: Messages = True,
    options: Given,
) -> int:
    """Show a worker's conversation, then what it does, until it is idle."""
    with options.client() as client:
        events = client.workers.stream_updates(
            worker_id, last_event_id=last_event_id, messages=messages
        )
        return _show_stream(events, options)


@app.command
def cancel(
    worker_id: WorkerId,
    *,
    turn_id: Annotated[str | None, Parameter(help="Only this turn.")] = None,
    options: Given,
) -> None:
    """Stop what a worker does, and drop what waits."""
    with options.client() as client:
        _show_worker(client.workers.cancel(worker_id, turn_id=turn_id), options)


@app.command
def delete(worker_id: WorkerId, *, options: Given) -> None:
    """Remove a worker, its conversation and its files."""
    with options.client() as client:
        deletion = client.workers.delete(worker_id)
    shape = options.shape()
    if shape == "pretty":
        output.note(f"Deleted {worker_id}.")
    else:
        output.write_object(deletion, shape)


@app.command
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
        content = client.workers.retrieve_file(file_path, worker_id=worker_id).read()
    if target is not None and str(target) != "-":
        _write_file(target, content)
    elif target is None and sys.stdout.isatty() and b"\0" in content:
        raise CommandError(f"{file_path} is not text; use --output FILE.")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _refuse_both(*, stream: bool, background: bool) -> None:
    if stream and background:
        raise CommandError("--stream and --background exclude each other.")


def _write_file(target: Path, content: bytes) -> None:
    try:
        target.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}.") from error
    output.note(f"Wrote {target} ({wording.bytes_size(len(content))}).")


@contextmanager
def _waiting(how_to_return: str) -> Generator[None]:
    """Show that something goes on, and say where it goes on if nobody waits for it any more."""
    with _spinner():
        try:
            yield
        except KeyboardInterrupt:
            output.note(f"Detached; the turn goes on. See it with: {how_to_return}")
            raise


def _spinner() -> AbstractContextManager[object]:
    if not sys.stderr.isatty():
        return nullcontext()
    from handinger.cli.pretty import stderr

    return stderr().status("working")


def _show_answer(answer: Worker | EventStream, options: Options) -> int:
    from handinger.sdk.models import Worker

    if isinstance(answer, Worker):
        return _show_turn(answer, options)
    return _show_stream(answer, options)


def _show_turn(worker: Worker, options: Options) -> int:
    _show_worker(worker, options)
    if worker.error is None:
        return ExitCode.OK
    if options.shape() != "pretty":
        error = f"{worker.error.code}: {worker.error.message}"
        output.note(f"error: {wording.printable(error)}")
    return ExitCode.FAILED


def _show_worker(worker: Worker, options: Options) -> None:
    shape = options.shape()
    if shape == "pretty":
        from handinger.cli import pretty

        pretty.show_worker(worker)
    else:
        output.write_object(worker, shape)


def _show_stream(events: EventStream, options: Options) -> int:
    with events:
        try:
            if options.shape(streamed=True) == "pretty":
                return _view(events)
            return _print_events(events, options)
        except KeyboardInterrupt:
            output.note(_farewell(events))
            return ExitCode.INTERRUPTED


def _view(events: EventStream) -> int:
    from handinger.cli.live import LiveView
    from handinger.cli.pretty import stdout

    view = LiveView(stdout())
    view.follow(events)
    return ExitCode.FAILED if view.failed else ExitCode.OK


def _print_events(events: EventStream, options: Options) -> int:
    shape = options.shape(streamed=True)
    failure: str | None = None
    for event in events:
        if shape == "raw":
            sys.stdout.write(f"id: {event.id}\n" if event.id else "")
            sys.stdout.write("data: ")
        output.write_json(event.data, indent=2 if shape == "json" else None)
        if shape == "raw":
            sys.stdout.write("\n")
        if event.is_terminal:
            failure = str(event.data.get("errorText")) if event.type == "error" else None
    if failure is None:
        return ExitCode.OK
    output.note(f"error: {wording.printable(failure)}")
    return ExitCode.FAILED


def _farewell(events: EventStream) -> str:
    if events.worker_id is None:
        return "Detached; the turn goes on. See it with: handinger workers list"
    place = f" --last-event-id {events.last_event_id}" if events.last_event_id else ""
    return (
        "Detached; the turn goes on.\n"
        f"  come back: handinger workers stream-updates {events.worker_id}{place}\n"
        f"  stop it:   handinger workers cancel {events.worker_id}"
    )
