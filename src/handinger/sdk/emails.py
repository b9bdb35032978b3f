"""`client.workers.emails`: what came to a worker by mail, and what it sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Unpack

from handinger.sdk import operations, paging
from handinger.sdk.answers import FileContent
from handinger.sdk.caller import AsyncCaller, Caller
from handinger.sdk.operations import RequestOptions
from handinger.sdk.raw import AsyncEmailsWithRawResponse, EmailsWithRawResponse

if TYPE_CHECKING:
    from handinger.sdk.models import Email, EmailPage


class Emails:
    """The mails of workers."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._call = caller.call

    @cached_property
    def with_raw_response(self) -> EmailsWithRawResponse:
        """The same methods, whose answers come with their status and headers."""
        return EmailsWithRawResponse(Emails(replace(self._caller, raw=True)))

    def list(
        self,
        worker_id: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> EmailPage:
        """One page of the worker's mails, in and out, newest first; also what started no turn."""
        operation = operations.list_emails(worker_id, limit=limit, cursor=cursor, **options)
        return self._call(operation)

    def iterate(self, worker_id: str, **options: Unpack[RequestOptions]) -> Iterator[Email]:
        """All mails of the worker, newest first, page after page as they are asked for."""
        return paging.each(
            lambda cursor: self.list(worker_id, limit=paging.SIZE, cursor=cursor, **options),
            lambda page: page.emails,
        )

    def retrieve(
        self, email_id: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> FileContent:
        """The bytes of a mail that came in, as they came."""
        return self._call(operations.retrieve_original(worker_id, email_id, **options))


class AsyncEmails:
    """The mails of workers, under asyncio; `Emails` says what each method promises."""

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller
        self._call = caller.call

    @cached_property
    def with_raw_response(self) -> AsyncEmailsWithRawResponse:
        """The same methods, whose answers come with their status and headers."""
        return AsyncEmailsWithRawResponse(AsyncEmails(replace(self._caller, raw=True)))

    async def list(
        self,
        worker_id: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> EmailPage:
        operation = operations.list_emails(worker_id, limit=limit, cursor=cursor, **options)
        return await self._call(operation)

    def iterate(self, worker_id: str, **options: Unpack[RequestOptions]) -> AsyncIterator[Email]:
        return paging.each_async(
            lambda cursor: self.list(worker_id, limit=paging.SIZE, cursor=cursor, **options),
            lambda page: page.emails,
        )

    async def retrieve(
        self, email_id: str, *, worker_id: str, **options: Unpack[RequestOptions]
    ) -> FileContent:
        return await self._call(operations.retrieve_original(worker_id, email_id, **options))
