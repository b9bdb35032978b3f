"""The pages that one turn has fetched, so that it fetches nothing twice."""

import asyncio
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field

from handinger.files import Change
from handinger.web.reading import PageText
from handinger.web.urls import WebUrl

_MAX_KEPT_CHARACTERS = 8_000_000
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Page:
    """A page as it was fetched, and what the workspace keeps of it."""

    url: str  # after redirects
    host: str
    media_type: str
    text: PageText | None  # None of what is no text
    size: int  # bytes
    changes: tuple[Change, ...]
    note: str


@dataclass(slots=True)
class Pages:
    """A bounded cache, the oldest out first, and how many fetches of the turn run at once."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _kept: OrderedDict[str, Page] = field(default_factory=OrderedDict[str, Page])
    _characters: int = 0

    def find(self, url: WebUrl) -> Page | None:
        """What was fetched from exactly there."""
        return self._kept.get(str(url))

    def keep(self, url: WebUrl, page: Page) -> None:
        """Remember a page."""
        self._kept[str(url)] = page
        self._characters += _characters(page)
        while self._characters > _MAX_KEPT_CHARACTERS:
            _, dropped = self._kept.popitem(last=False)
            self._characters -= _characters(dropped)


def _characters(page: Page) -> int:
    return len(page.text.text) if page.text else 0
