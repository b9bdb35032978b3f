"""`Handinger` and `AsyncHandinger`: where the server is, who asks, and how patiently."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx2

from handinger._version import __version__
from handinger.sdk.caller import AsyncCaller, Caller
from handinger.sdk.drivers import AsyncDriver, Driver, Origin
from handinger.sdk.errors import HandingerError, MissingAPIKeyError
from handinger.sdk.exchange import Attempts
from handinger.sdk.organization import (
    AsyncOrganizationEmailSettings,
    AsyncOrganizationUsage,
    OrganizationEmailSettings,
    OrganizationUsage,
)
from handinger.sdk.workers import AsyncWorkers, Workers

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
DEFAULT_MAX_RETRIES = 2

# A turn may take hours, and so may its answer: `read` limits silence, not length, and the server
# breaks its silence every 20 s at the latest.
DEFAULT_TIMEOUT = httpx2.Timeout(60.0, connect=10.0, pool=None)

# A waiting turn holds its connection, and many turns may wait.
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class _Connection:
    """What both clients make of their arguments and the environment."""

    origin: Origin
    attempts: Attempts
    trust_env: bool
    verify: ssl.SSLContext | bool

    @classmethod
    def of(cls, api_key: str | None, base_url: str | None, max_retries: int) -> _Connection:
        url = _checked_url(base_url or os.environ.get("HANDINGER_BASE_URL") or DEFAULT_BASE_URL)
        headers = {
            "authorization": f"Bearer {_checked_key(api_key)}",
            "accept": "application/json",
            "user-agent": f"handinger-python/{__version__}",
        }
        origin = Origin(str(url).rstrip("/"), headers)
        local = url.host in _LOOPBACK_HOSTS
        plain = local and url.scheme == "http"
        return cls(
            origin=origin,
            attempts=Attempts(base_url=origin.base_url, max_retries=max_retries),
            # No proxy reaches what listens on this machine only.
            trust_env=not local,
            # To load all certificates takes a tenth of a second, and here none is ever looked at.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else True,
        )


class Handinger:
    """The workers API, blocking. One client serves any number of threads.

    `api_key` and `base_url` default to HANDINGER_API_KEY and HANDINGER_BASE_URL. `timeout` limits
    silence, in seconds. `http_client` replaces the HTTP client, for proxies or certificates of
    one's own; its own time limits hold then, and `close` closes it too.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | httpx2.Timeout | None = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        http_client: httpx2.Client | None = None,
    ) -> None:
        connection = _Connection.of(api_key, base_url, max_retries)
        self.base_url = connection.origin.base_url
        self._http = http_client or httpx2.Client(
            timeout=timeout,
            limits=_LIMITS,
            trust_env=connection.trust_env,
            verify=connection.verify,
        )
        driver = Driver(self._http, connection.origin)
        self.workers = Workers(driver, connection.attempts)
        caller = Caller(driver, connection.attempts)
        self.usage = OrganizationUsage(caller)
        self.email_settings = OrganizationEmailSettings(caller)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncHandinger:
    """The workers API, under asyncio; `Handinger` says what the arguments mean."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | httpx2.Timeout | None = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        connection = _Connection.of(api_key, base_url, max_retries)
        self.base_url = connection.origin.base_url
        self._http = http_client or httpx2.AsyncClient(
            timeout=timeout,
            limits=_LIMITS,
            trust_env=connection.trust_env,
            verify=connection.verify,
        )
        driver = AsyncDriver(self._http, connection.origin)
        self.workers = AsyncWorkers(driver, connection.attempts)
        caller = AsyncCaller(driver, connection.attempts)
        self.usage = AsyncOrganizationUsage(caller)
        self.email_settings = AsyncOrganizationEmailSettings(caller)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _checked_key(api_key: str | None) -> str:
    key = (api_key or os.environ.get("HANDINGER_API_KEY") or "").strip()
    if not key:
        raise MissingAPIKeyError("No API key: set HANDINGER_API_KEY or pass one.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise HandingerError("The API key has characters that no key has; was it copied in full?")
    return key


def _checked_url(base_url: str) -> httpx2.URL:
    try:
        url = httpx2.URL(base_url.strip())
    except httpx2.InvalidURL as error:
        raise HandingerError(f"The base URL {base_url!r} is not valid: {error}.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise HandingerError(f"The base URL {base_url!r} must begin with http:// or https://.")
    return url
