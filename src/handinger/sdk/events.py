"""The events of a stream: what a server-sent event means in this API.

Each type of event has its class, for `match` and `isinstance`; a type that this version does not
know is a plain `Event`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from handinger.sdk.errors import APIResponseError
from handinger.sdk.sse import ServerSentEvent

if TYPE_CHECKING:
    from pydantic import JsonValue

    from handinger.sdk.models import JsonObject, UIMessage, Worker

# Exactly one of these ends each turn.
TERMINAL_TYPES = frozenset({"finish", "abort", "error"})


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a turn; `data` is the whole JSON object, its `type` included.

    `id` names the place in the story that comes after this event, for `last_event_id`.
    """

    id: str | None
    type: str
    data: JsonObject

    @property
    def turn_id(self) -> str | None:
        """The turn that it belongs to, as its id says."""
        turn_id, dash, _ = (self.id or "").rpartition("-")
        return turn_id if dash else None

    @property
    def is_terminal(self) -> bool:
        """Whether it ends a turn."""
        return self.type in TERMINAL_TYPES

    @property
    def worker(self) -> Worker | None:
        """The worker that a `data-worker` event brings."""
        brought = self.data.get("data") if self.type == "data-worker" else None
        if brought is None:
            return None
        from handinger.sdk.models import Worker

        return Worker.model_validate(brought)

    @property
    def message(self) -> UIMessage | None:
        """The message that a `data-message` event brings."""
        brought = self.data.get("data") if self.type == "data-message" else None
        if brought is None:
            return None
        from handinger.sdk.models import UIMessage

        return UIMessage.model_validate(brought)

    def _text(self, name: str) -> str:
        value = self.data.get(name)
        return value if isinstance(value, str) else ""


class StartEvent(Event):
    """A turn's answer begins."""

    __slots__ = ()

    @property
    def message_id(self) -> str:
        """The id of the message that the events of this turn add up to."""
        return self._text("messageId")


class StartStepEvent(Event):
    """A model call begins."""

    __slots__ = ()


class FinishStepEvent(Event):
    """A model call and its tools are done; nothing so far is withdrawn any more."""

    __slots__ = ()


class _OfText(Event):
    __slots__ = ()

    @property
    def part_id(self) -> str:
        """Which text of the message."""
        return self._text("id")


class TextStartEvent(_OfText):
    """A text begins."""

    __slots__ = ()


class TextDeltaEvent(_OfText):
    """A text goes on."""

    __slots__ = ()

    @property
    def delta(self) -> str:
        """What is added to the text."""
        return self._text("delta")


class TextEndEvent(_OfText):
    """A text is whole."""

    __slots__ = ()


class ReasoningStartEvent(_OfText):
    """The model begins to think aloud."""

    __slots__ = ()


class ReasoningDeltaEvent(_OfText):
    """A thought goes on."""

    __slots__ = ()

    @property
    def delta(self) -> str:
        """What is added to the thought."""
        return self._text("delta")


class ReasoningEndEvent(_OfText):
    """A thought is whole."""

    __slots__ = ()


class _OfTool(Event):
    __slots__ = ()

    @property
    def tool_call_id(self) -> str:
        """Which use of a tool."""
        return self._text("toolCallId")


class ToolInputStartEvent(_OfTool):
    """The model begins to write what a tool shall do."""

    __slots__ = ()

    @property
    def tool_name(self) -> str:
        """The tool."""
        return self._text("toolName")


class ToolInputDeltaEvent(_OfTool):
    """What a tool shall do, as far as the model has written it."""

    __slots__ = ()

    @property
    def input_text_delta(self) -> str:
        """What is added to the JSON text."""
        return self._text("inputTextDelta")


class ToolInputAvailableEvent(_OfTool):
    """A tool begins its work."""

    __slots__ = ()

    @property
    def tool_name(self) -> str:
        """The tool."""
        return self._text("toolName")

    @property
    def input(self) -> JsonValue:
        """What it was given."""
        return self.data.get("input")


class ToolOutputAvailableEvent(_OfTool):
    """A tool is done."""

    __slots__ = ()

    @property
    def output(self) -> JsonValue:
        """What it answered."""
        return self.data.get("output")


class ToolOutputErrorEvent(_OfTool):
    """A tool could not do it; the model was told why."""

    __slots__ = ()

    @property
    def error_text(self) -> str:
        """Why."""
        return self._text("errorText")


class SourceUrlEvent(Event):
    """A page was used."""

    __slots__ = ()

    @property
    def url(self) -> str:
        """Its address."""
        return self._text("url")

    @property
    def title(self) -> str | None:
        """Its title, if it has one."""
        return self._text("title") or None


class FileEvent(Event):
    """A file was published."""

    __slots__ = ()

    @property
    def url(self) -> str:
        """Where it can be read."""
        return self._text("url")

    @property
    def media_type(self) -> str:
        """What it is."""
        return self._text("mediaType")


class MessageEvent(Event):
    """A whole message, in `message`: an instruction, or the answer of a turn that has ended."""

    __slots__ = ()


class WorkerEvent(Event):
    """The worker as it is now, in `worker`; it comes right before the end of a turn."""

    __slots__ = ()


class RetryEvent(Event):
    """What came after the last `finish-step` of a message is withdrawn; it will be told anew."""

    __slots__ = ()

    @property
    def message_id(self) -> str:
        """Of which message."""
        data = self.data.get("data")
        value = data.get("messageId") if isinstance(data, dict) else None
        return value if isinstance(value, str) else ""


class FinishEvent(Event):
    """The turn has ended."""

    __slots__ = ()


class AbortEvent(Event):
    """The turn was cancelled."""

    __slots__ = ()


class ErrorEvent(Event):
    """The turn has failed."""

    __slots__ = ()

    @property
    def error_text(self) -> str:
        """Why."""
        return self._text("errorText")


_read_json = json.JSONDecoder().raw_decode

_CLASSES: dict[str, type[Event]] = {
    "start": StartEvent,
    "start-step": StartStepEvent,
    "finish-step": FinishStepEvent,
    "text-start": TextStartEvent,
    "text-delta": TextDeltaEvent,
    "text-end": TextEndEvent,
    "reasoning-start": ReasoningStartEvent,
    "reasoning-delta": ReasoningDeltaEvent,
    "reasoning-end": ReasoningEndEvent,
    "tool-input-start": ToolInputStartEvent,
    "tool-input-delta": ToolInputDeltaEvent,
    "tool-input-available": ToolInputAvailableEvent,
    "tool-output-available": ToolOutputAvailableEvent,
    "tool-output-error": ToolOutputErrorEvent,
    "source-url": SourceUrlEvent,
    "file": FileEvent,
    "data-message": MessageEvent,
    "data-worker": WorkerEvent,
    "data-retry": RetryEvent,
    "finish": FinishEvent,
    "abort": AbortEvent,
    "error": ErrorEvent,
}


def of_sse(sse: ServerSentEvent) -> Event:
    """Raises APIResponseError for what is no event of this API."""
    try:
        # As a rule the object is all there is, and what `json.loads` does around it takes as long.
        told, end = _read_json(sse.data, 0)
        data: object = told if end == len(sse.data) else json.loads(sse.data)
    except ValueError as error:
        raise APIResponseError("The stream has an event that is not a JSON object.") from error
    if not isinstance(data, dict):
        raise APIResponseError("The stream has an event that is not a JSON object.")
    fields = cast("JsonObject", data)
    kind = fields.get("type")
    if not isinstance(kind, str):
        raise APIResponseError("The stream has an event without a type.")
    return _CLASSES.get(kind, Event)(sse.id or None, kind, fields)
