"""`with_raw_response`: the methods whose answers are no streams, with answers as they came."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from handinger.sdk.caller import APIResponse

if TYPE_CHECKING:
    from handinger.sdk.schedules import AsyncSchedules, Schedules
    from handinger.sdk.workers import AsyncWorkers, Workers

P = ParamSpec("P")
T = TypeVar("T")


class WorkersWithRawResponse:
    """The methods of `Workers` whose answers are no streams, with answers as they came."""

    def __init__(self, workers: Workers) -> None:
        self.create = _raw(workers.create)
        self.continue_ = _raw(workers.continue_)
        self.retrieve = _raw(workers.retrieve)
        self.list = _raw(workers.list)
        self.cancel = _raw(workers.cancel)
        self.delete = _raw(workers.delete)
        self.turns = _raw(workers.turns)
        self.retrieve_turn = _raw(workers.retrieve_turn)
        self.budgets = _raw(workers.budgets)
        self.retrieve_email = _raw(workers.retrieve_email)
        self.retrieve_file = _raw(workers.retrieve_file)
        self.schedules = workers.schedules.with_raw_response


class SchedulesWithRawResponse:
    """The same, with answers as they came."""

    def __init__(self, schedules: Schedules) -> None:
        self.list = _raw(schedules.list)
        self.create = _raw(schedules.create)
        self.cancel = _raw(schedules.cancel)


class AsyncWorkersWithRawResponse:
    """The methods of `AsyncWorkers` whose answers are no streams, with answers as they came."""

    def __init__(self, workers: AsyncWorkers) -> None:
        self.create = _async_raw(workers.create)
        self.continue_ = _async_raw(workers.continue_)
        self.retrieve = _async_raw(workers.retrieve)
        self.list = _async_raw(workers.list)
        self.cancel = _async_raw(workers.cancel)
        self.delete = _async_raw(workers.delete)
        self.turns = _async_raw(workers.turns)
        self.retrieve_turn = _async_raw(workers.retrieve_turn)
        self.budgets = _async_raw(workers.budgets)
        self.retrieve_email = _async_raw(workers.retrieve_email)
        self.retrieve_file = _async_raw(workers.retrieve_file)
        self.schedules = workers.schedules.with_raw_response


class AsyncSchedulesWithRawResponse:
    """The same under asyncio, with answers as they came."""

    def __init__(self, schedules: AsyncSchedules) -> None:
        self.list = _async_raw(schedules.list)
        self.create = _async_raw(schedules.create)
        self.cancel = _async_raw(schedules.cancel)


def _raw(method: Callable[P, T]) -> Callable[P, APIResponse[T]]:
    """A method of a raw caller, with the type that it has in truth."""
    return cast("Callable[P, APIResponse[T]]", method)


def _async_raw(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, APIResponse[T]]]:
    """The same under asyncio."""
    return cast("Callable[P, Coroutine[Any, Any, APIResponse[T]]]", method)
