"""Tells a turn's story from what the model and the tools say.

A model's text is told as it comes. Should the finished response differ from what was told (parts
that a provider interleaves, say), the telling is withdrawn and the response told anew, whole.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelResponse,
    ModelResponsePart,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)

from handinger.story import Entry, Event, Kind, Story, Take

# What PostgreSQL cannot store and UTF-8 cannot carry.
_UNSTORABLE = {0: "\ufffd"} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def clean(text: str) -> str:
    """Text without NUL characters and lone surrogates."""
    if "\0" not in text:
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text
    return text.translate(_UNSTORABLE)


class Teller:
    """Tells one turn."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._open: dict[int, Entry] = {}  # by the index of the response's part
        self._parts: dict[int, Entry] = {}  # in the order in which they were begun
        self._call_ids: set[str] = {
            entry.data["toolCallId"] for entry in story.entries if entry.kind is Kind.TOOL_INPUT
        }
        self._sources: set[str] = {
            entry.data["url"] for entry in story.entries if entry.kind is Kind.SOURCE
        }
        self._step_call_ids: dict[str, str] = {}
        self._step = 0

    def withdraw(self) -> None:
        """The model call that is being told will be repeated."""
        take = self._story.take
        self._story.begin(Take(take.attempt, take.retry + 1))
        self._call_ids.difference_update(self._step_call_ids.values())
        self._open.clear()

    def begin_step(self, step: int) -> None:
        """A model call starts."""
        self._step = step
        self._open.clear()
        self._parts.clear()
        self._step_call_ids.clear()
        self._story.tell(Kind.STEP_START)

    def stream_event(self, event: AgentStreamEvent) -> bool:
        """Tell what the model just said; False if there was nothing to tell."""
        if isinstance(event, PartStartEvent):
            self._close_open()
            return self._start_part(event.index, event.part)
        if isinstance(event, PartDeltaEvent):
            return self._append(event.index, _delta_text(event.delta), event.delta)
        return False

    def response(self, response: ModelResponse) -> None:
        """Close what was streamed of a response; tell what was not, or not so."""
        self._close_open()
        expected = [
            (kind, _tool_name(part), text)
            for part in response.parts
            for kind, text in [(_part_kind(part), _part_text(part))]
            if kind is Kind.TOOL_INPUT or (kind and text)
        ]
        told = [
            (entry.kind, entry.data.get("toolName"), entry.text) for entry in self._parts.values()
        ]
        if told == expected:
            self._bind_calls(response)
            return
        if told:
            self.withdraw()
            self.begin_step(self._step)
        for index, part in enumerate(response.parts):
            self._start_part(index, part)
            self._close_open()
        self._bind_calls(response)

    def keep_partial(self) -> tuple[list[TextPart | ThinkingPart], bool]:
        """What the model had said when its call was cut off, and whether a step is open.

        Texts stay told. Calls that it was about to make are withdrawn.
        """
        self._close_open()
        entries = self._story.uncommitted()
        if any(entry.kind is Kind.TOOL_INPUT for entry in entries):
            self.withdraw()
            entries = [
                self._story.tell(entry.kind, text=entry.text)
                for entry in entries
                if entry.kind is not Kind.TOOL_INPUT
            ]
        kept: list[TextPart | ThinkingPart] = []
        for entry in entries:
            if entry.kind is Kind.TEXT:
                kept.append(TextPart(entry.text))
            elif entry.kind is Kind.REASONING:
                kept.append(ThinkingPart(entry.text))
        return kept, any(entry.kind is Kind.STEP_START for entry in entries)

    def finish_step(self) -> None:
        """The step and its tools are done."""
        self._story.tell(Kind.STEP_FINISH)

    def tool_output(self, tool_call_id: str, output: Any) -> None:
        """A tool returned."""
        data = {"toolCallId": self._step_call_ids[tool_call_id], "output": output}
        self._story.tell(Kind.TOOL_OUTPUT, data=data)

    def tool_error(self, tool_call_id: str, message: str) -> None:
        """A tool failed, or was not run."""
        data = {"toolCallId": self._step_call_ids[tool_call_id], "errorText": clean(message)}
        self._story.tell(Kind.TOOL_ERROR, data=data)

    def source(self, source_id: str, url: str, title: str | None) -> None:
        """A page was used; told once a turn."""
        if url in self._sources:
            return
        self._sources.add(url)
        data = {"sourceId": source_id, "url": url}
        self._story.tell(Kind.SOURCE, data=data | ({"title": clean(title)} if title else {}))

    def file(self, url: str, media_type: str) -> None:
        """A file was published."""
        self._story.tell(Kind.FILE, data={"url": url, "mediaType": media_type})

    def resume_step(self, step: int, response: ModelResponse) -> None:
        """Go on with a response that was told and stored by an earlier attempt."""
        self._step = step
        self._bind_calls(response)

    def _bind_calls(self, response: ModelResponse) -> None:
        """Match the response's calls, in order, to the ids under which they were told last."""
        calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
        inputs = [entry for entry in self._story.entries if entry.kind is Kind.TOOL_INPUT]
        self._step_call_ids = {
            call.tool_call_id: entry.data["toolCallId"]
            for call, entry in zip(calls, inputs[len(inputs) - len(calls) :], strict=True)
        }

    def _new_call_id(self, tool_call_id: str) -> str:
        """Readers fold by this id, so it must be unique in the turn; some models repeat theirs."""
        told = base = clean(tool_call_id)
        number = 2
        while told in self._call_ids:
            told = f"{base}-{number}"
            number += 1
        self._step_call_ids[f"{tool_call_id}#{number}"] = told
        self._call_ids.add(told)
        return told

    def _start_part(self, index: int, part: ModelResponsePart) -> bool:
        kind = _part_kind(part)
        if kind is None:
            return False
        text = _part_text(part)
        data: Event | None = None
        if isinstance(part, ToolCallPart):
            call_id = self._new_call_id(part.tool_call_id)
            data = {"toolCallId": call_id, "toolName": _tool_name(part)}
        elif not text:
            return False  # Begun when its first character comes.
        entry = self._story.tell(kind, text=text, data=data, closed=False)
        self._open[index] = self._parts[index] = entry
        return True

    def _append(self, index: int, text: str, delta: object) -> bool:
        if not text:
            return False
        entry = self._open.get(index)
        if entry is None:
            if index in self._parts:
                return False  # Closed already; `response` will notice and tell it anew.
            kind = Kind.TEXT if isinstance(delta, TextPartDelta) else Kind.REASONING
            entry = self._story.tell(kind, closed=False)
            self._open[index] = self._parts[index] = entry
        entry.append(text)
        return True

    def _close_open(self) -> None:
        for entry in self._open.values():
            entry.closed = True
        self._open.clear()


