"""Compaction: a conversation that nears the model's context window goes on from a summary.

What the model is sent becomes shorter; what is stored does not. The journal keeps every message, a
summary is one more row of it (see `turns.summaries`), and what readers are told never changes.
"""

import asyncio
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic_ai import direct
from pydantic_ai import exceptions as ai_errors
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

from handinger.agent import conversation as conversations
from handinger.agent import model as models
from handinger.agent import prompt
from handinger.agent.attempt import Attempt, seconds_until
from handinger.agent.conversation import Conversation
from handinger.agent.model_calls import ModelFailed
from handinger.agent.ui_events import clean
from handinger.budgets import Reservation
from handinger.turns import summaries
from handinger.turns.journal import Record
from handinger.turns.summaries import Summary

logger = logging.getLogger(__name__)

# Of the context window: from here on it counts as full, and so much of the latest is kept as it is.
_FULL_AT = 0.8
_KEPT_SHARE = 0.2
# A summary that replaces less than this is not worth its price.
_LEAST_GAIN = 0.1
_SUMMARY_SHARE = 0.1

# The text of a conversation has hardly more tokens than a third of its bytes.
_BYTES_PER_TOKEN = 3
# What goes around each part of a message.
_TOKENS_OF_A_FRAME = 16
# The system prompt and the tools, where nobody has counted them.
_OVERHEAD_TOKENS = 2_000
# A window for whose size there is only the model's refusal.
_ASSUMED_WINDOW = 32_000
_MOST_OF_A_PART = 6_000  # characters


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a conversation is cut: what a summary replaces, and what is kept after it."""

    covered: Sequence[ModelMessage]
    kept: Sequence[ModelMessage]
    kept_of_turn: int
    covered_responses: int  # of the turn that runs, by this summary and those before it
    window: int  # tokens

    @property
    def most_summary(self) -> int:
        """How many tokens the summary may have."""
        return int(self.window * _SUMMARY_SHARE)

    @property
    def most_output(self) -> int:
        """How many tokens the model may use for it, with some thought."""
        return 2 * self.most_summary + 1000

    @property
    def is_within_turn(self) -> bool:
        """Whether the instruction that is being carried out is no longer among what is kept."""
        return bool(self.kept) and isinstance(self.kept[0], ModelResponse)


class Compacted(Exception):
    """The conversation goes on from a summary; the model is called with that."""


class Compactor:
    """Compacts the conversation of one attempt when it is too long for the model."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        # The model has refused the conversation as it stands, whatever is known of its window.
        self._is_refused = False

    def can_make_room(self, error: Exception) -> bool:
        """Whether this is the model's refusal of a conversation that can be made shorter.

        It is compacted before the next call then.
        """
        if not isinstance(error, ai_errors.ModelContextWindowExceededError):
            return False
        attempt = self._attempt
        if _after_refusal(attempt.conversation, size=self._window) is None:
            return False
        attempt.context.under_way = None  # What is refused costs nothing.
        attempt.teller.withdraw()
        attempt.tell()
        self._is_refused = True
        return True

    async def compact_if_due(self, request: ModelMessage) -> None:
        """Before a call that sends `request` as well. Raises Compacted, or ModelFailed."""
        cut = self._due(request)
        if cut is not None:
            await self._compact(cut)
            self._is_refused = False
            raise Compacted

    def _due(self, request: ModelMessage) -> Cut | None:
        attempt, size = self._attempt, self._window
        if self._is_refused:
            return _after_refusal(attempt.conversation, size=size)
        if size is None:
            return None
        instructions = attempt.context.instructions
        return _before_it_is_full(
            attempt.conversation, request, instructions=instructions, size=size
        )

    @property
    def _window(self) -> int | None:
        """How many tokens the model can handle in one call, if that is known."""
        process = self._attempt.process
        return process.settings.context_window or process.model.context_window

    async def _compact(self, cut: Cut) -> None:
        attempt, turn = self._attempt, self._attempt.turn
        asked = _asked(cut)
        step = attempt.conversation.responses_made
        reserve = attempt.meter.for_summary([asked], output=cut.most_output, step=step)
        await attempt.write(Record(reserve=reserve))
        held = attempt.context.under_way = attempt.meter.summary
        text = "" if held is None else await self._summarize(asked, cut, held)
        model = attempt.process.settings.model_id
        head = _head(cut, text, model=model, instruction=prompt.instruction(turn))
        goes_on = _compacted(attempt.conversation, cut, head)
        payload = ",".join(conversations.dump(message) for message in head)
        store = functools.partial(
            summaries.store,
            summary=Summary(payload, len(cut.kept), cut.covered_responses),
            worker_id=turn.worker_id,
            turn_id=turn.id,
        )
        following = attempt.next_call(goes_on)
        record = Record(writes=[store], reserve=following)
        await attempt.write(record, goes_on=goes_on)

    async def _summarize(self, asked: ModelMessage, cut: Cut, held: Reservation) -> str:
        """The model's summary, "" if it makes none. Raises ModelFailed."""
        attempt, process = self._attempt, self._attempt.process
        how = models.request_settings(process.settings, process.model)
        how["max_tokens"] = cut.most_output
        timeout = asyncio.timeout(seconds_until(attempt.allowance.conclude_at))
        try:
            async with timeout:
                response = await direct.model_request(process.model, [asked], model_settings=how)
        except ai_errors.ModelAPIError as error:
            if models.is_transient(error):
                raise ModelFailed(error) from error
            # Its conversation loses its details then, and the worker not its life.
            logger.warning("A conversation was not summarized: %s", models.explain(error))
            if models.may_be_billed(error):
                attempt.give_up_call()
            return ""
        except Exception as error:
            if timeout.expired():
                attempt.give_up_call()  # There is time for the concluding call alone.
                return ""
            raise ModelFailed(error) from error
        attempt.answered(models.charge(response, held, process.metering.price).for_platform())
        return clean(response.text or "").strip()


