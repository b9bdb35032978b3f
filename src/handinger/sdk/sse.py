"""The text/event-stream format (WHATWG HTML, section 9.2), from bytes to events; it does no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event as it was dispatched; `id` is the last id that was told so far."""

    id: str
    event: str
    data: str


class SSEDecoder:
    """Takes the bytes of one response as they come, cut anywhere, and gives the complete events.

    An event that the end of the response cuts off is never given, as the format demands.
    """

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self._line: list[bytes] = []
        self._at_start = True
        self._after_cr = False
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that this chunk completes."""
        events: list[ServerSentEvent] = []
        for line in self._lines(chunk):
            if line:
                self._read(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        return events

    def _lines(self, chunk: bytes) -> Iterator[str]:
        if not chunk:
            return
        # A CR ends its line at once; the LF that may follow it belongs to the same line end.
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
            if not chunk:
                return
        self._after_cr = chunk.endswith(b"\r")
        # CR and LF never occur inside a UTF-8 sequence, so lines are cut before they are decoded.
        head, *rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line.append(head)
        for tail in rest:
            yield self._take_line()
            self._line.append(tail)

    def _take_line(self) -> str:
        line = b"".join(self._line)
        self._line.clear()
        if self._at_start:
            line = line.removeprefix(_BOM)
            self._at_start = False
        return line.decode("utf-8", errors="replace")

    def _read(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "event":
            self._event = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)

    def _dispatch(self) -> ServerSentEvent | None:
        data, self._data = self._data, []
        event, self._event = self._event, ""
        self.last_event_id = self._id
        if not data:
            return None
        return ServerSentEvent(id=self._id, event=event or "message", data="\n".join(data))
