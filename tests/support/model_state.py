"""What a scripted model knows: scripts, gates, how often each step was tried, and the log."""

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from tests.support.model_answers import Answer, Place, locate
from tests.support.model_scripts import (
    DEFAULT_SCRIPT,
    DEFAULT_TEXT,
    MODEL_ID,
    Failure,
    HttpError,
    Script,
    Served,
    Step,
    to_json,
)

_NOWHERE = Place(script="", turn=0, step=0, tool_results=0)


@dataclass(slots=True)
class Exchange:
    """One request under way; `RecordedRequest` is what others see of it."""

    index: int
    at: float
    raw_headers: bytes
    raw_body: bytes | None
    request_bytes: int
    place: Place = _NOWHERE
    served: Served = "step"
    attempt: int = 1
    model: str = MODEL_ID
    stream: bool = False
    include_usage: bool = False
    tool_choice: object = None
    tool_names: tuple[str, ...] = ()
    message_count: int = 0
    first_byte_at: float | None = None
    ended_at: float | None = None
    client_hung_up: bool = False

    @property
    def completion_id(self) -> bytes:
        return b"chatcmpl-%012d" % self.index

    @property
    def call_prefix(self) -> str:
        return f"call_{self.place.script}_{self.place.turn}_{self.place.step}_"

    def understand(self, body: bytes) -> None:
        """Take from the request what decides the answer; raises if it is no such request."""
        asked = cast(Mapping[str, object], json.loads(body))
        messages = cast(list[Mapping[str, object]], asked["messages"])
        options = cast(Mapping[str, object], asked.get("stream_options") or {})
        tools = cast(list[Mapping[str, Mapping[str, str]]], asked.get("tools") or [])
        self.place = locate(messages)
        self.message_count = len(messages)
        self.model = str(asked.get("model", MODEL_ID))
        self.stream = asked.get("stream") is True
        self.include_usage = options.get("include_usage") is True
        self.tool_choice = asked.get("tool_choice")
        # Interned, as thousands of remembered requests tell of the same few tools.
        self.tool_names = tuple(sys.intern(tool["function"]["name"]) for tool in tools)

    def to_json(self, *, with_body: bool) -> bytes:
        headers = (line.partition(":") for line in self.raw_headers.decode("latin-1").split("\n"))
        facts = {
            "index": self.index,
            "script": self.place.script,
            "step": self.place.step,
            "attempt": self.attempt,
            "served": self.served,
            "at": self.at,
            "first_byte_at": self.first_byte_at,
            "ended_at": self.ended_at,
            "client_hung_up": self.client_hung_up,
            "headers": {name.lower(): value for name, _, value in headers if name},
            "model": self.model,
            "stream": self.stream,
            "tool_choice": self.tool_choice,
            "tool_names": self.tool_names,
            "message_count": self.message_count,
        }
        body = self.raw_body if with_body and self.raw_body else b"null"
        return b'%b,"body":%b}' % (to_json(facts)[:-1].encode(), body)


