"""`client.workers.schedules`: instructions that a worker gets by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Unpack

from handinger.sdk import operations
from handinger.sdk.caller import AsyncCaller, Caller
from handinger.sdk.operations import PostOptions, RequestOptions, When
from handinger.sdk.raw import AsyncSchedulesWithRawResponse, SchedulesWithRawResponse

if TYPE_CHECKING:
    from pydantic import JsonValue

    from handinger.sdk.models import Budget, Cancellation, WorkerSchedule, WorkerSchedules


class Schedules:
    """The schedules of workers."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._call = caller.call

    @cached_property
    def with_raw_response(self) -> SchedulesWithRawResponse:
        """The same methods, whose answers come with their status and headers."""
        return SchedulesWithRawResponse(Schedules(replace(self._caller, raw=True)))

    def list(self, worker_id: str, **options: Unpack[RequestOptions]) -> WorkerSchedules:
        """What is still to fire, soonest first."""
        return self._call(operations.list_schedules(worker_id, **options))

    def create(
        self,
        worker_id: str,
        *,
        input: str,
        when: When | Mapping[str, JsonValue],
        budget: Budget | None = None,
        **options: Unpack[PostOptions],
    ) -> WorkerSchedule:
        """Give the worker an instruction at a time, after a while, or again and again."""
        return self._call(
            operations.create_schedule(worker_id, input=input, when=when, budget=budget, **options)
        )

    def retrieve(
        self, schedule_id: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> WorkerSchedule:
        """The schedule as of now, with its last firings and its next times."""
        return self._call(operations.retrieve_schedule(worker_id, schedule_id, **options))

    def update(
        self,
        schedule_id: str,
        *,
        worker_id: str,
        input: str | None = None,
        when: When | Mapping[str, JsonValue] | None = None,
        budget: Budget | None = None,
        paused: bool | None = None,
        **options: Unpack[RequestOptions],
    ) -> WorkerSchedule:
        """Change what is given, from now on; pause it, or let it go on."""
        return self._call(
            operations.update_schedule(
                worker_id,
                schedule_id,
                input=input,
                when=when,
                budget=budget,
                paused=paused,
                **options,
            )
        )

    def cancel(
        self, schedule_id: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> Cancellation:
        """Nothing fires any more. Raises NotFoundError for one that is over already."""
        return self._call(operations.cancel_schedule(worker_id, schedule_id, **options))


class AsyncSchedules:
    """The schedules of workers, under asyncio; `Schedules` says what each method promises."""

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller
        self._call = caller.call

    @cached_property
    def with_raw_response(self) -> AsyncSchedulesWithRawResponse:
        """The same methods, whose answers come with their status and headers."""
        return AsyncSchedulesWithRawResponse(AsyncSchedules(replace(self._caller, raw=True)))

    async def list(self, worker_id: str, **options: Unpack[RequestOptions]) -> WorkerSchedules:
        return await self._call(operations.list_schedules(worker_id, **options))

    async def create(
        self,
        worker_id: str,
        *,
        input: str,
        when: When | Mapping[str, JsonValue],
        budget: Budget | None = None,
        **options: Unpack[PostOptions],
    ) -> WorkerSchedule:
        return await self._call(
            operations.create_schedule(worker_id, input=input, when=when, budget=budget, **options)
        )

    async def retrieve(
        self, schedule_id: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> WorkerSchedule:
        return await self._call(operations.retrieve_schedule(worker_id, schedule_id, **options))

    async def update(
        self,
        schedule_id: str,
        *,
        worker_id: str,
        input: str | None = None,
        when: When | Mapping[str, JsonValue] | None = None,
        budget: Budget | None = None,
        paused: bool | None = None,
        **options: Unpack[RequestOptions],
    ) -> WorkerSchedule:
        return await self._call(
            operations.update_schedule(
                worker_id,
                schedule_id,
                input=input,
                when=when,
                budget=budget,
                paused=paused,
                **options,
            )
        )

    async def cancel(
        self, schedule_id: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> Cancellation:
        return await self._call(operations.cancel_schedule(worker_id, schedule_id, **options))
