"""Folds the events of a stream into the messages they add up to, by the rules of the AI SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from handinger.sdk.events import Event
from handinger.sdk.models import (
    FilePart,
    JsonObject,
    MessagePart,
    Part,
    ReasoningPart,
    SourceUrlPart,
    StepStartPart,
    TextPart,
    ToolPart,
    UIMessage,
    Worker,
)


@dataclass(slots=True)
class _Draft:
    """A message that is being told."""

    message: UIMessage
    texts: dict[str, TextPart | ReasoningPart] = field(
        default_factory=dict[str, TextPart | ReasoningPart]
    )
    kept: list[MessagePart] = field(default_factory=list[MessagePart])

    def add(self, part: MessagePart) -> None:
        self.message.parts.append(part)

    def tool(self, call_id: str) -> ToolPart | None:
        for part in reversed(self.message.parts):
            if isinstance(part, ToolPart) and part.tool_call_id == call_id:
                return part
        return None

    def keep(self) -> None:
        """No later `data-retry` withdraws what is here now."""
        self.texts.clear()
        self.kept = [part.model_copy() for part in self.message.parts]

    def withdraw(self) -> None:
        """Back to what was here at the last `keep`."""
        self.texts.clear()
        self.message.parts = [part.model_copy() for part in self.kept]


class MessageFold:
    """Add every event of one stream, in order; `messages` is what has been told so far.

    A stream that was taken up in the middle of a message gives the rest of that message only.
    """

    def __init__(self) -> None:
        self.messages: list[UIMessage] = []
        self.worker: Worker | None = None
        self._drafts: dict[str, _Draft] = {}
        self._draft: _Draft | None = None

    @property
    def current(self) -> UIMessage | None:
        """The message that the latest turn tells."""
        return self._draft.message if self._draft else None

    @property
    def kept_parts(self) -> int:
        """So many of the current message's parts are final: no retry withdraws them."""
        return len(self._draft.kept) if self._draft else 0

    def add(self, event: Event) -> None:
        """Take in the next event; types that this version does not know change nothing."""
        if event.type.startswith("data-"):
            self._add_data(event)
        elif event.type == "start":
            self._start(event.data)
        elif event.is_terminal:
            self._finish(event.data)
        elif (rule := _RULES.get(event.type)) is not None:
            rule(self._draft or self._begin(""), event.data)

    def _add_data(self, event: Event) -> None:
        if (message := event.message) is not None:
            self._upsert(message)
        elif (worker := event.worker) is not None:
            self.worker = worker
        elif event.type == "data-retry":
            self._retry(event.data.get("data"))
        elif event.data.get("transient") is not True:
            (self._draft or self._begin("")).add(Part.model_validate(event.data))

    def _upsert(self, message: UIMessage) -> None:
        for place, known in enumerate(self.messages):
            if known.id == message.id:
                self.messages[place] = message
                return
        self.messages.append(message)

    def _start(self, data: JsonObject) -> None:
        # A story that is told again from its beginning replaces what was told of it before.
        draft = self._begin(_text(data, "messageId"))
        _merge_metadata(draft, data)

    def _begin(self, message_id: str) -> _Draft:
        message = UIMessage(id=message_id, role="assistant", parts=[], metadata={})
        draft = self._draft = self._drafts[message_id] = _Draft(message)
        self._upsert(message)
        return draft

    def _finish(self, data: JsonObject) -> None:
        if self._draft is not None:
            _merge_metadata(self._draft, data)
            self._draft.keep()
            if not self._draft.message.parts:
                # Nothing was said or done, so there is no message of it.
                self.messages = [m for m in self.messages if m.id != self._draft.message.id]

    def _retry(self, data: JsonValue) -> None:
        message_id = data.get("messageId") if isinstance(data, dict) else None
        draft = self._drafts.get(message_id) if isinstance(message_id, str) else self._draft
        if draft is not None:
            draft.withdraw()


def _text(data: Mapping[str, object], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _merge_metadata(draft: _Draft, data: JsonObject) -> None:
    metadata = data.get("messageMetadata")
    if isinstance(metadata, dict):
        draft.message.metadata = {**draft.message.metadata, **metadata}


def _start_text(draft: _Draft, data: JsonObject) -> None:
    part = draft.texts[_text(data, "id")] = TextPart(type="text", text="", state="streaming")
    draft.add(part)


def _start_reasoning(draft: _Draft, data: JsonObject) -> None:
    part = ReasoningPart(type="reasoning", text="", state="streaming")
    draft.texts[_text(data, "id")] = part
    draft.add(part)


def _add_text(draft: _Draft, data: JsonObject) -> None:
    if _text(data, "id") not in draft.texts:
        _start_text(draft, data)
    draft.texts[_text(data, "id")].text += _text(data, "delta")


def _add_reasoning(draft: _Draft, data: JsonObject) -> None:
    if _text(data, "id") not in draft.texts:
        _start_reasoning(draft, data)
    draft.texts[_text(data, "id")].text += _text(data, "delta")


def _end_text(draft: _Draft, data: JsonObject) -> None:
    part = draft.texts.pop(_text(data, "id"), None)
    if part is not None:
        part.state = "done"


def _start_tool(draft: _Draft, data: JsonObject) -> None:
    draft.add(
        ToolPart(
            type=f"tool-{_text(data, 'toolName')}",
            tool_call_id=_text(data, "toolCallId"),
            state="input-streaming",
        )
    )


def _give_tool_input(draft: _Draft, data: JsonObject) -> None:
    part = draft.tool(_text(data, "toolCallId"))
    if part is None:
        _start_tool(draft, data)
        part = draft.tool(_text(data, "toolCallId"))
        assert part is not None
    part.state = "input-available"
    part.input = data.get("input")


def _give_tool_output(draft: _Draft, data: JsonObject) -> None:
    part = draft.tool(_text(data, "toolCallId"))
    if part is not None:
        part.state = "output-available"
        part.output = data.get("output")


def _give_tool_error(draft: _Draft, data: JsonObject) -> None:
    part = draft.tool(_text(data, "toolCallId"))
    if part is not None:
        part.state = "output-error"
        part.error_text = _text(data, "errorText")


def _start_step(draft: _Draft, data: JsonObject) -> None:
    del data
    draft.add(StepStartPart(type="step-start"))


def _finish_step(draft: _Draft, data: JsonObject) -> None:
    del data
    draft.keep()


_RULES: dict[str, Callable[[_Draft, JsonObject], None]] = {
    "start-step": _start_step,
    "finish-step": _finish_step,
    "text-start": _start_text,
    "text-delta": _add_text,
    "text-end": _end_text,
    "reasoning-start": _start_reasoning,
    "reasoning-delta": _add_reasoning,
    "reasoning-end": _end_text,
    "tool-input-start": _start_tool,
    "tool-input-available": _give_tool_input,
    "tool-output-available": _give_tool_output,
    "tool-output-error": _give_tool_error,
    "source-url": lambda draft, data: draft.add(SourceUrlPart.model_validate(data)),
    "file": lambda draft, data: draft.add(FilePart.model_validate(data)),
    "message-metadata": _merge_metadata,
}
