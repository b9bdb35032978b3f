"""`handinger workers ...`: everything here goes through the SDK."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cyclopts import App, Parameter

from handinger.cli import contents, following, output, wording
from handinger.cli.arguments import read_mapping
from handinger.cli.examples import example
from handinger.cli.following import Instruction, Place
from handinger.cli.listing import Listing
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
    from handinger.sdk.client import Handinger
    from handinger.sdk.operations import CreateParams

app = App(name="workers", help_format="plaintext")

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
        listing = Listing("workers", limit, cursor, max_items, options)
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
        listing = Listing("turns", limit, cursor, max_items, options)
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
    output.show_answer(answer, options, pretty=lambda: output.note(f"Deleted {worker_id}."))


@app.command(help_epilogue=example('handinger workers retrieve-email "$WORKER" -r'))
def retrieve_email(worker_id: WorkerId, *, options: Given) -> None:
    """Show the address of a worker; what is sent there is an instruction."""
    with options.client() as client:
        answer = client.workers.with_raw_response.retrieve_email(worker_id)
    output.show_answer(
        answer, options, pretty=lambda: output.write_text(wording.printable(answer.json()) + "\n")
    )


@app.command(
    help_epilogue=example('handinger workers retrieve-file "$WORKER" result.txt -o copy.txt')
)
def retrieve_file(
    worker_id: WorkerId,
    file_path: Annotated[str, Parameter(help="The file's path in the worker's workspace.")],
    *,
    target: contents.Target = None,
    options: Given,
) -> None:
    """Fetch a file of a worker."""
    with options.client() as client:
        if target is not None and contents.is_file(target):
            _download(client, worker_id, file_path, target)
        elif contents.is_for_a_person(target):
            file = client.workers.retrieve_file(file_path, worker_id=worker_id)
            contents.print_text(file.content)
        else:
            client.workers.download_file(file_path, worker_id=worker_id, to=sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _download(client: Handinger, worker_id: str, file_path: str, target: Path) -> None:
    with contents.writing(target):
        if sys.stderr.isatty():
            from handinger.cli.pretty import progress

            with progress(file_path) as told:
                done = client.workers.download_file(
                    file_path, worker_id=worker_id, to=target, progress=told
                )
        else:
            done = client.workers.download_file(file_path, worker_id=worker_id, to=target)
    contents.told(target, done.size)
