"""Streams of events that outlive their connections: a lost one is taken up where it stopped.

`StreamSession` has the rules and does no I/O; `EventStream` and `AsyncEventStream` are its faces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from enum import Enum, auto
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, Unpack

import httpx2

from handinger.sdk import errors, events, operations
from handinger.sdk.drivers import AsyncDriver, Driver
from handinger.sdk.errors import APIConnectionError, APIResponseError, HandingerError
from handinger.sdk.events import Event
from handinger.sdk.exchange import (
    Attempts,
    Close,
    Flow,
    Operation,
    Reply,
    Request,
    Sleep,
    receive,
)
from handinger.sdk.operations import RequestOptions
from handinger.sdk.sse import SSEDecoder

if TYPE_CHECKING:
    from handinger.sdk.models import Worker

OnEvent: TypeAlias = Callable[[Event], object]

# So many connections in a row may bring no event before the stream gives up.
_MAX_BARREN_CONNECTIONS = 8


class Stage(Enum):
    """What is being told, for a server that shuts down ends its streams as properly as any."""

    DONE = auto()  # nothing: the stream may rightly end here
    MESSAGES = auto()  # what has been, before the worker or a turn is told
    TURN = auto()

    def after(self, event: Event) -> Stage:
        """The stage once this event was told."""
        if event.type == "text-delta":  # Most are, so they do not go through all that follows.
            return Stage.TURN
        if event.is_terminal:
            return Stage.DONE
        if event.type == "data-message":
            return Stage.MESSAGES
        if event.type == "data-worker":
            # It ends the story of an idle worker; that of a turn it does not end yet.
            return Stage.TURN if self is Stage.TURN else Stage.DONE
        return Stage.TURN


class StreamSession:
    """One reader's place in the story of a worker, over any number of connections."""

    def __init__(
        self,
        request: Request,
        *,
        attempts: Attempts,
        worker_id: str | None = None,
        messages: bool = True,
        one_turn: bool = False,
        options: RequestOptions | None = None,
    ) -> None:
        self.worker_id = worker_id
        self.turn_id: str | None = None
        self.request_id: str | None = None
        self.last_event_id: str | None = request.headers.get("last-event-id")
        self.over = False
        self._request = request
        self._attempts = attempts
        self._messages = messages
        self._one_turn = one_turn
        self._options = _of_every_connection(options or {})
        self._reply: Reply | None = None
        self._decoder = SSEDecoder()
        self._ready: deque[Event] = deque()
        self._stage = Stage.TURN if one_turn else Stage.DONE
        self._barren_connections = 0

    def connect(self) -> Flow[None]:
        """Make the first connection; raises what the server has against the request."""
        reply = yield from self._attempts.until_answered(self._request, streamed=True)
        yield from self._adopt(reply)

    def next_event(self) -> Flow[Event | None]:
        """The next event, None at the end of the story.

        Raises APIConnectionError when connection after connection brings nothing new.
        """
        while (event := self._next_ready()) is None:
            if self.over:
                yield from self.disconnect()
                return None
            yield from self._listen()
        if self.over:
            yield from self.disconnect()
        return event

    def ready_event(self) -> Event | None:
        """The next event, if it is here and needs nothing to be done; else ask `next_event`."""
        if self.over or not self._ready or self._ready[0].is_terminal:
            return None
        return self._next_ready()

    def run(self, on_event: OnEvent | None) -> Flow[Worker]:
        """Follow the story from its beginning to its end; returns what the worker came to."""
        worker: Worker | None = None
        yield from self.connect()
        try:
            while (event := (yield from self.next_event())) is not None:
                if on_event is not None:
                    on_event(event)
                worker = event.worker or worker
        except Exception:
            yield from self.disconnect()
            raise
        if worker is None:
            raise APIResponseError("The stream ended without a word about its worker.")
        return worker

    def disconnect(self) -> Flow[None]:
        """Leave; the turn goes on without this reader."""
        self.over = True
        self._ready.clear()
        reply, self._reply = self._reply, None
        if reply is not None:
            yield Close(reply)

    def _next_ready(self) -> Event | None:
        while self._ready:
            event = self._ready.popleft()
            if self._one_turn and self._is_of_other_turn(event):
                continue
            self._note(event)
            return event
        return None

    def _is_of_other_turn(self, event: Event) -> bool:
        return None not in (self.turn_id, event.turn_id) and event.turn_id != self.turn_id

    def _note(self, event: Event) -> None:
        self._barren_connections = 0
        self._stage = self._stage.after(event)
        self.last_event_id = event.id or self.last_event_id
        if self._one_turn:
            self.turn_id = self.turn_id or event.turn_id
            self.over = event.is_terminal

    def _listen(self) -> Flow[None]:
        assert self._reply is not None
        try:
            chunk = yield from receive(self._reply)
        except httpx2.RequestError as error:
            cause = errors.of_transport(error, base_url=self._attempts.base_url)
            return (yield from self._reconnect(cause))
        if chunk is not None:
            self._ready.extend(events.of_sse(sse) for sse in self._decoder.feed(chunk))
        elif self._stage is not Stage.DONE:
            cut = APIConnectionError("The stream ended before the turn did.")
            yield from self._reconnect(cut)
        else:
            self.over = True

    def _reconnect(self, cause: HandingerError) -> Flow[None]:
        assert self._reply is not None
        yield Close(self._reply)
        at_least_s = (self._decoder.retry_ms or 0) / 1000
        while self._barren_connections < _MAX_BARREN_CONNECTIONS:
            self._barren_connections += 1
            yield Sleep(self._attempts.delay_s(self._barren_connections, at_least_s=at_least_s))
            outcome = yield from self._attempts.once(self._resumption(), streamed=True)
            if isinstance(outcome, Reply):
                return (yield from self._adopt(outcome))
            if not outcome.retryable:
                raise outcome.error
            cause, at_least_s = outcome.error, outcome.retry_after_s or 0.0
        raise cause

    def _resumption(self) -> Request:
        """The request that goes on after what has been told, also by events that were skipped."""
        place = self._decoder.last_event_id or self.last_event_id
        if place is None or self.worker_id is None:
            # Nothing was told yet: the same request again, which joins the turn that it started.
            return self._request
        return operations.stream_updates(
            self.worker_id, last_event_id=place, messages=self._messages, **self._options
        )

    def _adopt(self, reply: Reply) -> Flow[None]:
        self._reply = reply
        self._decoder = SSEDecoder()
        headers = reply.response.headers
        self.request_id = headers.get("x-request-id")
        if self._one_turn:
            self.worker_id = headers.get("x-handinger-worker-id") or self.worker_id
            self.turn_id = self.turn_id or headers.get("x-handinger-turn-id")
        if reply.response.status_code == 204:
            self.over = True
        elif not headers.get("content-type", "").startswith("text/event-stream"):
            yield from self.disconnect()
            raise APIResponseError(
                f"{reply.response.url} answered with no event stream; is this the right URL?"
            )