def _part_kind(part: ModelResponsePart) -> Kind | None:
    match part:
        case TextPart():
            return Kind.TEXT
        case ThinkingPart():
            return Kind.REASONING
        case ToolCallPart():
            return Kind.TOOL_INPUT
        case _:
            return None  # What only the provider's own tools make; it is not ours to tell.


def _tool_name(part: ModelResponsePart) -> str | None:
    return clean(part.tool_name) if isinstance(part, ToolCallPart) else None


def _part_text(part: ModelResponsePart) -> str:
    match part:
        case TextPart() | ThinkingPart():
            return clean(part.content)
        case ToolCallPart():
            return clean(_arguments_text(part.args))
        case _:
            return ""


def _arguments_text(args: str | Mapping[str, object] | None) -> str:
    if args is None:
        return ""
    return args if isinstance(args, str) else json.dumps(args, ensure_ascii=False)


def _delta_text(delta: object) -> str:
    match delta:
        case TextPartDelta():
            return clean(delta.content_delta)
        case ThinkingPartDelta():
            return clean(delta.content_delta or "")
        case ToolCallPartDelta():
            return clean(_arguments_text(delta.args_delta))
        case _:
            return ""


def plain(value: object) -> Any:
    """A tool's result as JSON values that can be stored."""
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {clean(str(key)): plain(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[object]", value)]
    return clean(str(value))
