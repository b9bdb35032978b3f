"""Searches the web through one of several providers; what comes back is text from outside."""

import asyncio
import html
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import httpx2
from pydantic import TypeAdapter, ValidationError

from handinger.settings import Settings
from handinger.web.guard import WebError
from handinger.web.urls import WebUrl

_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MAX_TITLE = 200
_MAX_SNIPPET = 500
_THREADS = 4

_HOME = {"brave": "https://api.search.brave.com", "tavily": "https://api.tavily.com"}
_TAG = re.compile(r"<[^<>]{0,200}>")
_ANSWER = TypeAdapter(dict[str, Any])


class NotSearchedError(WebError):
    """The provider refused the query, or never got it: there is nothing to pay for."""


@dataclass(frozen=True, slots=True)
class Result:
    """One page that a search found."""

    title: str
    url: str
    snippet: str


class Searcher:
    """The search of this server. Raises WebError from `search`, without the provider's words."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="search")
        self._providers: Mapping[str, Callable[[str, int], Awaitable[list[Result]]]] = {
            "brave": self._brave,
            "tavily": self._tavily,
            "searxng": self._searxng,
            "ddgs": self._ddgs,
        }

    async def search(self, query: str, count: int) -> list[Result]:
        """The first results for a query, each page once."""
        try:
            async with asyncio.timeout(self._settings.search_timeout_s):
                found = await self._providers[self._settings.search_provider](query, count)
        except TimeoutError as error:
            raise WebError(
                "The search did not answer in time; try again, or do without."
            ) from error
        unique: dict[str, Result] = {}
        for result in found:
            unique.setdefault(result.url, result)
        return list(unique.values())[:count]

    async def _brave(self, query: str, count: int) -> list[Result]:
        answer = await self._ask(
            "GET",
            "/res/v1/web/search",
            params={"q": query, "count": str(count)},
            headers={"X-Subscription-Token": self._key()},
        )
        return _results(_list(answer, "web", "results"), "title", "url", "description")

    async def _tavily(self, query: str, count: int) -> list[Result]:
        answer = await self._ask(
            "POST",
            "/search",
            json={"query": query, "max_results": count},
            headers={"Authorization": f"Bearer {self._key()}"},
        )
        return _results(_list(answer, "results"), "title", "url", "content")

    async def _searxng(self, query: str, count: int) -> list[Result]:
        del count  # It has no such parameter.
        answer = await self._ask("GET", "/search", params={"q": query, "format": "json"})
        return _results(_list(answer, "results"), "title", "url", "content")

    async def _ddgs(self, query: str, count: int) -> list[Result]:
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(
            self._threads, _ask_engines, query, count, self._settings.search_timeout_s
        )
        return _results(rows, "title", "href", "body")

    def _key(self) -> str:
        key = self._settings.search_api_key
        return key.get_secret_value() if key else ""

    async def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        settings = self._settings
        base = settings.search_url or _HOME[settings.search_provider]
        try:
            async with (
                httpx2.AsyncClient(timeout=settings.search_timeout_s) as client,
                client.stream(method, base + path, **request) as response,
            ):
                if not response.is_success:
                    raise NotSearchedError(_refusal(response.status_code))
                body = await _bounded(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise NotSearchedError(
                f"The search cannot be reached ({type(error).__name__}); try again, or do without."
            ) from error
        except httpx2.HTTPError as error:
            raise WebError(
                f"The search broke off ({type(error).__name__}); try again, or do without."
            ) from error
        try:
            return _ANSWER.validate_json(body)
        except ValidationError as error:
            raise WebError("The search answered with something that is no result.") from error


async def _bounded(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body.extend(piece)
        if len(body) > _MAX_ANSWER_BYTES:
            raise WebError("The search answered with more than a search answers with.")
    return bytes(body)


def _refusal(status: int) -> str:
    if status in (401, 403):
        return (
            f"The search refuses this server (HTTP status {status}); its operator should look at "
            "HANDINGER_SEARCH_API_KEY. Do without searching."
        )
    if status == 429:
        return "The search takes no more queries at the moment (HTTP status 429). Try again later."
    return f"The search failed with HTTP status {status}; try again, or do without."


def _ask_engines(query: str, count: int, timeout_s: float) -> list[dict[str, Any]]:
    # Heavy, and only for those who search with it.
    from ddgs import DDGS  # noqa: PLC0415 # pyright: ignore[reportUnknownVariableType]
    from ddgs.exceptions import DDGSException  # noqa: PLC0415

    try:
        return DDGS(timeout=max(1, int(timeout_s / 2))).text(query, max_results=count)
    except DDGSException as error:
        if "No results" in str(error):
            return []
        raise NotSearchedError(
            f"The search engines cannot be reached ({type(error).__name__}); do without."
        ) from error


def _list(answer: Mapping[str, Any], *path: str) -> list[object]:
    value: object = answer
    for name in path:
        value = cast("Mapping[str, object]", value).get(name) if isinstance(value, dict) else None
    return cast("list[object]", value) if isinstance(value, list) else []


def _results(rows: Iterable[object], title: str, url: str, snippet: str) -> list[Result]:
    """What can be fetched of a provider's rows."""
    found: list[Result] = []
    for row in rows:
        if not isinstance(row, dict):
            continue
        values = cast("dict[str, object]", row)
        parsed = WebUrl.parse(str(values.get(url) or ""))
        if parsed is not None:
            found.append(
                Result(
                    title=_plain(values.get(title), _MAX_TITLE) or parsed.host,
                    url=str(parsed),
                    snippet=_plain(values.get(snippet), _MAX_SNIPPET),
                )
            )
    return found


def _plain(value: object, limit: int) -> str:
    """A title or snippet without the provider's emphasis and with its characters as such."""
    text = html.unescape(_TAG.sub("", value)) if isinstance(value, str) else ""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
