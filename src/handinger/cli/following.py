"""A turn from the command line: started, watched or waited for, and left with Ctrl-C."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from handinger.cli import output
from handinger.cli.failures import CommandError, ExitCode, TurnFailed

if TYPE_CHECKING:
    from handinger.cli.options import Options
    from handinger.sdk.caller import APIResponse
    from handinger.sdk.client import Handinger
    from handinger.sdk.models import Worker
    from handinger.sdk.operations import CreateParams
    from handinger.sdk.streams import EventStream

# For so long after Ctrl-C another one cancels the turn.
SECOND_CHANCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a worker is told; a new one if it has no id yet."""

    params: CreateParams
    worker_id: str | None = None

    def ask(self, client: Handinger, *, background: bool = False) -> APIResponse[Worker]:
        """Send it, and wait for the end of its turn unless it is for the `background`."""
        methods = client.workers.with_raw_response
        if self.worker_id is None:
            return methods.create(background=background, **self.params)
        return methods.continue_(self.worker_id, background=background, **self.params)

    def stream(self, client: Handinger) -> EventStream:
        """Send it, and be told what happens."""
        if self.worker_id is None:
            return client.workers.create(stream=True, **self.params)
        return client.workers.continue_(self.worker_id, stream=True, **self.params)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command stopped to look."""

    worker_id: str | None
    turn_id: str | None = None
    last_event_id: str | None = None

    @property
    def farewell(self) -> str:
        if self.worker_id is None:
            return "Detached; the turn goes on. See it with: handinger workers list"
        place = f" --last-event-id {self.last_event_id}" if self.last_event_id else ""
        turn = f" --turn-id {self.turn_id}" if self.turn_id else ""
        return (
            "Detached; the turn goes on.\n"
            f"  come back: handinger workers stream-updates {self.worker_id}{place}\n"
            f"  stop it:   handinger workers cancel {self.worker_id}{turn}"
            "  (or Ctrl-C again, now)"
        )


def carry_out(
    client: Handinger,
    instruction: Instruction,
    options: Options,
    *,
    stream: bool | None,
    background: bool,
) -> int:
    """Have an instruction carried out, and show what comes of it as the options say.

    Raises TurnFailed if the turn does.
    """
    if stream and background:
        raise CommandError("--stream and --background exclude each other.")
    if stream is None:
        stream = not background and options.format == "auto" and options.shape() == "pretty"
    # With a key of our own, the same request finds the turn again when it is not waited for.
    key = instruction.params.get("idempotency_key") or str(uuid.uuid4())
    instruction = replace(instruction, params={**instruction.params, "idempotency_key": key})
    if stream:
        return show_stream(
            client,
            lambda: instruction.stream(client),
            options,
            unseen=lambda: _find(instruction, options),
        )

    def wait() -> int:
        with _spinner():
            answer = instruction.ask(client, background=background)
        if background:
            # Nothing is known of the turn yet: an error that the answer tells is of an older one.
            show_worker(answer, options)
            return ExitCode.OK
        return show_turn(answer, options)

    return _detachable(client, wait, lambda: _find(instruction, options))


def show_turn(answer: APIResponse[Worker], options: Options) -> int:
    """The worker after its turn. Raises TurnFailed if that failed."""
    show_worker(answer, options)
    error: Any = answer.json().get("error")
    if error is not None:
        what = f"{error.get('code')}: {error.get('message')}"
        raise TurnFailed(what, code=error.get("code"))
    return ExitCode.OK


def show_worker(answer: APIResponse[Worker], options: Options) -> None:
    """A worker as it is now."""

    def pretty() -> None:
        from handinger.cli import pretty

        pretty.show_worker(answer.parse())

    output.show_answer(answer, options, pretty=pretty)


def show_stream(
    client: Handinger,
    connect: Callable[[], EventStream],
    options: Options,
    *,
    unseen: Callable[[], Place],
) -> int:
    """Events as they come: live for a person, else each by itself.

    `unseen` says where to look when there was no event yet. Raises TurnFailed if the last turn
    failed.
    """
    stream: EventStream | None = None

    def watch() -> int:
        nonlocal stream
        with connect() as events:
            stream = events
            if options.shape(streamed=True) == "pretty" and not options.picks:
                return _view(client, events)
            return _print_events(events, options)

    def place() -> Place:
        if stream is None or stream.worker_id is None:
            return unseen()
        told = stream.last_event_id
        turn_id = stream.turn_id or (told.rpartition("-")[0] if told else None)
        return Place(stream.worker_id, turn_id, told)

    return _detachable(client, watch, place)


def _detachable(client: Handinger, act: Callable[[], int], place: Callable[[], Place]) -> int:
    """Ctrl-C leaves the turn alone and says how to come back; once more, and it is cancelled."""
    try:
        return act()
    except KeyboardInterrupt:
        here: Place | None = None
        try:
            here = place()
            output.note(here.farewell)
            if here.worker_id is not None:
                time.sleep(SECOND_CHANCE_S)
        except KeyboardInterrupt:
            _cancel(client, here or place())
        return ExitCode.INTERRUPTED


def _cancel(client: Handinger, place: Place) -> None:
    if place.worker_id is not None:
        client.workers.with_raw_response.cancel(place.worker_id, turn_id=place.turn_id)
        output.note("Cancelled.")


def _find(instruction: Instruction, options: Options) -> Place:
    """Which turn an instruction became, whose answer nobody has waited for."""
    from handinger.sdk.errors import HandingerError

    params: CreateParams = {**instruction.params, "timeout": 3.0}
    again = Instruction(params, instruction.worker_id)
    try:
        with options.client(max_retries=0) as client:
            answer = again.ask(client, background=True)
    except HandingerError:
        # It may not have arrived at all; what there is to say is where to look.
        return Place(instruction.worker_id)
    return Place(answer.worker_id, answer.turn_id)


def _spinner() -> AbstractContextManager[object]:
    if not (sys.stderr.isatty() and sys.stdout.isatty()):
        return nullcontext()
    from handinger.cli.pretty import stderr

    return stderr().status("working")


def _view(client: Handinger, events: EventStream) -> int:
    from handinger.cli.live import LiveView
    from handinger.cli.meter import Meter
    from handinger.cli.pretty import stdout

    console = stdout()
    view = LiveView(console, Meter(client if console.is_terminal else None))
    view.follow(events)
    return ExitCode.FAILED if view.failed else ExitCode.OK


def _print_events(events: EventStream, options: Options) -> int:
    failure: str | None = None
    raw = options.shape(streamed=True) == "raw" and not options.picks
    for event in events:
        if raw:
            output.write_text((f"id: {event.id}\n" if event.id else "") + "data: ")
        output.write(event.data, options, streamed=True)
        if raw:
            output.write_text("\n")
        if event.is_terminal:
            failure = str(event.data.get("errorText")) if event.type == "error" else None
    if failure is not None:
        raise TurnFailed(failure)
    return ExitCode.OK
