"""Lists that come in pages: one of them, or with `--max-items` as many as it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from handinger.cli import output
from handinger.cli.failures import CommandError

if TYPE_CHECKING:
    from handinger.cli.options import Options
    from handinger.sdk.caller import APIResponse
    from handinger.sdk.models import JsonObject

_LARGEST_PAGE = 100


class Listing:
    """What stands under `name` in each page."""

    def __init__(
        self,
        name: str,
        limit: int | None,
        cursor: str | None,
        max_items: int | None,
        options: Options,
    ) -> None:
        require_some(max_items)
        self._name = name
        self._limit = limit
        self._cursor = cursor
        self._left = max_items
        self._options = options

    def show(
        self, fetch: Callable[[int | None, str | None], APIResponse[Any]]
    ) -> JsonObject | None:
        """Print the items; gives one page with all of them if a person is to see it instead."""
        shape = self._options.shape()
        items: list[Any] = []
        while True:
            answer = fetch(self._page_size(), self._cursor)
            page = answer.json()
            found, self._cursor = page.get(self._name, []), page.get("nextCursor")
            if shape == "jsonl":
                for item in found:
                    output.write(item, self._options)
            items += found
            if self._left is not None:
                self._left -= len(found)
            if not self._left or self._cursor is None or not found:
                break
        whole: JsonObject = {self._name: items, "nextCursor": self._cursor}
        if shape == "pretty" and not self._options.picks:
            return whole
        if shape != "jsonl":
            output.write(whole, self._options)
        return None

    def _page_size(self) -> int | None:
        if self._left is None:
            return self._limit
        return min(self._left, self._limit or _LARGEST_PAGE)


def require_some(max_items: int | None) -> None:
    """Raises CommandError for a list of nothing."""
    if max_items is not None and max_items < 1:
        raise CommandError("--max-items must be at least 1.")
