"""`client.workers`: what can be done with workers, blocking and under asyncio."""

from __future__ import annotations

from typing import Literal, TypeVar, Unpack, overload

from handinger.sdk import operations
from handinger.sdk.drivers import AsyncDriver, Driver
from handinger.sdk.exchange import Attempts, Operation
from handinger.sdk.models import Deletion, Turn, TurnPage, Worker, WorkerPage, WorkerStatus
from handinger.sdk.operations import ContinueParams, CreateParams, FileContent
from handinger.sdk.streams import (
    AsyncEventStream,
    EventStream,
    StreamSession,
    turn_session,
    updates_session,
)

T = TypeVar("T")


class Workers:
    """The workers of an organization."""

    def __init__(self, driver: Driver, attempts: Attempts) -> None:
        self._driver = driver
        self._attempts = attempts

    @overload
    def create(
        self,
        *,
        stream: Literal[False] = False,
        background: bool = False,
        **params: Unpack[CreateParams],
    ) -> Worker: ...

    @overload
    def create(self, *, stream: Literal[True], **params: Unpack[CreateParams]) -> EventStream: ...

    def create(
        self, *, stream: bool = False, background: bool = False, **params: Unpack[CreateParams]
    ) -> Worker | EventStream:
        """Create a worker and run its first turn; returns when that turn ends.

        With `stream`, gives its events as they happen; with `background`, returns at once.
        """
        operation = operations.create(background=background, **params)
        if stream:
            return self._open(turn_session(operation, self._attempts))
        return self._call(operation)

    @overload
    def continue_(
        self,
        worker_id: str,
        *,
        stream: Literal[False] = False,
        background: bool = False,
        **params: Unpack[ContinueParams],
    ) -> Worker: ...

    @overload
    def continue_(
        self, worker_id: str, *, stream: Literal[True], **params: Unpack[ContinueParams]
    ) -> EventStream: ...

    def continue_(
        self,
        worker_id: str,
        *,
        stream: bool = False,
        background: bool = False,
        **params: Unpack[ContinueParams],
    ) -> Worker | EventStream:
        """Give the next instruction in the same conversation; like `create` otherwise."""
        operation = operations.continue_(worker_id, background=background, **params)
        if stream:
            return self._open(turn_session(operation, self._attempts, worker_id=worker_id))
        return self._call(operation)

    def retrieve(self, worker_id: str, *, messages: bool = True) -> Worker:
        """The worker as of now, with or without its conversation."""
        return self._call(operations.retrieve(worker_id, messages=messages))

    def list(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        status: WorkerStatus | None = None,
    ) -> WorkerPage:
        """One page of workers, newest first, without their messages."""
        operation = operations.list_workers(limit=limit, cursor=cursor, status=status)
        return self._call(operation)

    def cancel(self, worker_id: str, *, turn_id: str | None = None) -> Worker:
        """Stop the running turn and drop the waiting ones, or `turn_id` only; returns once done."""
        return self._call(operations.cancel(worker_id, turn_id=turn_id))

    def delete(self, worker_id: str) -> Deletion:
        """Cancel, then remove the worker and all that is its own."""
        return self._call(operations.delete(worker_id))

    def turns(
        self, worker_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> TurnPage:
        """One page of the worker's turns, newest first."""
        operation = operations.list_turns(worker_id, limit=limit, cursor=cursor)
        return self._call(operation)

    def retrieve_turn(self, worker_id: str, turn_id: str) -> Turn:
        """One turn as of now."""
        return self._call(operations.retrieve_turn(worker_id, turn_id))

    def retrieve_file(self, path: str, *, worker_id: str) -> FileContent:
        """A file of the worker's workspace, whole."""
        return self._call(operations.retrieve_file(worker_id, path))

    def stream_updates(
        self, worker_id: str, *, last_event_id: str | None = None, messages: bool = True
    ) -> EventStream:
        """The conversation, then what runs or waits, live, until the worker is idle.

        `last_event_id` goes on after that place. Without `messages`: only the turn that runs.
        """
        return self._open(
            updates_session(
                worker_id, self._attempts, last_event_id=last_event_id, messages=messages
            )
        )

    def _call(self, operation: Operation[T]) -> T:
        return self._driver.run(self._attempts.call(operation))

    def _open(self, session: StreamSession) -> EventStream:
        self._driver.run(session.connect())
        return EventStream(session, self._driver)


class AsyncWorkers:
    """The workers of an organization, under asyncio; `Workers` says what each method promises."""

    def __init__(self, driver: AsyncDriver, attempts: Attempts) -> None:
        self._driver = driver
        self._attempts = attempts

    @overload
    async def create(
        self,
        *,
        stream: Literal[False] = False,
        background: bool = False,
        **params: Unpack[CreateParams],
    ) -> Worker: ...

    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[CreateParams]
    ) -> AsyncEventStream: ...

    async def create(
        self, *, stream: bool = False, background: bool = False, **params: Unpack[CreateParams]
    ) -> Worker | AsyncEventStream:
        operation = operations.create(background=background, **params)
        if stream:
            return await self._open(turn_session(operation, self._attempts))
        return await self._call(operation)

    @overload
    async def continue_(
        self,
        worker_id: str,
        *,
        stream: Literal[False] = False,
        background: bool = False,
        **params: Unpack[ContinueParams],
    ) -> Worker: ...

    @overload
    async def continue_(
        self, worker_id: str, *, stream: Literal[True], **params: Unpack[ContinueParams]
    ) -> AsyncEventStream: ...

    async def continue_(
        self,
        worker_id: str,
        *,
        stream: bool = False,
        background: bool = False,
        **params: Unpack[ContinueParams],
    ) -> Worker | AsyncEventStream:
        operation = operations.continue_(worker_id, background=background, **params)
        if stream:
            return await self._open(turn_session(operation, self._attempts, worker_id=worker_id))
        return await self._call(operation)

    async def retrieve(self, worker_id: str, *, messages: bool = True) -> Worker:
        return await self._call(operations.retrieve(worker_id, messages=messages))

    async def list(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        status: WorkerStatus | None = None,
    ) -> WorkerPage:
        operation = operations.list_workers(limit=limit, cursor=cursor, status=status)
        return await self._call(operation)

    async def cancel(self, worker_id: str, *, turn_id: str | None = None) -> Worker:
        return await self._call(operations.cancel(worker_id, turn_id=turn_id))

    async def delete(self, worker_id: str) -> Deletion:
        return await self._call(operations.delete(worker_id))

    async def turns(
        self, worker_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> TurnPage:
        operation = operations.list_turns(worker_id, limit=limit, cursor=cursor)
        return await self._call(operation)

    async def retrieve_turn(self, worker_id: str, turn_id: str) -> Turn:
        return await self._call(operations.retrieve_turn(worker_id, turn_id))

    async def retrieve_file(self, path: str, *, worker_id: str) -> FileContent:
        return await self._call(operations.retrieve_file(worker_id, path))

    async def stream_updates(
        self, worker_id: str, *, last_event_id: str | None = None, messages: bool = True
    ) -> AsyncEventStream:
        return await self._open(
            updates_session(
                worker_id, self._attempts, last_event_id=last_event_id, messages=messages
            )
        )

    async def _call(self, operation: Operation[T]) -> T:
        return await self._driver.run(self._attempts.call(operation))

    async def _open(self, session: StreamSession) -> AsyncEventStream:
        await self._driver.run(session.connect())
        return AsyncEventStream(session, self._driver)
