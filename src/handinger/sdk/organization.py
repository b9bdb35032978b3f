"""`client.usage` and `client.email_settings`: what holds for the whole organization of the key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Unpack

from handinger.sdk import operations
from handinger.sdk.caller import AsyncCaller, Caller
from handinger.sdk.operations import Moment, RequestOptions
from handinger.sdk.raw import (
    AsyncEmailSettingsWithRawResponse,
    AsyncUsageWithRawResponse,
    EmailSettingsWithRawResponse,
    UsageWithRawResponse,
)

if TYPE_CHECKING:
    from handinger.sdk.models import EmailSettings, UsageGrouping, UsageReport


class OrganizationUsage:
    """What the organization has used."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._call = caller.call

    @cached_property
    def with_raw_response(self) -> UsageWithRawResponse:
        """The same method, whose answer comes with its status and headers."""
        return UsageWithRawResponse(OrganizationUsage(replace(self._caller, raw=True)))

    def retrieve(
        self,
        *,
        from_: Moment | None = None,
        to: Moment | None = None,
        group_by: UsageGrouping | None = None,
        **options: Unpack[RequestOptions],
    ) -> UsageReport:
        """Sums by day, worker or model, and what is left; of this month unless it is said.

        `to` is not part of the span.
        """
        return self._call(
            operations.retrieve_usage(from_=from_, to=to, group_by=group_by, **options)
        )


class OrganizationEmailSettings:
    """Whose mail the workers of the organization take, and to whom they may write."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._call = caller.call

    @cached_property
    def with_raw_response(self) -> EmailSettingsWithRawResponse:
        """The same methods, whose answers come with their status and headers."""
        raw = replace(self._caller, raw=True)
        return EmailSettingsWithRawResponse(OrganizationEmailSettings(raw))

    def retrieve(self, **options: Unpack[RequestOptions]) -> EmailSettings:
        """The organization's own list, or the server's where it has none."""
        return self._call(operations.retrieve_email_settings(**options))

    def update(
        self, *, allow: Iterable[str] | None, **options: Unpack[RequestOptions]
    ) -> EmailSettings:
        """Replace the list. An empty one takes nobody's mail; None returns to the server's."""
        return self._call(operations.update_email_settings(allow=allow, **options))


class AsyncOrganizationUsage:
    """The same under asyncio; `OrganizationUsage` says what each method promises."""

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller
        self._call = caller.call

    @cached_property
    def with_raw_response(self) -> AsyncUsageWithRawResponse:
        """The same method, whose answer comes with its status and headers."""
        return AsyncUsageWithRawResponse(AsyncOrganizationUsage(replace(self._caller, raw=True)))

    async def retrieve(
        self,
        *,
        from_: Moment | None = None,
        to: Moment | None = None,
        group_by: UsageGrouping | None = None,
        **options: Unpack[RequestOptions],
    ) -> UsageReport:
        return await self._call(
            operations.retrieve_usage(from_=from_, to=to, group_by=group_by, **options)
        )


class AsyncOrganizationEmailSettings:
    """The same under asyncio; `OrganizationEmailSettings` says what each method promises."""

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller
        self._call = caller.call

    @cached_property
    def with_raw_response(self) -> AsyncEmailSettingsWithRawResponse:
        """The same methods, whose answers come with their status and headers."""
        raw = replace(self._caller, raw=True)
        return AsyncEmailSettingsWithRawResponse(AsyncOrganizationEmailSettings(raw))

    async def retrieve(self, **options: Unpack[RequestOptions]) -> EmailSettings:
        return await self._call(operations.retrieve_email_settings(**options))

    async def update(
        self, *, allow: Iterable[str] | None, **options: Unpack[RequestOptions]
    ) -> EmailSettings:
        return await self._call(operations.update_email_settings(allow=allow, **options))
