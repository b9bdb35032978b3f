"""What the SDK logs, at the level DEBUG: each request and answer, without keys and cookies."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import httpx2

_logger = logging.getLogger("handinger")
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
_SHOWN_BODY_CHARACTERS = 2000


def sent(request: httpx2.Request, body: object) -> float:
    """Tell of a request that is about to be sent; gives the time."""
    if _logger.isEnabledFor(logging.DEBUG):
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        said = "" if body is None else f" {body}"[:_SHOWN_BODY_CHARACTERS]
        headers = _harmless(request.headers)
        text = f"{request.method} {request.url} {headers}{said}"
        _logger.debug("%s", text.replace(key, "***") if key else text)
    return time.monotonic()


def answered(response: httpx2.Response, sent_at: float) -> None:
    """Tell of an answer whose headers are there."""
    if _logger.isEnabledFor(logging.DEBUG):
        took_ms = (time.monotonic() - sent_at) * 1000
        _logger.debug(
            "%s after %.0f ms %s", response.status_code, took_ms, _harmless(response.headers)
        )


def failed(error: httpx2.RequestError) -> None:
    """Tell of a request without a complete answer."""
    _logger.debug("failed: %s %s", type(error).__name__, error)


def waiting(seconds: float) -> None:
    """Tell of the pause before the next attempt."""
    _logger.debug("again in %.1f s", seconds)


def _harmless(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: "***" if name.lower() in _SECRET_HEADERS else value for name, value in headers.items()
    }
