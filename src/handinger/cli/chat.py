"""`handinger chat`: a conversation with a worker, an instruction a line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from handinger.cli import following, output
from handinger.cli.failures import CommandError, ExitCode, TurnFailed
from handinger.cli.following import Instruction, Place
from handinger.cli.parameters import Budget, Given

if TYPE_CHECKING:
    from handinger.cli.options import Options
    from handinger.sdk.client import Handinger
    from handinger.sdk.streams import EventStream

_HELP = "An instruction, or /files, /cancel, /help, /quit. Ctrl-C leaves a turn, Ctrl-D the chat."


def chat(
    worker_id: Annotated[
        str | None, Parameter(help="The worker; a new one is created if none is named.")
    ] = None,
    *,
    budget: Budget = "standard",
    options: Given,
) -> int:
    """Talk to a worker, an instruction a line.

    In a pipe, each line of the input is an instruction, and each answer the worker after that turn.
    """
    with options.client() as client:
        conversation = _Conversation(client, worker_id, budget, options)
        if sys.stdin.isatty() and options.shape() == "pretty":
            return conversation.talk()
        return conversation.read_lines()


class _Conversation:
    """One worker, and what is said to it."""

    def __init__(
        self, client: Handinger, worker_id: str | None, budget: Budget, options: Options
    ) -> None:
        self._client = client
        self._worker_id = worker_id
        self._budget: Budget = budget
        self._options = options

    def talk(self) -> int:
        """With a person, until they leave."""
        # Makes `input` a line that can be edited, with what was said before.
        importlib.import_module("readline")

        output.note(_HELP)
        while (line := self._ask()) is not None:
            match line:
                case "":
                    pass
                case "/quit" | "/exit":
                    break
                case "/files":
                    self._list_files()
                case "/cancel":
                    self._cancel()
                case _ if line.startswith("/"):
                    output.note(_HELP)
                case _:
                    self._carry_out(line)
        if self._worker_id is not None:
            output.note(f"Come back: handinger chat {self._worker_id}")
        return ExitCode.OK

    def read_lines(self) -> int:
        """With a program, until its last line; a turn that fails ends it."""
        for line in self._lines():
            answer = self._instruction(line).ask(self._client)
            self._worker_id = answer.json().get("id")
            following.show_turn(answer, self._options)
        return ExitCode.OK

    def _lines(self) -> Iterator[str]:
        try:
            yield from (line.strip() for line in sys.stdin if line.strip())
        except UnicodeDecodeError as error:
            raise CommandError("The standard input is not UTF-8 text.") from error

    def _ask(self) -> str | None:
        try:
            return input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return None

    def _instruction(self, line: str) -> Instruction:
        return Instruction({"input": line, "budget": self._budget}, self._worker_id)

    def _carry_out(self, line: str) -> None:
        from handinger.cli.failures import describe
        from handinger.sdk.errors import HandingerError

        try:
            following.show_stream(
                self._client,
                lambda: self._open(self._instruction(line)),
                self._options,
                unseen=lambda: Place(self._worker_id),
            )
        except TurnFailed as error:
            output.note(f"error: {error}")
        except HandingerError as error:
            # A person may try again; the worker is still there.
            output.note(f"error: {describe(error)}")

    def _open(self, instruction: Instruction) -> EventStream:
        events = instruction.stream(self._client)
        self._worker_id = events.worker_id or self._worker_id
        return events

    def _list_files(self) -> None:
        from handinger.cli import pretty

        if self._worker_id is not None:
            worker = self._client.workers.retrieve(self._worker_id, messages=False)
            pretty.show_files(worker)

    def _cancel(self) -> None:
        if self._worker_id is not None:
            self._client.workers.with_raw_response.cancel(self._worker_id)
            output.note("Cancelled.")
