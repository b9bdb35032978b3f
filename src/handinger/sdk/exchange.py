"""Requests, answers and retries, without any I/O.

A `Flow` is a generator that yields what it needs done (send, read, sleep...) and is given the
result. `drivers.py` does it, once for blocking code and once for asyncio, so that every rule stands
here only once.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import random
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import httpx2

from handinger.sdk import errors
from handinger.sdk.errors import HandingerError
from handinger.sdk.uploads import Upload

if TYPE_CHECKING:
    from handinger.sdk.models import JsonObject

# Seconds, or each phase by itself; None waits for ever.
Timeout: TypeAlias = "float | httpx2.Timeout | Literal['default'] | None"

T = TypeVar("T")
U = TypeVar("U")

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 8.0
# A server that asks for more patience than this gets none: the caller learns it at once.
_LONGEST_RETRY_AFTER_S = 60.0
_RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
# Failures before anything was sent that would only repeat themselves.
_HOPELESS = (
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
    httpx2.DecodingError,
    httpx2.TooManyRedirects,
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, the same over all its retries."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: JsonObject | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    uploads: tuple[Upload, ...] = ()
    # How long the server may be silent; the client's own limit if it is not said here.
    timeout: Timeout = "default"

    @property
    def form(self) -> dict[str, str]:
        """The body as the fields of a form, beside which files can be sent."""
        return {name: _form_value(value) for name, value in (self.body or {}).items()}


def _form_value(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A request and the reading of its answer."""

    request: Request
    read: Callable[[httpx2.Response], T]

    def then(self, change: Callable[[T], U]) -> Operation[U]:
        """The same, with something done to what was read."""
        return Operation(self.request, lambda response: change(self.read(response)))


class Reply(NamedTuple):
    """An answer whose headers are there; the body is still to come."""

    response: httpx2.Response
    chunks: Iterator[bytes] | AsyncIterator[bytes]


class Send(NamedTuple):
    """Gives a `Reply`."""

    request: Request


class Read(NamedTuple):
    """Reads the whole body into the response."""

    reply: Reply


class Receive(NamedTuple):
    """Gives the next bytes of the body, None at its end."""

    reply: Reply


class Close(NamedTuple):
    """Gives up on the rest of the body."""

    reply: Reply


class Sleep(NamedTuple):
    """Waits."""

    seconds: float


Effect: TypeAlias = Send | Read | Receive | Close | Sleep

# Drivers throw httpx2.RequestError into the flow where an effect fails.
Flow: TypeAlias = Generator[Effect, object, T]


def send(request: Request) -> Flow[Reply]:
    """Send the request and wait for the headers of its answer."""
    reply = yield Send(request)
    assert isinstance(reply, Reply)
    return reply


def receive(reply: Reply) -> Flow[bytes | None]:
    """The next bytes of the body, None at its end."""
    chunk = yield Receive(reply)
    assert chunk is None or isinstance(chunk, bytes)
    return chunk


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt brought no answer, and whether and when another may."""

    error: HandingerError
    retryable: bool
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often a request is tried and how long to wait in between."""

    base_url: str
    max_retries: int
    jitter: Callable[[], float] = random.random

    def delay_s(self, failures: int, *, at_least_s: float | None = None) -> float:
        """How long to wait after so many failures in a row, counted from 1."""
        backoff_s = min(_FIRST_DELAY_S * 2.0 ** (failures - 1), _LONGEST_DELAY_S)
        # Clients that failed together shall not come back together.
        spread_s = 0.25 * backoff_s * self.jitter()
        return max(backoff_s, at_least_s or 0.0) + spread_s

    def once(self, request: Request, *, streamed: bool) -> Flow[Reply | Failure]:
        """One attempt. The body of the reply has been read, unless it is `streamed`."""
        try:
            reply = yield from send(request)
            if not (streamed and reply.response.is_success):
                yield Read(reply)
        except httpx2.RequestError as error:
            failure = errors.of_transport(error, base_url=self.base_url)
            return Failure(failure, retryable=not isinstance(error, _HOPELESS))
        if reply.response.is_success:
            return reply
        return _refusal(reply.response)

    def until_answered(self, request: Request, *, streamed: bool) -> Flow[Reply]:
        """Attempts until one is answered; raises the last error when they are used up."""
        failures = 0
        while True:
            outcome = yield from self.once(request, streamed=streamed)
            if isinstance(outcome, Reply):
                return outcome
            failures += 1
            if not outcome.retryable or failures > self.max_retries:
                raise outcome.error
            yield Sleep(self.delay_s(failures, at_least_s=outcome.retry_after_s))

    def call(self, operation: Operation[T]) -> Flow[httpx2.Response]:
        """The answer to an operation, to be read."""
        reply = yield from self.until_answered(operation.request, streamed=False)
        return reply.response


def _refusal(response: httpx2.Response) -> Failure:
    retry_after_s = _retry_after_s(response.headers.get("retry-after"))
    wish = response.headers.get("x-should-retry", "").strip().lower()
    if wish in ("true", "false"):
        retryable = wish == "true"
    else:
        retryable = response.status_code in _RETRYABLE_STATUSES
    if retry_after_s is not None and retry_after_s > _LONGEST_RETRY_AFTER_S:
        retryable = False
    return Failure(errors.of_response(response), retryable, retry_after_s)


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return (at - datetime.datetime.now(datetime.UTC)).total_seconds()
