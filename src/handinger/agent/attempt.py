"""One attempt at one turn: what it knows, and its only way into the journal."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic_ai.messages import ModelMessage, ToolCallPart
from pydantic_ai.run import AgentRun

from handinger import files
from handinger.agent.conversation import Conversation
from handinger.agent.hooks import StepContext
from handinger.agent.opening import Opening, Process, for_next_call, open_calls
from handinger.agent.shell import Shell
from handinger.agent.ui_events import Teller
from handinger.budgets import Charge, Reservation, Reserve
from handinger.live import LiveTurn
from handinger.story import Story
from handinger.turns.claiming import ClaimedTurn
from handinger.turns.journal import Journal, Record

Run = AgentRun[StepContext, str]
Node = Any  # One of pydantic-ai's nodes; their type parameters are private to its graph.


class Attempt:
    """What those who carry out a turn share.

    The conversation is always what the journal holds; only `write` changes it. What costs money and
    is not in the journal yet stands in `context.under_way` and `unbooked`. The next record that is
    stored books it, whichever that is; so it is booked however the attempt ends.
    """

    def __init__(self, process: Process, turn: ClaimedTurn, story: Story, opening: Opening) -> None:
        self.process = process
        self.turn = turn
        self.live = LiveTurn(story)
        self.journal = Journal(
            process.database, turn, story, nano_per_credit=process.settings.nano_per_credit
        )
        self.teller = Teller(story)
        self.allowance = opening.allowance
        self.meter = opening.meter
        self.conversation = opening.conversation
        self.unbooked: list[Charge] = []  # of calls that are over
        self.cancelled = asyncio.Event()
        self._commit: asyncio.Task[None] | None = None
        workspace = files.Workspace(
            process.database,
            process.blobs,
            process.settings,
            organization_id=turn.organization_id,
            worker_id=turn.worker_id,
        )
        sandboxes = process.sandboxes
        self.context = StepContext(
            turn=turn,
            database=process.database,
            settings=process.settings,
            workspace=workspace,
            shell=Shell(sandboxes, workspace, process.settings) if sandboxes else None,
            tools_end_at=self.allowance.conclude_at,
            meter=self.meter,
            granted=self.meter.granted,
            purse=self.meter.purse,
            instructions=opening.instructions,
            results=opening.results,
            interrupted=opening.interrupted,
        )

    @property
    def ended(self) -> bool:
        """Whether the turn has ended, and that is stored."""
        return self.journal.story.ended

    def cancel(self) -> None:
        """Somebody asks this turn to stop."""
        self.journal.cancel_requested = True
        self.cancelled.set()

    def tell(self) -> None:
        """Wake those who follow the turn."""
        self.process.hub.told(self.live)

    # The journal

    async def write(
        self,
        record: Record,
        messages: Sequence[ModelMessage] = (),
        *,
        goes_on: Conversation | None = None,
    ) -> None:
        """Journal a step, with the charges for all that is over by now.

        A caller that is cancelled meanwhile does not tear the transaction.

        `goes_on`: what the conversation becomes with it, if not just longer.
        """
        self._commit = asyncio.create_task(self._write(record, messages, goes_on))
        await asyncio.shield(self._commit)
        self._commit = None

    async def _write(
        self, record: Record, messages: Sequence[ModelMessage], goes_on: Conversation | None
    ) -> None:
        await self.journal.write(replace(record, charges=self.unbooked))
        self.context.under_way, self.unbooked = None, []
        self.context.granted, self.context.purse = self.meter.granted, self.meter.purse
        self.conversation = goes_on or self.conversation
        self.conversation.messages.extend(messages)
        self.conversation.of_turn += len(messages)
        self.conversation.size += sum(len(payload) for payload in record.messages)
        self.tell()
        if self.journal.cancel_requested:
            self.cancelled.set()

    async def settle(self) -> None:
        """Wait for a write whose caller was cancelled. Raises what it raised."""
        if self._commit is not None:
            commit, self._commit = self._commit, None
            await commit

    async def release(self) -> None:
        """Give the turn back; the next claim books what it owes.

        That is what calls cost that are over, and what is reserved for those that are under way.
        """
        held = [self.context.under_way, *map(self.spent_at_most, self.open_calls())]
        owed = [charge.owed() for charge in self.unbooked if charge.spending.cost_nano]
        await self.journal.release(owed=[*owed, *filter(None, held)])

    # Where the journal stands

    def stand_at_last_response(self) -> None:
        """Tools are known by the step of the response that called them, also after later calls."""
        self.context.step = self.conversation.responses_made
        last = self.conversation.last_response
        if last is not None:
            self.teller.resume_step(self.context.step, last)

    def open_calls(self) -> list[ToolCallPart]:
        """The tool calls of the last response that have no result yet."""
        return open_calls(self.conversation, self.context.results)

    def next_call(self, conversation: Conversation | None = None) -> Reserve:
        """Reserves for the model call that follows what is in the journal, or this conversation."""
        return for_next_call(
            self.meter,
            conversation or self.conversation,
            self.context.results,
            turn=self.turn,
        )

    # Money

    def answered(self, charge: Charge) -> None:
        """The model call that was under way is over, and this is what it cost."""
        self.context.under_way = None
        self.unbooked.append(charge)

    def give_up_call(self, *, is_repeated: bool = False) -> None:
        """Book all that is reserved for a model call that is under way.

        One that is repeated counts as the same step, and is paid for each time.
        """
        held = self.context.under_way
        if held is not None:
            counts = held.kind == "model" and not is_repeated
            self.answered(held.in_full(steps=int(counts)))

    def spent_at_most(self, call: ToolCallPart) -> Reservation | None:
        """What an open call of a tool may have cost by now, within what is reserved for it."""
        context = self.context
        held = self.meter.granted.get(call.tool_call_id)
        if held is None or (context.step, call.tool_call_id) not in context.begun:
            return None
        if not self.meter.is_metered(call):
            return held
        spent = context.effects[call.tool_call_id].spending.cost_nano
        return replace(held, cost_nano=spent) if spent else None


def seconds_until(moment: datetime | None) -> float | None:
    """How long a wait until then may take; None if it has no end."""
    if moment is None:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