class RequestLog:
    """The latest requests; the oldest are let go of, bodies first, so that its size is bounded."""

    def __init__(self, *, max_requests: int, max_body_bytes: int, biggest_body_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_body_bytes = max_body_bytes
        self._biggest_body_bytes = biggest_body_bytes
        self.clear()

    def clear(self) -> None:
        self._exchanges: deque[Exchange] = deque()
        self._with_body: deque[Exchange] = deque()
        self._body_bytes = 0
        self._arrived: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()

    def add(self, exchange: Exchange) -> None:
        self._arrived[exchange.place.script] += 1
        self._exchanges.append(exchange)
        if exchange.raw_body is not None and len(exchange.raw_body) <= self._biggest_body_bytes:
            self._with_body.append(exchange)
            self._body_bytes += len(exchange.raw_body)
        else:
            exchange.raw_body = None
        while self._body_bytes > self._max_body_bytes:
            self._let_go_of_oldest_body()
        if len(self._exchanges) > self._max_requests:
            oldest = self._exchanges.popleft()
            if oldest.raw_body is not None:
                self._let_go_of_oldest_body()

    def _let_go_of_oldest_body(self) -> None:
        oldest = self._with_body.popleft()
        self._body_bytes -= len(oldest.raw_body or b"")
        oldest.raw_body = None

    def end(self, exchange: Exchange) -> None:
        self._ended[exchange.place.script] += 1

    def count(self, script: str | None, *, ended: bool) -> int:
        """All since the last `clear`, remembered or not."""
        counts = self._ended if ended else self._arrived
        return counts.total() if script is None else counts[script]

    def to_json(self, script: str | None, *, with_bodies: bool) -> bytes:
        told = (e for e in self._exchanges if script is None or e.place.script == script)
        return b"[%b]" % b",".join(e.to_json(with_body=with_bodies) for e in told)


class _Scripted:
    def __init__(self, script: Script) -> None:
        self._answers = [Answer(step) for step in script.steps]
        repeats = script.after_last == "repeat" and self._answers
        self._after_last = self._answers[-1] if repeats else Answer(Step(text="done"))
        own = script.when_tool_choice_none
        self._concluding = Answer(own) if own else None

    def serve(self, exchange: Exchange) -> Answer:
        """Choose the answer, and note in the exchange why it was this one."""
        place = exchange.place
        if exchange.tool_choice == "none":
            exchange.served = "concluding"
            text = f"Concluding: {place.tool_results} tool results so far."
            return self._concluding or Answer(Step(text=text))
        if place.step < len(self._answers):
            return self._answers[place.step]
        exchange.served = "after_last"
        return self._after_last


class _Cuttable(Protocol):
    def cut(self) -> None: ...


class ScriptedModel:
    """All state of the server; every connection shares it."""

    def __init__(self, log: RequestLog) -> None:
        self.log = log
        self.active: set[_Cuttable] = set()
        self._next_index = 0
        self._forget()

    def _forget(self) -> None:
        self._scripts: dict[str, _Scripted] = {}
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._tries: Counter[tuple[str, int | str]] = Counter()
        self.set_script(DEFAULT_SCRIPT, Script(steps=[Step(text=DEFAULT_TEXT)]))

    def reset(self) -> None:
        """As after the start; answers under way are cut off."""
        for connection in list(self.active):
            connection.cut()
        self._forget()
        self.log.clear()

    def set_script(self, name: str, script: Script) -> None:
        self._scripts[name] = _Scripted(script)
        for key in [key for key in self._tries if key[0] == name]:
            del self._tries[key]

    def gate(self, name: str) -> asyncio.Event:
        return self._gates[name]

    def arrive(self, headers: bytes, body: bytes) -> Exchange:
        """Note a request; one that is none for a chat completion is served as `bad_request`."""
        exchange = Exchange(self._next_index, time.monotonic(), headers, body, len(body))
        self._next_index += 1
        try:
            exchange.understand(body)
        except (ValueError, TypeError, LookupError, AttributeError):
            exchange.served = "bad_request"
            exchange.raw_body = None
        self.log.add(exchange)
        return exchange

    def decide(self, exchange: Exchange) -> tuple[Answer, Failure | None]:
        """What to answer, and how that fails this time, if it does."""
        if exchange.served == "bad_request":
            return _NO_ANSWER, HttpError(400, body="this is no request for a chat completion")
        name = exchange.place.script
        if (script := self._scripts.get(name)) is None:
            exchange.served = "unknown_script"
            return _NO_ANSWER, HttpError(404, body=f"no script is named {name!r}")
        answer = script.serve(exchange)
        key = (name, "concluding" if exchange.served == "concluding" else exchange.place.step)
        attempts, tried = answer.step.attempts, self._tries[key]
        self._tries[key] += 1
        exchange.attempt = tried + 1
        failure = attempts[tried] if tried < len(attempts) else answer.step.fail_always
        if failure is not None:
            exchange.served = "failure"
        return answer, failure


_NO_ANSWER = Answer(Step())
