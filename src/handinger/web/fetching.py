"""Fetches one URL: each hop checked, and no more time or bytes than allowed.

The body goes to a file without a name, so that however many pages are fetched at once, none of them
is held in memory.
"""

import asyncio
import contextlib
import http
import re
import ssl
import tempfile
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO
from urllib.parse import urljoin

import httpx2

from handinger._version import __version__
from handinger.settings import Settings
from handinger.web.guard import Guard, Hosts, Target, WebError
from handinger.web.urls import WebUrl

MAX_REDIRECTS = 10

_CONNECT_TIMEOUT_S = 10.0
_MAX_PIECE = 64 * 1024
_GZIP_MARK = b"\x1f"
_MAX_COOKIES = 20  # of one host
_COOKIE = re.compile(r"[\x21\x23-\x3a\x3c-\x7e\x20\x22]{1,2000}")  # no semicolon, no control
_HEADERS = {
    "User-Agent": f"Mozilla/5.0 (compatible; Handinger/{__version__})",
    "Accept": "text/markdown, text/html;q=0.9, application/xhtml+xml;q=0.9, application/pdf;q=0.8,"
    " */*;q=0.5",
    # Codings that can be undone piece by piece, with a limit on each piece.
    "Accept-Encoding": "gzip, identity",
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a server answered. `body` is to be read from its beginning, while it is open."""

    url: str  # after redirects
    host: str
    media_type: str
    charset: str | None
    body: BinaryIO
    size: int  # bytes


class _Cookies:
    """What hosts set on the way through one chain of redirects; each gets back its own.

    Some send a reader in circles otherwise. It is gone with the fetch.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[str, str]] = {}  # by scheme and host

    def take(self, url: WebUrl, response: httpx2.Response) -> None:
        """Keep what an answer sets, for this very host."""
        kept = self._kept.setdefault((url.scheme, url.host), {})
        for line in response.headers.get_list("set-cookie"):
            pair = line.partition(";")[0].strip()
            name, equals, _ = pair.partition("=")
            if equals and _COOKIE.fullmatch(pair) and len(kept) < _MAX_COOKIES:
                kept[name] = pair

    def headers(self, url: WebUrl) -> dict[str, str]:
        """What is sent to this host."""
        kept = self._kept.get((url.scheme, url.host))
        return {"Cookie": "; ".join(kept.values())} if kept else {}


class TooLarge(WebError):
    """What is there has more bytes than are fetched."""


