"""The text/event-stream format (WHATWG HTML, section 9.2), from bytes to events; it does no I/O."""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
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
        self._rest: list[bytes] = []
        self._at_start = True
        self._after_cr = False
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that this chunk completes."""
        events: list[ServerSentEvent] = []
        for line in self._lines(chunk):
            # What most lines are.
            if line.startswith("data: "):
                self._data.append(line[6:])
            elif line:
                self._read(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        return events

    def _lines(self, chunk: bytes) -> list[str]:
        # A CR ends its line at once; the LF that may follow it belongs to the same line end.
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # CR and LF never occur inside a UTF-8 sequence, so lines are cut before they are decoded.
        whole, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            self._rest.append(rest)
            return []
        self._rest.append(whole)
        text = b"".join(self._rest)
        self._rest = [rest]
        if self._at_start:
            text = text.removeprefix(_BOM)
            self._at_start = False
        return text.decode("utf-8", errors="replace").split("\n")

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
        self.last_event_id = self._id
        event, self._event = self._event, ""
        if not self._data:
            return None
        data = self._data[0] if len(self._data) == 1 else "\n".join(self._data)
        self._data = []
        return ServerSentEvent(self._id, event or "message", data)
