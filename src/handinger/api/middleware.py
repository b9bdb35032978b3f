"""What happens to every request before and after its route."""

import re
import time
from contextvars import ContextVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handinger import ids, metrics
from handinger.api.answers import SHUTTING_DOWN
from handinger.api.deps import Services
from handinger.api.errors import request_error_response
from handinger.errors import Unavailable

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Of the request that the present task serves; for the log."""

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """Every answer carries `X-Request-Id`: the client's own if it sent a usable one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        own = given.decode() if _GIVEN_ID.fullmatch(given) else ids.new("req")
        request_id.set(own)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = own
            await send(message)

        await self._app(scope, receive, send_with_id)


class Measured:
    """Every request counts, under its route; what has none counts as `none`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Known once the router has seen the request.
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                metrics.requests.labels(method, route, message["status"]).inc()
                metrics.request_seconds.labels(method, route).observe(time.monotonic() - began)
            await send(message)

        await self._app(scope, receive, send_and_count)


class RefuseWhileDraining:
    """No new work once the server shuts down."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if (
            scope["type"] == "http"
            and self._services.draining.is_set()
            and scope["path"].startswith("/api")
        ):
            refusal = request_error_response(Unavailable(SHUTTING_DOWN, retry_after_s=1))
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)
