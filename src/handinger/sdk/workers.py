"""`client.workers`: what can be done with workers, blocking and under asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeVar, Unpack, overload

from handinger.sdk import downloads, operations, paging
from handinger.sdk.answers import FileContent
from handinger.sdk.binding import Binding
from handinger.sdk.caller import AsyncCaller, Caller
from handinger.sdk.downloads import Download, Progress, Target
from handinger.sdk.drivers import AsyncDriver, Driver
from handinger.sdk.emails import AsyncEmails, Emails
from handinger.sdk.exchange import Attempts
from handinger.sdk.operations import (
    ContinueParams,
    CreateParams,
    PostOptions,
    RequestOptions,
    RunOptions,
)
from handinger.sdk.raw import AsyncWorkersWithRawResponse, WorkersWithRawResponse
from handinger.sdk.schedules import AsyncSchedules, Schedules
from handinger.sdk.streams import (
    AsyncEventStream,
    EventStream,
    OnEvent,
    StreamSession,
    turn_session,
    updates_session,
)

if TYPE_CHECKING:
    from handinger.sdk.models import (
        BudgetList,
        Deletion,
        Turn,
        TurnPage,
        Worker,
        WorkerPage,
        WorkerStatus,
    )

T = TypeVar("T")


class Workers:
    """The workers of an organization."""

    def __init__(self, driver: Driver, attempts: Attempts, *, raw: bool = False) -> None:
        caller = Caller(driver, attempts, raw)
        self._driver = driver
        self._attempts = attempts
        self._binding = Binding(driver, attempts)
        self._call = caller.call
        self.schedules = Schedules(caller)
        self.emails = Emails(caller)

    @cached_property
    def with_raw_response(self) -> WorkersWithRawResponse:
        """The same methods, whose answers come with their status and headers."""
        return WorkersWithRawResponse(Workers(self._driver, self._attempts, raw=True))

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
            return self._open(turn_session(operation, self._attempts, options=params))
        return self._call(operation.then(self._binding.worker))

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
            return self._open(
                turn_session(operation, self._attempts, worker_id=worker_id, options=params)
            )
        return self._call(operation.then(self._binding.worker))

    def run(
        self,
        input: str,
        *,
        on_event: OnEvent | None = None,
        **options: Unpack[RunOptions],
    ) -> Worker:
        """Create a worker, follow its first turn to the end, and return what it came to.

        However long it takes, and however often the connection breaks in between. `on_event` is
        called with each event on the way.
        """
        params: CreateParams = {"input": input, **options}
        session = turn_session(operations.create(**params), self._attempts, options=params)
        return self._binding.worker(self._driver.run(session.run(on_event)))

    def retrieve(
        self, worker_id: str, *, messages: bool = True, **options: Unpack[RequestOptions]
    ) -> Worker:
        """The worker as of now, with or without its conversation."""
        operation = operations.retrieve(worker_id, messages=messages, **options)
        return self._call(operation.then(self._binding.worker))

    def wait(
        self,
        worker_id: str,
        *,
        on_event: OnEvent | None = None,
        **options: Unpack[RequestOptions],
    ) -> Worker:
        """Follow the worker until nothing is left to do, and return it."""
        session = updates_session(worker_id, self._attempts, **options)
        return self._binding.worker(self._driver.run(session.run(on_event)))

    def list(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        status: WorkerStatus | None = None,
        **options: Unpack[RequestOptions],
    ) -> WorkerPage:
        """One page of workers, newest first, without their messages."""
        operation = operations.list_workers(limit=limit, cursor=cursor, status=status, **options)
        return self._call(operation.then(self._binding.page))

    def iterate(
        self, *, status: WorkerStatus | None = None, **options: Unpack[RequestOptions]
    ) -> Iterator[Worker]:
        """All workers, newest first, page after page as they are asked for."""
        return paging.each(
            lambda cursor: self.list(limit=paging.SIZE, cursor=cursor, status=status, **options),
            lambda page: page.workers,
        )

    def cancel(
        self, worker_id: str, *, turn_id: str | None = None, **options: Unpack[PostOptions]
    ) -> Worker:
        """Stop the running turn and drop the waiting ones, or `turn_id` only; returns once done."""
        operation = operations.cancel(worker_id, turn_id=turn_id, **options)
        return self._call(operation.then(self._binding.worker))

    def delete(self, worker_id: str, **options: Unpack[RequestOptions]) -> Deletion:
        """Cancel, then remove the worker and all that is its own."""
        return self._call(operations.delete(worker_id, **options))

    def turns(
        self,
        worker_id: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> TurnPage:
        """One page of the worker's turns, newest first."""
        operation = operations.list_turns(worker_id, limit=limit, cursor=cursor, **options)
        return self._call(operation)

    def iterate_turns(self, worker_id: str, **options: Unpack[RequestOptions]) -> Iterator[Turn]:
        """All turns of the worker, newest first, page after page as they are asked for."""
        return paging.each(
            lambda cursor: self.turns(worker_id, limit=paging.SIZE, cursor=cursor, **options),
            lambda page: page.turns,
        )

    def retrieve_turn(
        self, turn_id: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> Turn:
        """One turn as of now."""
        return self._call(operations.retrieve_turn(worker_id, turn_id, **options))

    def budgets(self, **options: Unpack[RequestOptions]) -> BudgetList:
        """The budgets that turns of this server can have, with their caps."""
        return self._call(operations.list_budgets(**options))

    def retrieve_email(self, worker_id: str, **options: Unpack[RequestOptions]) -> str:
        """The address of the worker; what is sent there becomes an instruction."""
        return self._call(operations.retrieve_email(worker_id, **options))

    def retrieve_file(
        self, path: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> FileContent:
        """A file of the worker's workspace, whole, in memory."""
        return self._call(operations.retrieve_file(worker_id, path, **options))

    def download_file(
        self,
        path: str,
        *,
        worker_id: str,
        to: Target,
        progress: Progress | None = None,
        **options: Unpack[RequestOptions],
    ) -> Download:
        """Write a file of the worker's workspace to a path or an open file, of whatever size.

        A broken connection is taken up where it stopped. A path has the whole file in the end, or
        is left as it was. `progress` is called with the bytes so far and, if known, of how many.
        """
        operation = operations.retrieve_file(worker_id, path, **options)
        return self._driver.run(
            downloads.download(operation, self._attempts, to=to, progress=progress)
        )

    def stream_updates(
        self,
        worker_id: str,
        *,
        last_event_id: str | None = None,
        messages: bool = True,
        **options: Unpack[RequestOptions],
    ) -> EventStream:
        """The conversation, then what runs or waits, live, until the worker is idle.

        `last_event_id` goes on after that place. Without `messages`: only the turn that runs.
        """
        return self._open(
            updates_session(
                worker_id,
                self._attempts,
                last_event_id=last_event_id,
                messages=messages,
                **options,
            )
        )

    def _open(self, session: StreamSession) -> EventStream:
        self._driver.run(session.connect())
        return EventStream(session, self._driver)


class AsyncWorkers:
    """The workers of an organization, under asyncio; `Workers` says what each method promises."""

    def __init__(self, driver: AsyncDriver, attempts: Attempts, *, raw: bool = False) -> None:
        caller = AsyncCaller(driver, attempts, raw)
        self._driver = driver
        self._attempts = attempts
        self._binding = Binding(driver, attempts)
        self._call = caller.call
        self.schedules = AsyncSchedules(caller)
        self.emails = AsyncEmails(caller)

    @cached_property
    def with_raw_response(self) -> AsyncWorkersWithRawResponse:
        """The same methods, whose answers come with their status and headers."""
        return AsyncWorkersWithRawResponse(AsyncWorkers(self._driver, self._attempts, raw=True))

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
            return await self._open(turn_session(operation, self._attempts, options=params))
        return await self._call(operation.then(self._binding.worker))

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
            return await self._open(
                turn_session(operation, self._attempts, worker_id=worker_id, options=params)
            )
        return await self._call(operation.then(self._binding.worker))

    async def run(
        self,
        input: str,
        *,
        on_event: OnEvent | None = None,
        **options: Unpack[RunOptions],
    ) -> Worker:
        params: CreateParams = {"input": input, **options}
        session = turn_session(operations.create(**params), self._attempts, options=params)
        return self._binding.worker(await self._driver.run(session.run(on_event)))

    async def retrieve(
        self, worker_id: str, *, messages: bool = True, **options: Unpack[RequestOptions]
    ) -> Worker:
        operation = operations.retrieve(worker_id, messages=messages, **options)
        return await self._call(operation.then(self._binding.worker))

    async def wait(
        self,
        worker_id: str,
        *,
        on_event: OnEvent | None = None,
        **options: Unpack[RequestOptions],
    ) -> Worker:
        session = updates_session(worker_id, self._attempts, **options)
        return self._binding.worker(await self._driver.run(session.run(on_event)))

    async def list(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        status: WorkerStatus | None = None,
        **options: Unpack[RequestOptions],
    ) -> WorkerPage:
        operation = operations.list_workers(limit=limit, cursor=cursor, status=status, **options)
        return await self._call(operation.then(self._binding.page))

    def iterate(
        self, *, status: WorkerStatus | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[Worker]:
        return paging.each_async(
            lambda cursor: self.list(limit=paging.SIZE, cursor=cursor, status=status, **options),
            lambda page: page.workers,
        )

    async def cancel(
        self, worker_id: str, *, turn_id: str | None = None, **options: Unpack[PostOptions]
    ) -> Worker:
        operation = operations.cancel(worker_id, turn_id=turn_id, **options)
        return await self._call(operation.then(self._binding.worker))

    async def delete(self, worker_id: str, **options: Unpack[RequestOptions]) -> Deletion:
        return await self._call(operations.delete(worker_id, **options))

    async def turns(
        self,
        worker_id: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> TurnPage:
        operation = operations.list_turns(worker_id, limit=limit, cursor=cursor, **options)
        return await self._call(operation)

    def iterate_turns(
        self, worker_id: str, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[Turn]:
        return paging.each_async(
            lambda cursor: self.turns(worker_id, limit=paging.SIZE, cursor=cursor, **options),
            lambda page: page.turns,
        )

    async def retrieve_turn(
        self, turn_id: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> Turn:
        return await self._call(operations.retrieve_turn(worker_id, turn_id, **options))

    async def budgets(self, **options: Unpack[RequestOptions]) -> BudgetList:
        return await self._call(operations.list_budgets(**options))

    async def retrieve_email(self, worker_id: str, **options: Unpack[RequestOptions]) -> str:
        return await self._call(operations.retrieve_email(worker_id, **options))

    async def retrieve_file(
        self, path: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> FileContent:
        return await self._call(operations.retrieve_file(worker_id, path, **options))

    async def download_file(
        self,
        path: str,
        *,
        worker_id: str,
        to: Target,
        progress: Progress | None = None,
        **options: Unpack[RequestOptions],
    ) -> Download:
        operation = operations.retrieve_file(worker_id, path, **options)
        return await self._driver.run(
            downloads.download(operation, self._attempts, to=to, progress=progress)
        )

    async def stream_updates(
        self,
        worker_id: str,
        *,
        last_event_id: str | None = None,
        messages: bool = True,
        **options: Unpack[RequestOptions],
    ) -> AsyncEventStream:
        return await self._open(
            updates_session(
                worker_id,
                self._attempts,
                last_event_id=last_event_id,
                messages=messages,
                **options,
            )
        )

    async def _open(self, session: StreamSession) -> AsyncEventStream:
        await self._driver.run(session.connect())
        return AsyncEventStream(session, self._driver)
