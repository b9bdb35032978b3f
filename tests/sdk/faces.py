"""The blocking and the asyncio client behind one front, so that one test judges both."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Protocol

from handinger import AsyncHandinger, Event, Handinger

KEY = "hdg_live_" + "k" * 32


class Face(Protocol):
    """A client, whichever kind it is; methods are named as they are called on `client.workers`."""

    def __init__(self, base_url: str, **options: Any) -> None: ...

    def call(self, method: str, *args: Any, **params: Any) -> Any:
        """The result of a method."""
        ...

    def stream(self, method: str, *args: Any, **params: Any) -> tuple[list[Event], Any]:
        """The events of a method that streams, and the stream itself."""
        ...

    def collect(self, given: Any) -> list[Any]:
        """All of an iterator, of whichever kind."""
        ...

    def close(self) -> None: ...


class SyncFace:
    def __init__(self, base_url: str, **options: Any) -> None:
        self.client = Handinger(api_key=KEY, base_url=base_url, **options)

    def call(self, method: str, *args: Any, **params: Any) -> Any:
        return method_of(self.client, method)(*args, **params)

    def collect(self, given: Any) -> list[Any]:
        return list(given)

    def stream(self, method: str, *args: Any, **params: Any) -> tuple[list[Event], Any]:
        with self.call(method, *args, **params) as stream:
            return list(stream), stream

    def close(self) -> None:
        self.client.close()


class AsyncFace:
    def __init__(self, base_url: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncHandinger(api_key=KEY, base_url=base_url, **options)

    def call(self, method: str, *args: Any, **params: Any) -> Any:
        given = method_of(self.client, method)(*args, **params)
        return self.runner.run(given) if asyncio.iscoroutine(given) else given

    def collect(self, given: Any) -> list[Any]:
        async def collect() -> list[Any]:
            return [item async for item in given]

        return self.runner.run(collect())

    def stream(self, method: str, *args: Any, **params: Any) -> tuple[list[Event], Any]:
        async def collect() -> tuple[list[Event], Any]:
            async with await getattr(self.client.workers, method)(*args, **params) as stream:
                return [event async for event in stream], stream

        return self.runner.run(collect())

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()


def method_of(client: Any, path: str) -> Any:
    """A method by its name: `retrieve`, `schedules.list`, or of the client: `usage.retrieve`."""
    names = path.split(".")
    if names[0] not in ("usage", "email_settings"):
        names.insert(0, "workers")
    return functools.reduce(getattr, names, client)
