"""The demo model as pydantic-ai sees it: requests, streams, token counts.

Tokens are counted by one rule: four characters of text are a token, begun tokens count in full.
"""

import asyncio
import hashlib
import json
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import (
    FinishReason,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponseStreamEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings, ToolOrOutput
from pydantic_ai.usage import RequestUsage

from handinger.agent.demo import answer, conversation, plan, prompt
from handinger.agent.demo.answer import Offer
from handinger.agent.demo.conversation import Conversation
from handinger.agent.demo.desk import Desk, ToolUse

NAME = "demo"
CHARACTERS_PER_TOKEN = 4

_WORDS_PER_PAUSE = 4
_ARGUMENT_DELTA_CHARACTERS = 200
_PIECE = re.compile(r"\s*\S+\s*|\s+")


class DemoModel(Model):
    """Answers the last prompt of a conversation by rules; the same messages give the same response.

    A streamed response pauses `pace_s` after every few words, so that a person sees it flow.
    """

    def __init__(self, *, pace_s: float = 0.01, settings: ModelSettings | None = None) -> None:
        # Mid-conversation system prompts stay apart from what the person said.
        super().__init__(
            settings=settings,
            profile=ModelProfile(supports_inline_system_prompts=True, supports_image_input=False),
        )
        self._pace_s = pace_s

    @property
    def model_name(self) -> str:
        return NAME

    @property
    def system(self) -> str:
        return NAME

    @property
    def model_id(self) -> str:
        return NAME

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        reply = _reply(messages, settings, parameters)
        return ModelResponse(
            parts=[reply.part],
            usage=_usage(_input_characters(messages, parameters), reply.characters),
            model_name=NAME,
            provider_name=NAME,
            finish_reason=reply.finish_reason,
        )

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        yield _DemoStream(
            model_request_parameters=parameters,
            reply=_reply(messages, settings, parameters),
            input_characters=_input_characters(messages, parameters),
            pace_s=self._pace_s,
        )

    async def count_tokens(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> RequestUsage:
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        return _usage(_input_characters(messages, parameters), 0)


@dataclass(frozen=True, slots=True)
class _Reply:
    """One text, or the arguments of one call of `tool` as JSON, and why it ends there."""

    content: str
    finish_reason: FinishReason
    tool: str = ""
    call_id: str = ""

    @property
    def part(self) -> TextPart | ToolCallPart:
        if self.tool:
            return ToolCallPart(self.tool, self.content, tool_call_id=self.call_id)
        return TextPart(self.content)

    @property
    def characters(self) -> int:
        return len(self.tool) + len(self.content)

    @property
    def pieces(self) -> list[str]:
        """Words of a text, slices of arguments; joined they are the content again."""
        if not self.tool:
            return _PIECE.findall(self.content)
        size = _ARGUMENT_DELTA_CHARACTERS
        return [self.content[start : start + size] for start in range(0, len(self.content), size)]


@dataclass
class _DemoStream(StreamedResponse):
    reply: _Reply
    input_characters: int
    pace_s: float
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        told = len(self.reply.tool)
        for index, piece in enumerate(self.reply.pieces):
            if self.cancelled:
                return
            told += len(piece)
            self._usage = _usage(self.input_characters, told)
            for event in self._events(piece, is_first=index == 0):
                yield event
            if self.pace_s > 0 and index % _WORDS_PER_PAUSE == _WORDS_PER_PAUSE - 1:
                await asyncio.sleep(self.pace_s)
        self.finish_reason = self.reply.finish_reason

    def _events(self, piece: str, *, is_first: bool) -> Iterator[ModelResponseStreamEvent]:
        if not self.reply.tool:
            return self._parts_manager.handle_text_delta(vendor_part_id=0, content=piece)
        return self._parts_manager.handle_tool_call_delta_events(
            vendor_part_id=0,
            tool_name=self.reply.tool if is_first else None,
            args=piece,
            tool_call_id=self.reply.call_id,
        )

    async def close_stream(self) -> None:
        """There is no connection; the iterator sees that it was cancelled and ends."""

    @property
    def model_name(self) -> str:
        return NAME

    @property
    def provider_name(self) -> str:
        return NAME

    @property
    def provider_url(self) -> None:
        return None

    @property
    def timestamp(self) -> datetime:
        return self.started_at


def _reply(
    messages: Sequence[ModelMessage],
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
) -> _Reply:
    offer = _offer(settings, parameters)
    talk = conversation.read(messages, concluding=not offer.callable)
    given = prompt.split(talk.now.prompt)
    steps = plan.make(given, talk, offer.known)
    desk = Desk(given.instruction, given.documents, talk, _mail_takes_list(parameters))
    step = answer.next_step(steps, desk, offer)
    limit = (settings or {}).get("max_tokens")
    most = sys.maxsize if limit is None else max(limit, 1) * CHARACTERS_PER_TOKEN
    if isinstance(step, ToolUse):
        reply = _call(step, talk)
        if reply.characters <= most:
            return reply
        refusal = f"The call of `{step.tool}` would be longer than the {limit} tokens that I have."
        step = answer.written([*desk.paragraphs, refusal], talk)
    text = conversation.encodable(step)
    return _Reply(text[:most], "length" if len(text) > most else "stop")


def _call(use: ToolUse, talk: Conversation) -> _Reply:
    """The call with an id of its own: its number in the conversation, and a digest.

    The digest covers when the prompt was sent, so that an id stays unique even where earlier
    messages were left out and the count begins anew.
    """
    arguments = json.dumps(use.arguments, ensure_ascii=False, separators=(",", ":"))
    arguments = conversation.encodable(arguments)
    number = talk.call_count + 1
    seed = f"{talk.now.at.isoformat()}\n{talk.now.prompt}\n{number}\n{use.tool}\n{arguments}"
    digest = hashlib.sha256(seed.encode()).hexdigest()[:12]
    return _Reply(arguments, "tool_call", tool=use.tool, call_id=f"demo_{number}_{digest}")


def _offer(settings: ModelSettings | None, parameters: ModelRequestParameters) -> Offer:
    known = frozenset(tool.name for tool in parameters.declared_function_tools)
    choice = (settings or {}).get("tool_choice")
    match choice:
        case "none":
            return Offer(known, frozenset())
        case list():
            return Offer(known, known & frozenset(choice))
        case ToolOrOutput():
            return Offer(known, known & frozenset(choice.function_tools))
        case _:
            return Offer(known, known)


def _mail_takes_list(parameters: ModelRequestParameters) -> bool:
    tool = parameters.tool_defs.get("send_email")
    if tool is None:
        return False
    match tool.parameters_json_schema:
        case {"properties": {"to": {"type": "array"}}}:
            return True
        case _:
            return False


def _usage(input_characters: int, output_characters: int) -> RequestUsage:
    return RequestUsage(
        input_tokens=-(-input_characters // CHARACTERS_PER_TOKEN),
        output_tokens=-(-output_characters // CHARACTERS_PER_TOKEN),
        cost=Decimal(0),
    )


def _input_characters(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> int:
    instructions = sum(len(part.content) for part in parameters.instruction_parts or ())
    return instructions + sum(_characters(message) for message in messages)


def _characters(message: ModelMessage) -> int:
    total = 0
    if isinstance(message, ModelRequest):
        for part in message.parts:
            match part.part_kind:
                case "user-prompt":
                    total += len(conversation.user_text(part.content))
                case "system-prompt":
                    total += len(part.content)
                case "tool-return":
                    total += len(part.model_response_str())
                case "retry-prompt" | "retry-feedback":
                    total += len(part.model_response())
                case _:
                    pass
        return total
    for part in message.parts:
        if isinstance(part, TextPart | ThinkingPart):
            total += len(part.content)
        elif isinstance(part, ToolCallPart):
            total += len(part.tool_name) + len(part.args_as_json_str())
    return total
