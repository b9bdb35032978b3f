"""How an attempt begins: with what the journal holds, and with money for its first call."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model

from handinger import budgets
from handinger.agent import conversation as conversations
from handinger.agent import prompt
from handinger.agent.conversation import Conversation, Conversations
from handinger.agent.hooks import StepContext
from handinger.agent.metering import Meter, Metering
from handinger.budgets import Allowance, Reservation, Reserve, Spending
from handinger.live import Hub
from handinger.sandbox.sandbox import Sandboxes
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, TenantStatements
from handinger.turns import journal
from handinger.turns.claiming import ClaimedTurn

Results = dict[tuple[int, str], ToolReturnPart]


class Process(Protocol):
    """What one turn needs of the process that executes it; see `runner.Runner`."""

    @property
    def database(self) -> Database: ...
    @property
    def blobs(self) -> Blobs: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def hub(self) -> Hub: ...
    @property
    def agent(self) -> Agent[StepContext, str]: ...
    @property
    def model(self) -> Model: ...
    @property
    def stopping(self) -> asyncio.Event: ...
    @property
    def conversations(self) -> Conversations: ...
    @property
    def sandboxes(self) -> Sandboxes | None: ...
    @property
    def metering(self) -> Metering: ...


class Opening:
    """What one attempt at a turn begins with; complete once the turn is claimed."""

    allowance: Allowance
    instructions: str
    meter: Meter
    conversation: Conversation

    def __init__(self, process: Process) -> None:
        self._process = process
        # By step and id: results of the turn's tools, and calls that an earlier attempt left open.
        self.results: Results = {}
        self.interrupted: set[tuple[int, str]] = set()

    async def prepare(self, turn: ClaimedTurn, sql: TenantStatements) -> None:
        """Read the journal."""
        process = self._process
        self._turn = turn
        self.allowance = budgets.allowance(
            process.settings,
            turn.budget,
            started_at=turn.started_at,
            overrides=turn.budget_overrides,
        )
        self.instructions = prompt.instructions(
            process.settings,
            self.allowance,
            now=datetime.now(UTC),
            with_commands=process.sandboxes is not None,
        )
        self.meter = Meter(
            process.metering,
            self.allowance,
            model=process.settings.model_id,
            instructions=self.instructions,
        )
        self.conversation = await process.conversations.load(sql, turn)
        if turn.attempt == 1:
            return
        for tool in await journal.load_tools(sql, turn.id):
            key = (tool.step, tool.tool_call_id)
            if tool.result is None:
                self.interrupted.add(key)
            else:
                self.results[key] = parse_result(tool.result)

    def reserve(self, spent: Spending, available_nano: int | None) -> Sequence[Reservation]:
        """For the first call of this attempt, of the model or of tools."""
        if self.is_foregone:
            return ()
        step = self.conversation.responses_made
        calls = open_calls(self.conversation, self.results)
        if calls:
            following = self.meter.for_tools(calls, self.conversation.messages, step=step)
        else:
            following = for_next_call(self.meter, self.conversation, self.results, turn=self._turn)
        return following(spent, available_nano)

    @property
    def is_foregone(self) -> bool:
        """Whether the turn must not be worked on any more."""
        turn = self._turn
        return turn.cancel_requested or turn.crashes >= self._process.settings.max_attempts


def open_calls(conversation: Conversation, results: Results) -> list[ToolCallPart]:
    """The calls of the last response that have no result yet."""
    step = conversation.responses_made
    return [
        call
        for call in conversations.tool_calls(conversation.last_response)
        if (step, call.tool_call_id) not in results
    ]


def for_next_call(
    meter: Meter, conversation: Conversation, results: Results, *, turn: ClaimedTurn
) -> Reserve:
    """Reserves for the model call that follows what is in the journal."""
    step = conversation.responses_made
    messages: list[ModelMessage] = list(conversation.messages)
    calls = conversations.tool_calls(conversation.last_response)
    if not conversation.of_turn:
        messages.append(ModelRequest(parts=[UserPromptPart(prompt.instruction(turn))]))
    elif calls:
        messages.append(ModelRequest(parts=[results[step, call.tool_call_id] for call in calls]))
    return meter.for_call(messages, step=step + 1)


def parse_result(payload: str) -> ToolReturnPart:
    """The result that the journal holds of a tool's call."""
    (message,) = conversations.parse(payload)
    (part,) = message.parts
    assert isinstance(part, ToolReturnPart)
    return part
