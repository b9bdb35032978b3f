"""The blocking and the asyncio client behind one front, so that one test judges both."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from handinger import AsyncHandinger, Event, Handinger

KEY = "hdg_live_" + "k" * 32


class Face(Protocol):
    """`client.workers`, whichever kind it is."""

    def __init__(self, base_url: str, **options: Any) -> None: ...

    def call(self, method: str, *args: Any, **params: Any) -> Any:
        """The result of a method."""
        ...

    def stream(self, method: str, *args: Any, **params: Any) -> tuple[list[Event], Any]:
        """The events of a method that streams, and the stream itself."""
        ...

    def close(self) -> None: ...


class SyncFace:
    def __init__(self, base_url: str, **options: Any) -> None:
        self.client = Handinger(api_key=KEY, base_url=base_url, **options)

    def call(self, method: str, *args: Any, **params: Any) -> Any:
        return getattr(self.client.workers, method)(*args, **params)

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
        return self.runner.run(getattr(self.client.workers, method)(*args, **params))

    def stream(self, method: str, *args: Any, **params: Any) -> tuple[list[Event], Any]:
        async def collect() -> tuple[list[Event], Any]:
            async with await getattr(self.client.workers, method)(*args, **params) as stream:
                return [event async for event in stream], stream

        return self.runner.run(collect())

    def close(self) -> None:
        self.runner.run(self.client.close())
        self.runner.close()
