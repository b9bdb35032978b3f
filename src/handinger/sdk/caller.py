"""How a method's answer reaches the caller: read, or raw with its headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import httpx2

from handinger.sdk import errors
from handinger.sdk.drivers import AsyncDriver, Driver
from handinger.sdk.exchange import Attempts, Operation

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class APIResponse(Generic[T]):
    """An answer as it came; `parse` gives what the method gives otherwise."""

    http_response: httpx2.Response
    _operation: Operation[T]

    @property
    def status_code(self) -> int:
        """Of a success; errors are raised, here too."""
        return self.http_response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case."""
        return self.http_response.headers

    @property
    def request_id(self) -> str | None:
        """What the server calls the request."""
        return self.headers.get("x-request-id")

    @property
    def worker_id(self) -> str | None:
        """The worker of a POST that runs a turn."""
        return self.headers.get("x-handinger-worker-id")

    @property
    def turn_id(self) -> str | None:
        """The turn of a POST that runs one."""
        return self.headers.get("x-handinger-turn-id")

    @property
    def content(self) -> bytes:
        """The bytes of the body."""
        return self.http_response.content

    def json(self) -> Any:
        """The body as JSON. Raises APIResponseError if it is none."""
        try:
            return json.loads(self.content)
        except ValueError as error:
            raise errors.APIResponseError(
                f"The answer from {self.http_response.url} is not JSON; is this the right URL?"
            ) from error

    def parse(self) -> T:
        """The answer read. Raises APIResponseError if it is not one of this API."""
        return self._operation.read(self.http_response)


@dataclass(frozen=True, slots=True)
class Caller:
    """Carries out operations, blocking."""

    driver: Driver
    attempts: Attempts
    raw: bool = False

    def call(self, operation: Operation[T]) -> T:
        """What the operation reads from its answer, or the answer if this caller is `raw`."""
        response = self.driver.run(self.attempts.call(operation))
        return _answer(operation, response, raw=self.raw)


@dataclass(frozen=True, slots=True)
class AsyncCaller:
    """Carries out operations, under asyncio."""

    driver: AsyncDriver
    attempts: Attempts
    raw: bool = False

    async def call(self, operation: Operation[T]) -> T:
        """What the operation reads from its answer, or the answer if this caller is `raw`."""
        response = await self.driver.run(self.attempts.call(operation))
        return _answer(operation, response, raw=self.raw)


def _answer(operation: Operation[T], response: httpx2.Response, *, raw: bool) -> T:
    # The methods of a raw caller are reached through `raw.py` only, which says what they give.
    return cast("T", APIResponse(response, operation)) if raw else operation.read(response)
