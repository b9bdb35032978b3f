"""The web tools: search, and fetch a page as text. What they bring back is untrusted."""

import hashlib
import mimetypes
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from pydantic_ai import RunContext, Tool, ToolFailed

from handinger import files
from handinger.agent import taint
from handinger.agent.tools.context import IDEMPOTENT, ToolContext, ToolPrice, cite, effects
from handinger.agent.tools.pages import Page
from handinger.budgets import Spending
from handinger.settings import Settings
from handinger.storage.blobs import Content
from handinger.web import reading, urls
from handinger.web.fetching import Fetched, Fetcher
from handinger.web.guard import Hosts, WebError
from handinger.web.reading import PageText, Reader
from handinger.web.searching import NotSearchedError, Searcher
from handinger.web.urls import WebUrl

FOLDER = "scratchpad/web"

_MAX_QUERY = 400
_MAX_RESULTS = 20
_NANO_PER_USD = 1_000_000_000

_SUFFIXES = {
    "text/html": ".md",
    "application/xhtml+xml": ".md",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/zip": ".zip",
    "application/gzip": ".gz",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/svg+xml": ".svg",
    "application/xml": ".xml",
    "text/xml": ".xml",
}


class WebTools:
    """The tools of one process; what a turn has fetched is with the turn."""

    def __init__(self, settings: Settings, reader: Reader) -> None:
        self._settings = settings
        self._private = Hosts(settings.fetch_allow_private or ())
        self._fetcher = Fetcher.of(settings)
        self._reader = reader
        self._searcher = Searcher(settings)
        self._trusted = Hosts(settings.fetch_trusted_hosts or ())

    def tools(self) -> list[Tool[ToolContext]]:
        """Both may run again: nothing is changed by reading."""
        fetch = Tool(self.web_fetch, metadata=IDEMPOTENT)
        if self._settings.search_provider == "off":
            return [fetch]
        price = ToolPrice("tool", _search_nano)
        return [Tool(self.web_search, metadata={**IDEMPOTENT, "price": price}), fetch]

    async def web_search(
        self,
        ctx: RunContext[ToolContext],
        query: Annotated[str, Field(min_length=1, max_length=_MAX_QUERY)],
        max_results: Annotated[int, Field(ge=1, le=_MAX_RESULTS)] = 5,
    ) -> list[dict[str, str]]:
        """Search the web. Gives pages with title, URL and a snippet; web_fetch reads one."""
        paid = True
        try:
            found = await self._searcher.search(query, max_results)
        except WebError as error:
            paid = not isinstance(error, NotSearchedError)
            raise ToolFailed(str(error)) from error
        finally:
            # The provider may bill a query whose answer did not arrive, or was not waited for.
            if paid:
                effects(ctx).spending += Spending(tool_cost_nano=_search_nano(self._settings, {}))
        # Words of the query that come back count for nothing.
        told = urls.addresses_in("\n".join(f"{each.title} {each.snippet}" for each in found))
        links = frozenset(told - urls.addresses_in(query)) | urls.addresses(
            result.url for result in found
        )
        taint.untrusted(ctx, "", origin="search", links=links)
        await cite(ctx, [(result.url, result.title) for result in found])
        return [
            {"title": result.title, "url": result.url, "snippet": result.snippet}
            for result in found
        ]

    async def web_fetch(self, ctx: RunContext[ToolContext], url: str) -> dict[str, str]:
        """Fetch a web page as Markdown; a PDF, plain text or JSON as its text.

        The whole text is also kept as a file in the workspace, where read_file and commands find
        it; what is too long is cut here. Anything else, such as an image or an archive, is only
        kept as a file.
        """
        parsed = WebUrl.parse(url)
        if parsed is None:
            raise ToolFailed(
                f"{url[:200]!r} cannot be fetched: it must begin with http:// or https://, name a "
                "host, have no user name or password in it, and not be too long."
            )
        if parsed not in self._trusted:
            await taint.require_url(ctx, str(parsed), same_host=parsed in self._private)
        try:
            page = await self._page(ctx, parsed)
        except WebError as error:
            raise ToolFailed(str(error)) from error
        text = page.text.text if page.text else ""
        links = page.text.links if page.text else frozenset[str]()
        taint.untrusted(ctx, page.url, origin="page", host=page.host, links=links)
        await cite(ctx, [(page.url, page.text.title if page.text else None)])
        effects(ctx).files.extend(page.changes)
        return self._told(page, text)

    def _told(self, page: Page, text: str) -> dict[str, str]:
        limit = self._settings.fetch_max_characters
        notes = [page.note] if page.note else []
        if len(text) > limit:
            rest = f"The first {limit} of {len(text)} characters."
            if page.changes:
                rest += f" All of it is in {page.changes[0].path}; read_file with offset={limit}."
            notes.append(rest)
        told = {
            "url": page.url,
            "title": (page.text.title if page.text else None) or "",
            "media_type": page.media_type,
            "file": ", ".join(change.path for change in page.changes),
            "note": " ".join(notes),
            "content": text[:limit],
        }
        return {name: value for name, value in told.items() if value or name == "content"}

    async def _page(self, ctx: RunContext[ToolContext], url: WebUrl) -> Page:
        """From this turn's cache, else from the web. Raises WebError."""
        pages = ctx.deps.pages
        async with pages.locks[str(url)]:
            known = pages.find(url)
            if known is not None:
                return known
            async with pages.slots, self._fetcher.fetch(url) as fetched:
                page = await self._read(ctx, fetched)
            pages.keep(url, page)
            return page

    async def _read(self, ctx: RunContext[ToolContext], fetched: Fetched) -> Page:
        media_type = reading.kind_of(fetched)
        name = f"{FOLDER}/{_file_name(fetched.url)}"
        keep: list[tuple[str, Content]] = []
        text: PageText | None = None
        note = ""
        if reading.is_text(media_type):
            text = await self._reader.read(fetched, media_type)
            note = text.note
            suffix = ".txt" if media_type == "application/pdf" else _suffix(media_type, ".txt")
            keep.append((name + suffix, text.text.encode()))
        else:
            note = f"This is no text ({media_type}, {fetched.size} bytes)."
        if text is None or media_type == "application/pdf":
            keep.append((name + _suffix(media_type, ".bin"), fetched.body))
        try:
            changes = [await ctx.deps.workspace.prepare(path, content) for path, content in keep]
        except files.FileError as error:
            changes = []
            note = f"{note} It was not kept in the workspace: {error}".strip()
        return Page(
            url=fetched.url,
            host=fetched.host,
            media_type=media_type,
            text=text,
            size=fetched.size,
            changes=tuple(changes),
            note=note,
        )


def _search_nano(settings: Settings, arguments: Mapping[str, Any]) -> int:
    """What one search costs, whatever it asks."""
    del arguments
    return round(settings.search_usd * _NANO_PER_USD)


def _suffix(media_type: str, otherwise: str) -> str:
    return _SUFFIXES.get(media_type) or mimetypes.guess_extension(media_type) or otherwise


def _file_name(url: str) -> str:
    """Readable, and of each URL its own: the same page is the same file when it comes again."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", url.partition("://")[2].partition("?")[0])
    return f"{readable[:80].strip('-.')}-{digest}"


def tools(
    settings: Settings | None = None, reader: Reader | None = None
) -> list[Tool[ToolContext]]:
    """Those that a server with these settings offers; pages are read by `reader`."""
    return WebTools(settings or Settings(), reader or Reader()).tools()
