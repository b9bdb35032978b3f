"""Lists in pages: how many, and after which item; the cursor is opaque to callers."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Query

from handinger import ids
from handinger.errors import InvalidInput


class _Listed(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_Listed)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which page a caller wants. Look for one item more than `limit`, so that the end is known."""

    limit: int
    cursor: str | None

    @property
    def look_for(self) -> int:
        """How many items to read."""
        return self.limit + 1

    def before(self, prefix: str) -> str | None:
        """The id of the last item of the page before. Raises InvalidInput."""
        if self.cursor is None:
            return None
        padding = "=" * (-len(self.cursor) % 4)
        try:
            last_id = base64.urlsafe_b64decode(self.cursor + padding).decode("ascii")
        except (binascii.Error, ValueError) as error:
            raise _unknown_cursor() from error
        if not ids.is_valid(prefix, last_id):
            raise _unknown_cursor()
        return last_id

    def cut(self, found: Sequence[Item]) -> tuple[Sequence[Item], str | None]:
        """The page, and the cursor of the next one, if there is one."""
        if len(found) <= self.limit:
            return found, None
        page = found[: self.limit]
        return page, base64.urlsafe_b64encode(page[-1].id.encode()).decode().rstrip("=")


def _unknown_cursor() -> InvalidInput:
    return InvalidInput.of("is none that this server gave out", "cursor")


async def page_query(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(description="`nextCursor` of the page before.")] = None,
) -> PageQuery:
    """The two parameters of every list."""
    return PageQuery(limit, cursor)


PageDep = Annotated[PageQuery, Depends(page_query)]
