"""`with_raw_response`: the methods whose answers are no streams, with answers as they came."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from handinger.sdk.caller import APIResponse

if TYPE_CHECKING:
    from handinger.sdk.emails import AsyncEmails, Emails
    from handinger.sdk.organization import (
        AsyncOrganizationEmailSettings,
        AsyncOrganizationUsage,
        OrganizationEmailSettings,
        OrganizationUsage,
    )
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
        self.emails = workers.emails.with_raw_response


class SchedulesWithRawResponse:
    """The same, with answers as they came."""

    def __init__(self, schedules: Schedules) -> None:
        self.list = _raw(schedules.list)
        self.create = _raw(schedules.create)
        self.retrieve = _raw(schedules.retrieve)
        self.update = _raw(schedules.update)
        self.cancel = _raw(schedules.cancel)


class EmailsWithRawResponse:
    """The same, with answers as they came."""

    def __init__(self, emails: Emails) -> None:
        self.list = _raw(emails.list)
        self.retrieve = _raw(emails.retrieve)


class UsageWithRawResponse:
    """The same, with answers as they came."""

    def __init__(self, usage: OrganizationUsage) -> None:
        self.retrieve = _raw(usage.retrieve)


class EmailSettingsWithRawResponse:
    """The same, with answers as they came."""

    def __init__(self, email_settings: OrganizationEmailSettings) -> None:
        self.retrieve = _raw(email_settings.retrieve)
        self.update = _raw(email_settings.update)


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
        self.emails = workers.emails.with_raw_response


class AsyncSchedulesWithRawResponse:
    """The same under asyncio, with answers as they came."""

    def __init__(self, schedules: AsyncSchedules) -> None:
        self.list = _async_raw(schedules.list)
        self.create = _async_raw(schedules.create)
        self.retrieve = _async_raw(schedules.retrieve)
        self.update = _async_raw(schedules.update)
        self.cancel = _async_raw(schedules.cancel)


class AsyncEmailsWithRawResponse:
    """The same under asyncio, with answers as they came."""

    def __init__(self, emails: AsyncEmails) -> None:
        self.list = _async_raw(emails.list)
        self.retrieve = _async_raw(emails.retrieve)


class AsyncUsageWithRawResponse:
    """The same under asyncio, with answers as they came."""

    def __init__(self, usage: AsyncOrganizationUsage) -> None:
        self.retrieve = _async_raw(usage.retrieve)


class AsyncEmailSettingsWithRawResponse:
    """The same under asyncio, with answers as they came."""

    def __init__(self, email_settings: AsyncOrganizationEmailSettings) -> None:
        self.retrieve = _async_raw(email_settings.retrieve)
        self.update = _async_raw(email_settings.update)


def _raw(method: Callable[P, T]) -> Callable[P, APIResponse[T]]:
    """A method of a raw caller, with the type that it has in truth."""
    return cast("Callable[P, APIResponse[T]]", method)


def _async_raw(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, APIResponse[T]]]:
    """The same under asyncio."""
    return cast("Callable[P, Coroutine[Any, Any, APIResponse[T]]]", method)
