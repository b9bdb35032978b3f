"""All of a list, page after page as they are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Protocol, TypeVar

SIZE = 100
"""The most that a page may have."""


class _Page(Protocol):
    next_cursor: str | None


Page = TypeVar("Page", bound=_Page)
Item = TypeVar("Item")


def each(
    fetch: Callable[[str | None], Page], items: Callable[[Page], Iterable[Item]]
) -> Iterator[Item]:
    """The items of every page; `fetch` gets that of a cursor, the first one without."""
    cursor: str | None = None
    while True:
        page = fetch(cursor)
        yield from items(page)
        if (cursor := page.next_cursor) is None:
            return


async def each_async(
    fetch: Callable[[str | None], Awaitable[Page]], items: Callable[[Page], Iterable[Item]]
) -> AsyncIterator[Item]:
    """The same, under asyncio."""
    cursor: str | None = None
    while True:
        page = await fetch(cursor)
        for item in items(page):
            yield item
        if (cursor := page.next_cursor) is None:
            return
