"""Reads event streams as a client does: strictly, in a thread of its own, cut off at any moment."""

import http.client
import json
import re
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.contract.vocabulary import check_event
from tests.contract.wire import Json
from tests.contract.world import PATIENCE_S, Api, Scripted, wait_until
from tests.support.fold import TERMINAL, Fold

# One field a line, an id before each event, and nothing else but comments.
_EVENT = re.compile(rb"id: ([!-~]+)\ndata: (\{.*\})\n", re.DOTALL)


@dataclass(frozen=True)
class Received:
    """One event and its id."""

    id: str
    event: Json

    @property
    def type(self) -> str:
        return self.event["type"]


class Stream:
    """One answer to one request; `received` grows until the server closes it, or a `cut_off`."""

    def __init__(
        self,
        api: Api,
        method: str,
        target: str,
        *,
        body: Json | None = None,
        last_event_id: str | None = None,
        accept: str | None = None,
    ) -> None:
        self.received: list[Received] = []
        self.comments: list[bytes] = []
        # Long enough for a ping, and for a turn that another process takes over.
        self._connection = http.client.HTTPConnection("127.0.0.1", api.server.port, timeout=30)
        headers = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        if accept is not None:
            headers["Accept"] = accept
        self._connection.request(method, target, json.dumps(body) if body else None, headers)
        self._socket: socket.socket = self._connection.sock
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.headers = self._response.headers
        self._was_cut_off = False
        self._reading: Future[None] = Future()
        # A daemon, so that a stream which a failed test left open holds up nothing.
        threading.Thread(target=self._read_to_end, daemon=True).start()

    def _read_to_end(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self._reading.set_exception(error)
        else:
            self._reading.set_result(None)

    def _read(self) -> None:
        block = b""
        try:
            while line := self._response.readline():
                if line == b"\n":
                    self._take(block)
                    block = b""
                else:
                    block += line
            assert not block or self._was_cut_off, f"the stream ends within an event: {block[:200]}"
        except (http.client.IncompleteRead, OSError):
            if not self._was_cut_off:
                raise
        finally:
            self._connection.close()

    def _take(self, block: bytes) -> None:
        if block.startswith(b":"):
            self.comments.append(block)
            return
        match = _EVENT.fullmatch(block)
        assert match is not None, f"no event of ours: {block[:200]}"
        event = json.loads(match[2].decode("utf-8", errors="strict"), parse_constant=_refuse)
        check_event(event)
        self.received.append(Received(match[1].decode(), event))

    @property
    def worker_id(self) -> str:
        return self.headers["x-handinger-worker-id"]

    @property
    def types(self) -> list[str]:
        return [received.type for received in self.received]

    @property
    def events(self) -> list[Json]:
        return [received.event for received in self.received]

    @property
    def text(self) -> str:
        """Of every text that it told, whatever became of it."""
        return "".join(event.get("delta", "") for event in self.events)

    def wait_for(self, kind: str, *, count: int = 1) -> "Stream":
        """Wait until so many events of a kind have come."""
        self._wait_until(lambda: self.types.count(kind) >= count, f"{count} {kind}")
        return self

    def wait_for_text(self, text: str) -> "Stream":
        """Wait until this was told, in whatever pieces."""
        self._wait_until(lambda: text in self.text, text[:80])
        return self

    def _wait_until(self, look: Any, what: str) -> None:
        def found() -> bool:
            if look():
                return True
            if self._reading.done():
                self._reading.result()
                assert look(), f"the stream ended without {what}: {self.types}"
                return True
            return False

        wait_until(found)

    def read(self, *, timeout_s: float = PATIENCE_S) -> "Stream":
        """Wait until the server has closed it."""
        self._reading.result(timeout_s)
        return self

    def read_what_came(self) -> "Stream":
        """Wait until the server is gone, however it went."""
        self._was_cut_off = True
        return self.read()

    @property
    def has_ended(self) -> bool:
        return self._reading.done()

    def cut_off(self) -> "Stream":
        """Hang up, wherever it is."""
        self._was_cut_off = True
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reading.result(PATIENCE_S)
        return self


def _refuse(constant: str) -> object:
    raise AssertionError(f"{constant} is no JSON")


def post(api: Api, input: str | Scripted, *, to: str | None = None, **fields: Any) -> Stream:
    """An instruction to a new worker, or to this one, with `stream: true`."""
    text = input if isinstance(input, str) else input.input
    target = f"/api/workers/{to}" if to else "/api/workers"
    return Stream(api, "POST", target, body={"input": text, "stream": True, **fields})


def watch(
    api: Api, worker_id: str, *, last_event_id: str | None = None, messages: bool = True
) -> Stream:
    """The stream of a worker."""
    query = "" if messages else "?" + urlencode({"messages": "false"})
    target = f"/api/workers/{worker_id}/stream{query}"
    return Stream(api, "GET", target, last_event_id=last_event_id)


def folded(received: Sequence[Received] | Stream, *, into: Fold | None = None) -> Fold:
    """One turn's events, added up. What ended turns left as messages is passed over."""
    fold = into or Fold()
    for each in received.received if isinstance(received, Stream) else received:
        if each.type != "data-message":
            fold.add(each.event)
    return fold


@dataclass
class Told:
    """What a reader of a whole worker was told: messages, and turns that were told as events."""

    messages: list[Json] = field(default_factory=list[Json])
    turns: list[list[Received]] = field(default_factory=list[list[Received]])


def told(received: Sequence[Received]) -> Told:
    """Takes a worker's stream apart; each turn from `start` to its terminal event."""
    result = Told()
    turn: list[Received] | None = None
    for each in received:
        if each.type == "data-message":
            assert turn is None, "a message within a turn"
            result.messages.append(each.event["data"])
            continue
        if turn is None:
            turn = []
            result.turns.append(turn)
        turn.append(each)
        if each.type in TERMINAL:
            turn = None
    return result


def stored_message(worker: Json, message_id: str | None) -> Json:
    """The message with this id."""
    return next(message for message in worker["messages"] if message["id"] == message_id)


def check_same(fold: Fold, worker: Json) -> None:
    """What the events add up to is what was stored afterwards."""
    if not fold.parts:
        assert fold.id not in [message["id"] for message in worker["messages"]]
        return
    message = stored_message(worker, fold.id)
    assert message["role"] == "assistant"
    assert fold.parts == message["parts"]
    metadata = fold.metadata
    assert metadata is not None
    assert message["metadata"].items() >= metadata.items()
