"""The conversations of workers that ran here lately, so that a next turn reads only what is new.

Reading and parsing a whole conversation for each turn would cost more with every turn.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ToolCallPart,
)
from pydantic_ai.usage import RequestUsage

from handinger.ids import WorkerId
from handinger.storage.database import TenantStatements
from handinger.turns import journal
from handinger.turns.claiming import ClaimedTurn
from handinger.turns.journal import StoredMessage

_MAX_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class Conversation:
    """Model messages up to a row of the journal."""

    last_id: int = 0
    messages: list[ModelMessage] = field(default_factory=list[ModelMessage])
    size: int = 0  # of the stored texts
    # How many messages at the end belong to the turn that has not ended.
    of_turn: int = 0
    # How many messages at the beginning are a summary of others.
    head: int = 0
    # How many responses of the turn that has not ended are covered by the summary.
    covered_responses: int = 0

    @property
    def turn_messages(self) -> Sequence[ModelMessage]:
        """Those of the turn that has not ended."""
        return self.messages[len(self.messages) - self.of_turn :]

    @property
    def responses_made(self) -> int:
        """How often the model has answered in this turn."""
        stand = sum(isinstance(message, ModelResponse) for message in self.turn_messages)
        return self.covered_responses + stand

    @property
    def last_response(self) -> ModelResponse | None:
        """The response that the journal of this turn ends with, if it does."""
        messages = self.turn_messages
        last = messages[-1] if messages else None
        return last if isinstance(last, ModelResponse) else None


class Conversations:
    """A bounded cache, least recently used out first. What it lacks is read from the journal."""

    def __init__(self) -> None:
        self._kept: OrderedDict[WorkerId, Conversation] = OrderedDict()
        self._size = 0

    async def load(self, sql: TenantStatements, turn: ClaimedTurn) -> Conversation:
        """The conversation as it is stored. Other processes may have added to it since."""
        if not turn.has_history:
            return Conversation()
        worker_id = turn.worker_id
        kept = self._kept.pop(worker_id, None)
        if kept is not None:
            self._size -= kept.size
        known = kept or Conversation()
        rows = await journal.load_messages(sql, worker_id, after=known.last_id)
        if known.last_id and any(row.covers_id is not None for row in rows):
            # Another process has summarized what is known here.
            known = Conversation()
            rows = await journal.load_messages(sql, worker_id, after=0)
        return _continued(known, rows, turn)

    def keep(self, worker_id: WorkerId, conversation: Conversation) -> None:
        """Remember a conversation whose turn has ended here."""
        if conversation.size > _MAX_BYTES // 4:
            return
        self._kept[worker_id] = conversation
        self._size += conversation.size
        while self._size > _MAX_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._size -= dropped.size


def _continued(
    known: Conversation, rows: Sequence[StoredMessage], turn: ClaimedTurn
) -> Conversation:
    """What is known, and what is stored after it. A summary comes first, wherever it is stored."""
    summaries = [row for row in rows if row.covers_id is not None]
    summary = summaries[-1] if summaries else None
    head = parse(summary.payload) if summary else []
    told = [row for row in rows if row.covers_id is None]
    messages = [*known.messages, *head]
    for row in told:
        stored = parse(row.payload)
        messages.extend(uncounted(stored) if summary and row.id < summary.id else stored)
    return Conversation(
        last_id=rows[-1].id if rows else known.last_id,
        messages=messages,
        size=known.size + sum(len(row.payload) for row in rows),
        of_turn=sum(row.turn_id == turn.id for row in told),
        head=len(head) if summary else known.head,
        covered_responses=(
            summary.covered_responses if summary and summary.turn_id == turn.id else 0
        ),
    )


def uncounted(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """The same, without what was counted of their requests.

    For those that stay when a summary takes the place of what came before them: how large a request
    was with that says nothing of one that has the summary instead.
    """
    return [
        replace(message, usage=RequestUsage()) if isinstance(message, ModelResponse) else message
        for message in messages
    ]


def tool_calls(response: ModelResponse | None) -> list[ToolCallPart]:
    """The calls of a response, in order."""
    return [part for part in (response.parts if response else ()) if isinstance(part, ToolCallPart)]


def dump(message: ModelMessage) -> str:
    """One model message as the journal stores it."""
    return ModelMessagesTypeAdapter.dump_json([message]).decode()[1:-1]


def parse(payload: str) -> list[ModelMessage]:
    """The message that `dump` wrote."""
    return ModelMessagesTypeAdapter.validate_json(f"[{payload}]")