def turn_session(
    operation: Operation[Worker],
    attempts: Attempts,
    *,
    worker_id: str | None = None,
    options: RequestOptions | None = None,
) -> StreamSession:
    """The events of the one turn that this operation starts."""
    request = operations.streamed(operation)
    return StreamSession(
        request, attempts=attempts, worker_id=worker_id, one_turn=True, options=options
    )


def updates_session(
    worker_id: str,
    attempts: Attempts,
    *,
    last_event_id: str | None = None,
    messages: bool = True,
    **options: Unpack[RequestOptions],
) -> StreamSession:
    """The events of a worker, until it is idle."""
    request = operations.stream_updates(
        worker_id, last_event_id=last_event_id, messages=messages, **options
    )
    return StreamSession(
        request, attempts=attempts, worker_id=worker_id, messages=messages, options=options
    )


def _of_every_connection(options: RequestOptions) -> RequestOptions:
    """What later connections carry as the first one did; a body belongs to the first alone."""
    kept: RequestOptions = {}
    if "extra_headers" in options:
        kept["extra_headers"] = options["extra_headers"]
    if "extra_query" in options:
        kept["extra_query"] = options["extra_query"]
    if "timeout" in options:
        kept["timeout"] = options["timeout"]
    return kept


class _Place:
    """Where a stream stands."""

    def __init__(self, session: StreamSession) -> None:
        self._session = session

    @property
    def worker_id(self) -> str | None:
        """The worker whose events these are."""
        return self._session.worker_id

    @property
    def turn_id(self) -> str | None:
        """The turn whose events these are, where the stream is of one turn only."""
        return self._session.turn_id

    @property
    def last_event_id(self) -> str | None:
        """The place after the last event that was given; `stream_updates` goes on from there."""
        return self._session.last_event_id

    @property
    def request_id(self) -> str | None:
        """What the server calls the latest request."""
        return self._session.request_id


class EventStream(_Place):
    """Iterates over events; a context manager that leaves the stream at its end.

    Leaving never stops the turn: it belongs to the server.
    """

    def __init__(self, session: StreamSession, driver: Driver) -> None:
        super().__init__(session)
        self._driver = driver

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._session.ready_event() or self._driver.run(self._session.next_event())
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the stream; closing twice is fine."""
        self._driver.run(self._session.disconnect())


class AsyncEventStream(_Place):
    """Iterates over events; an async context manager that leaves the stream at its end.

    Leaving never stops the turn: it belongs to the server.
    """

    def __init__(self, session: StreamSession, driver: AsyncDriver) -> None:
        super().__init__(session)
        self._driver = driver

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = self._session.ready_event() or await self._driver.run(self._session.next_event())
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave the stream; closing twice is fine."""
        await self._driver.run(self._session.disconnect())


class WorkerEvents:
    """What `worker.follow()` gives: `for` and `with`, or `async for` and `async with`.

    Which of them works depends on the client that the worker came from.
    """

    def __init__(self, session: StreamSession, driver: Driver | AsyncDriver) -> None:
        self._session = session
        self._driver = driver
        self._blocking: EventStream | None = None
        self._async: AsyncEventStream | None = None

    def __iter__(self) -> EventStream:
        return self.__enter__()

    def __enter__(self) -> EventStream:
        if not isinstance(self._driver, Driver):
            raise HandingerError("This worker came from AsyncHandinger: use `async for`.")
        if self._blocking is None:
            self._driver.run(self._session.connect())
            self._blocking = EventStream(self._session, self._driver)
        return self._blocking

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._blocking is not None:
            self._blocking.close()

    async def __aiter__(self) -> AsyncGenerator[Event]:
        async with self as stream:
            async for event in stream:
                yield event

    async def __aenter__(self) -> AsyncEventStream:
        if not isinstance(self._driver, AsyncDriver):
            raise HandingerError("This worker came from Handinger: use `for`, without async.")
        if self._async is None:
            await self._driver.run(self._session.connect())
            self._async = AsyncEventStream(self._session, self._driver)
        return self._async

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._async is not None:
            await self._async.close()