class Fetcher:
    """Shared by all turns of a process; holds no connection between fetches."""

    def __init__(self, guard: Guard, *, max_bytes: int, timeout_s: float) -> None:
        self._guard = guard
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Fetcher":
        """One that may do what the operator allows."""
        return cls(
            Guard(Hosts(settings.fetch_allow_private or ())),
            max_bytes=settings.fetch_max_bytes,
            timeout_s=settings.fetch_timeout_s,
        )

    @contextlib.asynccontextmanager
    async def fetch(self, url: WebUrl, *, max_bytes: int | None = None) -> AsyncGenerator[Fetched]:
        """What is there, redirects followed. Raises WebError, and TooLarge of what is."""
        limit = self._max_bytes if max_bytes is None else max_bytes
        # Unbuffered, because the process that reads it is given the file itself.
        with tempfile.TemporaryFile(buffering=0) as body:
            try:
                async with asyncio.timeout(self._timeout_s):
                    fetched = await self._follow(url, body, limit)
            except TimeoutError as error:
                raise WebError(
                    f"{url.host!r} did not answer in full within {self._timeout_s:g} seconds."
                ) from error
            body.seek(0)
            yield fetched

    async def _follow(self, url: WebUrl, body: BinaryIO, limit: int) -> Fetched:
        came_from: Target | None = None
        cookies = _Cookies()
        for _ in range(MAX_REDIRECTS + 1):
            target = await self._guard.check(url)
            if target.private and came_from is not None and not came_from.private:
                # A stranger's page may not choose what is done inside the operator's network.
                raise WebError(f"{came_from.url.host!r} redirects into a private network.")
            async with self._answer(target, cookies.headers(url)) as response:
                location = response.headers.get("location")
                if not response.is_redirect or not location:
                    return await self._read(url, response, body, limit)
                cookies.take(url, response)
            url, came_from = self._redirected(url, location), target
        raise WebError(f"There were more than {MAX_REDIRECTS} redirects, one after the other.")

    def _redirected(self, url: WebUrl, location: str) -> WebUrl:
        try:
            parsed = WebUrl.parse(urljoin(str(url), location))
        except ValueError:
            parsed = None
        if parsed is None:
            raise WebError(f"{url.host!r} redirects to something that is no URL of a page.")
        return parsed

    @contextlib.asynccontextmanager
    async def _answer(
        self, target: Target, cookies: Mapping[str, str]
    ) -> AsyncGenerator[httpx2.Response]:
        """The head of the answer of the first address that can be connected to."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx2.create_ssl_context)
        timeout = httpx2.Timeout(self._timeout_s, connect=_CONNECT_TIMEOUT_S)
        # A proxy would connect to addresses that were never checked.
        async with httpx2.AsyncClient(verify=self._tls, trust_env=False, timeout=timeout) as client:
            response = await self._connect(client, target, cookies)
            try:
                yield response
            finally:
                await response.aclose()

    async def _connect(
        self, client: httpx2.AsyncClient, target: Target, cookies: Mapping[str, str]
    ) -> httpx2.Response:
        url = target.url
        for ip in target.ips:
            try:
                # The connection goes to the address; the name is for the server and for TLS.
                request = client.build_request(
                    "GET",
                    str(replace(url, host=ip)),
                    headers={**_HEADERS, **cookies, "Host": url.authority},
                    extensions={"sni_hostname": url.host},
                )
                return await client.send(request, stream=True, follow_redirects=False)
            except httpx2.ConnectError as error:
                if isinstance(error.__cause__ or error.__context__, ssl.SSLError) or "SSL" in str(
                    error
                ):
                    raise WebError(
                        f"{url.host!r} cannot be trusted: its TLS certificate is not valid for it."
                    ) from error
            except httpx2.ConnectTimeout:
                pass
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise WebError(
                    f"{url.host!r} did not answer as a web server does ({type(error).__name__})."
                ) from error
        raise WebError(f"{url.host!r} cannot be connected to.")

    async def _read(
        self, url: WebUrl, response: httpx2.Response, body: BinaryIO, limit: int
    ) -> Fetched:
        if not response.is_success:
            raise WebError(f"{str(url)!r} was answered with {_status(response.status_code)}.")
        try:
            size = await _copy(response, body, limit)
        except (httpx2.HTTPError, zlib.error) as error:
            raise WebError(
                f"The answer of {url.host!r} broke off or is damaged ({type(error).__name__})."
            ) from error
        content_type = response.headers.get("content-type", "")
        return Fetched(
            url=str(url),
            host=url.host,
            media_type=content_type.partition(";")[0].strip().lower(),
            charset=response.charset_encoding,
            body=body,
            size=size,
        )


async def _copy(response: httpx2.Response, body: BinaryIO, limit: int) -> int:
    """Write the decoded body; the limit holds for what is sent and for what it unpacks to."""
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise _too_large(limit)
    unpack = _unpacker(response.headers.get("content-encoding", ""))
    sent = size = 0
    async for raw in response.aiter_raw():
        sent += len(raw)
        for piece in unpack.pieces(raw):
            size += len(piece)
            if max(sent, size) > limit:
                raise _too_large(limit)
            body.write(piece)
    return size


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The page is larger than {limit} bytes, the most that is fetched; it was not read."
    )


class _Plain:
    """A body that is sent as it is."""

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        yield raw


class _Gzip:
    """A body in one or more gzip members, unpacked in pieces of a bounded size."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        while True:
            if self._member.eof:
                if not raw.startswith(_GZIP_MARK):
                    return  # Nothing more, or padding behind the last member.
                self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            piece = self._member.decompress(raw, _MAX_PIECE)
            yield piece
            raw = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if not raw and len(piece) < _MAX_PIECE:
                return


def _unpacker(coding: str) -> _Plain | _Gzip:
    codings = [name for name in (part.strip().lower() for part in coding.split(",")) if name]
    match [name for name in codings if name != "identity"]:
        case []:
            return _Plain()
        case ["gzip" | "x-gzip"]:
            return _Gzip()
        case _:
            raise WebError("The page was sent in a compression that was not asked for.")


def _status(code: int) -> str:
    try:
        return f"HTTP status {code} ({http.HTTPStatus(code).phrase})"
    except ValueError:
        return f"HTTP status {code}"
