"""Every provider's answer becomes the same results, and no failure tells a secret."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.site import Reply, Site

from handinger.settings import Settings
from handinger.web.guard import WebError
from handinger.web.searching import Result, Searcher

pytestmark = pytest.mark.anyio

KEY = "key-that-nobody-sees"
ROWS: list[dict[str, str]] = [
    {"title": "A <strong>page</strong>", "url": "https://a.test/", "text": "About &amp; more"},
    {"title": "", "url": "https://b.test/x?y=1", "text": "  Two\n lines "},
    {"title": "Not a page", "url": "javascript:alert(1)", "text": ""},
    {"title": "Again", "url": "https://a.test/", "text": ""},
]
RESULTS = [
    Result("A page", "https://a.test/", "About & more"),
    Result("b.test", "https://b.test/x?y=1", "Two lines"),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


def searcher(site: Site, provider: str, **more: Any) -> Searcher:
    given = {"search_provider": provider, "search_api_key": KEY, "search_url": site.origin, **more}
    return Searcher(Settings.model_validate(given))


def rows(url: str = "url", text: str = "content") -> list[dict[str, str]]:
    return [{"title": row["title"], url: row["url"], text: row["text"]} for row in ROWS]


def answer(value: object) -> Reply:
    return Reply(json.dumps(value), media_type="application/json")


async def test_brave(site: Site):
    site.pages["/res/v1/web/search"] = answer({"web": {"results": rows(text="description")}})
    assert await searcher(site, "brave").search("a b&c", 5) == RESULTS
    assert site.seen[-1] == "/res/v1/web/search?q=a+b%26c&count=5"
    assert site.headers[-1]["x-subscription-token"] == KEY


async def test_tavily(site: Site):
    site.pages["/search"] = answer({"results": rows()})
    assert await searcher(site, "tavily").search("a b&c", 5) == RESULTS
    assert json.loads(site.bodies[-1]) == {"query": "a b&c", "max_results": 5}
    assert site.headers[-1]["authorization"] == f"Bearer {KEY}"


async def test_searxng(site: Site):
    site.pages["/search"] = answer({"results": rows()})
    found = await searcher(site, "searxng", search_api_key=None).search("a b&c", 1)
    assert found == RESULTS[:1]
    assert site.seen[-1] == "/search?q=a+b%26c&format=json"


async def test_ddgs(site: Site, monkeypatch: pytest.MonkeyPatch):
    from ddgs.ddgs import DDGS

    asked: list[tuple[str, int]] = []

    def text(self: object, query: str, *, max_results: int) -> list[dict[str, str]]:
        asked.append((query, max_results))
        return rows("href", "body")

    monkeypatch.setattr(DDGS, "text", text)
    assert await searcher(site, "ddgs").search("a b&c", 5) == RESULTS
    assert asked == [("a b&c", 5)]


@pytest.mark.parametrize(
    ("message", "said"),
    [("No results found.", None), ("ConnectError: https://engine.test/?q=x", "cannot be reached")],
)
async def test_ddgs_without_an_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch, message: str, said: str | None
):
    from ddgs.ddgs import DDGS
    from ddgs.exceptions import DDGSException

    def fail(self: object, query: str, **options: object) -> None:
        raise DDGSException(message)

    monkeypatch.setattr(DDGS, "text", fail)
    if said is None:
        assert await searcher(site, "ddgs").search("x", 5) == []
        return
    with pytest.raises(WebError, match=said):
        await searcher(site, "ddgs").search("x", 5)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply("bad key: " + KEY, status=401), "HANDINGER_SEARCH_API_KEY"),
        (Reply("slow down", status=429), "429"),
        (Reply("oops", status=500), "HTTP status 500"),
        (Reply("<html>", status=200), "no result"),
        (Reply("[1]", status=200), "no result"),
        (Reply(b" " * 5_000_000, status=200), "more than"),
    ],
)
async def test_what_goes_wrong_is_told_without_the_providers_words(
    site: Site, reply: Reply, said: str
):
    site.pages["/search"] = reply
    with pytest.raises(WebError, match=said) as caught:
        await searcher(site, "tavily").search("x", 5)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("value", [{}, {"results": None}, {"results": [1, None, {"url": 7}]}])
async def test_an_answer_without_results_has_none(site: Site, value: object):
    site.pages["/search"] = answer(value)
    assert await searcher(site, "tavily").search("x", 5) == []


async def test_a_provider_that_cannot_be_reached_is_told():
    settings = {"search_provider": "searxng", "search_url": "http://127.0.0.1:1"}
    with pytest.raises(WebError, match="cannot be reached"):
        await Searcher(Settings.model_validate(settings)).search("x", 5)
