"""Reads the messages: what is asked now, what was said before, and how the tool calls ended."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import cast

from pydantic import JsonValue
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextContent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

# A result may carry its text under one of these names; the first that is there counts.
_TEXT_FIELDS = ("content", "text", "markdown", "body", "output", "stdout", "result", "return_value")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a tool call ended. `data` is a structured result, `text` the same for reading.

    `refused` means that the call was never made.
    """

    ok: bool
    text: str
    data: JsonValue = None
    refused: bool = False

    @property
    def body(self) -> str:
        """The text that a result is about: the page, the file."""
        if isinstance(self.data, dict):
            for name in _TEXT_FIELDS:
                value = self.data.get(name)
                if isinstance(value, str):
                    return value
        return self.text

    @property
    def title(self) -> str:
        title = self.data.get("title") if isinstance(self.data, dict) else None
        return title if isinstance(title, str) else ""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of the past, and how it ended."""

    tool: str
    arguments: Mapping[str, JsonValue]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt, and all that followed it. `said` are the texts of the answer."""

    prompt: str
    at: datetime
    calls: tuple[Call, ...]
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """The current turn, those before it (oldest first), and how many calls were made in all."""

    now: Turn
    earlier: tuple[Turn, ...]
    call_count: int

    @property
    def has_answered(self) -> bool:
        return any(text.strip() for turn in self.earlier for text in turn.said)


@dataclass(slots=True)
class _OpenTurn:
    prompt: str
    at: datetime
    calls: list[ToolCallPart] = field(default_factory=list[ToolCallPart])
    said: list[str] = field(default_factory=list[str])


def read(messages: Sequence[ModelMessage], *, concluding: bool = False) -> Conversation:
    """A prompt opens a turn; without any prompt the conversation is one turn that asks nothing.

    With `concluding`, a last prompt in the midst of a turn is a note to conclude, not a new turn.
    """
    if concluding:
        messages = _without_note(messages)
    turns: list[_OpenTurn] = []
    outcomes: dict[str, Outcome] = {}
    for message in messages:
        if isinstance(message, ModelRequest):
            _read_request(message, turns, outcomes)
        elif turns:
            turns[-1].calls.extend(part for part in message.parts if isinstance(part, ToolCallPart))
            turns[-1].said.extend(
                part.content for part in message.parts if isinstance(part, TextPart)
            )
    closed = [_closed(turn, outcomes) for turn in turns]
    if not closed:
        closed = [Turn(prompt="", at=datetime(1970, 1, 1, tzinfo=UTC), calls=(), said=())]
    return Conversation(
        now=closed[-1],
        earlier=tuple(closed[:-1]),
        call_count=sum(len(turn.calls) for turn in closed),
    )


def user_text(content: str | Sequence[UserContent]) -> str:
    """The words of a prompt; pictures and other files have none that this model could read."""
    if isinstance(content, str):
        return encodable(content)
    texts = [
        item.content if isinstance(item, TextContent) else item
        for item in content
        if isinstance(item, str | TextContent)
    ]
    return encodable("\n\n".join(texts))


def _without_note(messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """The messages without a last prompt that stands behind another one or behind tool results."""
    last_response = max(
        (index for index, message in enumerate(messages) if isinstance(message, ModelResponse)),
        default=-1,
    )
    told = [
        part
        for message in messages[last_response + 1 :]
        for part in message.parts
        if isinstance(part, UserPromptPart | ToolReturnPart)
    ]
    if len(told) < 2 or not isinstance(told[-1], UserPromptPart):
        return messages
    kept = [part for part in messages[-1].parts if part is not told[-1]]
    return [*messages[:-1], replace(messages[-1], parts=kept)]


def _read_request(
    message: ModelRequest, turns: list[_OpenTurn], outcomes: dict[str, Outcome]
) -> None:
    for part in message.parts:
        if part.part_kind == "user-prompt":
            text = user_text(part.content)
            # A tool may hand over a picture as if the person had sent it; that asks nothing.
            if text.strip() or not turns:
                at = part.timestamp if part.timestamp.tzinfo else part.timestamp.replace(tzinfo=UTC)
                turns.append(_OpenTurn(prompt=text, at=at))
        elif part.part_kind == "tool-return":
            outcomes[part.tool_call_id] = _outcome(part)
        elif part.part_kind == "retry-prompt":
            text = part.content if isinstance(part.content, str) else part.model_response()
            outcomes[part.tool_call_id] = Outcome(ok=False, text=text)


def _outcome(part: ToolReturnPart) -> Outcome:
    text = encodable(part.model_response_str(wrap_if_error=False))
    if part.outcome != "success":
        return Outcome(ok=False, text=text or f"it was {part.outcome}")
    if isinstance(part.content, str):
        return Outcome(ok=True, text=text)
    data = _parsed(text)
    error = data.get("error") if isinstance(data, dict) else None
    if isinstance(error, str) and error:
        return replace(Outcome(ok=False, text=error), data=data)
    return Outcome(ok=True, text=text, data=data)


def encodable(text: str) -> str:
    """Without halves of surrogate pairs, which neither JSON nor a file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _parsed(text: str) -> JsonValue:
    if "\\ud" in text:  # An escaped half of a surrogate pair; see `encodable`.
        return text
    try:
        return cast("JsonValue", json.loads(text))
    except (ValueError, RecursionError):
        return text


def _closed(turn: _OpenTurn, outcomes: Mapping[str, Outcome]) -> Turn:
    unknown = Outcome(ok=False, text="no result of it is known")
    return Turn(
        prompt=turn.prompt,
        at=turn.at,
        calls=tuple(
            Call(
                tool=call.tool_name,
                arguments=cast("dict[str, JsonValue]", call.args_as_dict()),
                outcome=outcomes.get(call.tool_call_id, unknown),
            )
            for call in turn.calls
        ),
        said=tuple(turn.said),
    )
