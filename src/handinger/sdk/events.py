"""The events of a stream: what a server-sent event means in this API."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from handinger.sdk.errors import APIResponseError
from handinger.sdk.models import JsonObject, UIMessage, Worker
from handinger.sdk.sse import ServerSentEvent

# Exactly one of these ends each turn.
TERMINAL_TYPES = frozenset({"finish", "abort", "error"})

_JSON_OBJECT: TypeAdapter[JsonObject] = TypeAdapter(JsonObject)


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
        return None if brought is None else Worker.model_validate(brought)

    @property
    def message(self) -> UIMessage | None:
        """The message that a `data-message` event brings."""
        brought = self.data.get("data") if self.type == "data-message" else None
        return None if brought is None else UIMessage.model_validate(brought)


def of_sse(sse: ServerSentEvent) -> Event:
    """Raises APIResponseError for what is no event of this API."""
    try:
        data = _JSON_OBJECT.validate_json(sse.data)
    except ValidationError as error:
        raise APIResponseError("The stream has an event that is not a JSON object.") from error
    kind = data.get("type")
    if not isinstance(kind, str):
        raise APIResponseError("The stream has an event without a type.")
    return Event(id=sse.id or None, type=kind, data=data)