def _before_it_is_full(
    conversation: Conversation, request: ModelMessage, *, instructions: str, size: int
) -> Cut | None:
    """Where to cut before a call that sends `request` as well; None while there is room."""
    if _tokens_sent(conversation, request, instructions) < size * _FULL_AT:
        return None
    return _cut(conversation, size, keep=int(size * _KEPT_SHARE))


def _after_refusal(conversation: Conversation, *, size: int | None) -> Cut | None:
    """Where to cut what the model found too long; None if there is nothing to gain."""
    return _cut(conversation, size or _ASSUMED_WINDOW, keep=0)


def _tokens_sent(conversation: Conversation, pending: ModelMessage, instructions: str) -> int:
    since = _tokens(pending)
    for message in reversed(conversation.messages):
        if isinstance(message, ModelResponse) and message.usage.input_tokens > 0:
            return message.usage.input_tokens + message.usage.output_tokens + since
        since += _tokens(message)
    return since + _OVERHEAD_TOKENS + len(instructions) // _BYTES_PER_TOKEN


def _tokens(message: ModelMessage) -> int:
    told = sum(len(text.encode()) for _, text in _said(message))
    thought = sum(
        len(part.content.encode()) for part in message.parts if isinstance(part, ThinkingPart)
    )
    return (told + thought) // _BYTES_PER_TOKEN + _TOKENS_OF_A_FRAME * len(message.parts)


def _cut(conversation: Conversation, size: int, *, keep: int) -> Cut | None:
    messages = conversation.messages
    # The calls of a running turn's last response may be open; their results must find it.
    latest = len(messages) - 1 if conversation.of_turn else len(messages)
    at, kept = len(messages), 0
    while at > 0 and (at > latest or kept + _tokens(messages[at - 1]) <= keep):
        at -= 1
        kept += _tokens(messages[at])
    turn = len(messages) - conversation.of_turn
    while at < latest and not _may_begin(messages[at], is_of_turn=at >= turn):
        at += 1
    covered = messages[:at]
    news = covered[conversation.head :]
    if sum(_tokens(message) for message in news) < size * _LEAST_GAIN:
        return None
    kept_of_turn = min(conversation.of_turn, len(messages) - at)
    of_turn = messages[turn:at]
    return Cut(
        covered=covered,
        kept=messages[at:],
        kept_of_turn=kept_of_turn,
        covered_responses=conversation.covered_responses
        + sum(isinstance(message, ModelResponse) for message in of_turn),
        window=size,
    )


def _may_begin(message: ModelMessage, *, is_of_turn: bool) -> bool:
    """Whether this may follow a summary: an instruction, or a response of the turn that runs."""
    if isinstance(message, ModelResponse):
        return is_of_turn
    return any(isinstance(part, UserPromptPart) for part in message.parts)


def _asked(cut: Cut) -> ModelMessage:
    """What the model is asked for: the transcript as plain text, which any of them reads."""
    told = prompt.summarize(_transcript(cut), words=cut.most_summary // 2)
    return ModelRequest(parts=[UserPromptPart(told)])


def _head(
    cut: Cut, summary: str, *, model: str, instruction: str | list[UserContent]
) -> list[ModelMessage]:
    """What takes the place of the covered messages; without a summary, pieces of their text."""
    text = _clipped(summary or _transcript(cut), cut.most_summary * _BYTES_PER_TOKEN)
    messages: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart(prompt.SUMMARY_ASKED)]),
        ModelResponse(parts=[TextPart(text)], model_name=model),
    ]
    if cut.is_within_turn:
        messages.append(ModelRequest(parts=[UserPromptPart(prompt.goes_on(instruction))]))
    return messages


def _compacted(conversation: Conversation, cut: Cut, head: Sequence[ModelMessage]) -> Conversation:
    """The conversation as it goes on."""
    messages = [*head, *conversations.uncounted(cut.kept)]
    return replace(
        conversation,
        messages=messages,
        size=sum(len(conversations.dump(message)) for message in messages),
        of_turn=cut.kept_of_turn,
        head=len(head),
        covered_responses=cut.covered_responses,
    )


def _transcript(cut: Cut) -> str:
    told = "\n\n".join(
        f"{who}: {_clipped(text, _MOST_OF_A_PART)}"
        for message in cut.covered
        for who, text in _said(message)
        if text.strip()
    )
    return _clipped(told, int(cut.window * _FULL_AT) * _BYTES_PER_TOKEN // 2)


def _said(message: ModelMessage) -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    for part in message.parts:
        match part:
            case UserPromptPart():
                content = [part.content] if isinstance(part.content, str) else part.content
                told = [item for item in content if isinstance(item, str)]
                said.append(("Person", "\n".join(told)))
            case TextPart():
                said.append(("Agent", part.content))
            case ToolCallPart():
                said.append((f"Agent calls {part.tool_name}", part.args_as_json_str()))
            case ToolReturnPart():
                said.append(
                    (f"Result of {part.tool_name}", part.model_response_str(wrap_if_error=False))
                )
            case _:
                pass  # Reasoning, and what a provider's own tools left: of no use to another call.
    return said


def _clipped(text: str, most: int) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= most:
        return text
    half = max(most // 2, 1)
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
