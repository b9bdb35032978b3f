"""Every route of the API, as its own description tells it, and how to fill in its path.

A new path parameter, or a new route without a worker in its path, has to be thought about here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from handinger.server import describe_app

# What a route needs besides an input.
BODIES = {
    "createSchedule": {"input": "x", "when": {"type": "delayed", "delayInSeconds": 86_400}},
}
# Routes under /api without a worker's id. What they tell is tested to be the caller's own.
COLLECTIONS = {
    ("GET", "/api/workers"),
    ("POST", "/api/workers"),
    ("GET", "/api/email-settings"),
    ("PUT", "/api/email-settings"),
    ("GET", "/api/budgets"),
    ("GET", "/api/usage"),
}
# These need no key. What hands in a mail is signed instead, see tests/email.
OPEN = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),  # has a token of its own
    ("POST", "/api/inbound-email"),
    ("GET", "/api/email-files/{token}/{number}"),  # the token is the key
}


@dataclass(frozen=True)
class Route:
    """A method on a path with `{parameters}`."""

    method: str
    path: str
    body: Mapping[str, Any] | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def target(self, values: Mapping[str, str]) -> str:
        """The path with its parameters filled in; KeyError names one that nobody knows."""
        return self.path.format_map(values)


@cache
def routes() -> list[Route]:
    """All that `/openapi.json` tells, and the HEAD of what has one."""
    found: list[Route] = []
    for path, methods in describe_app().openapi()["paths"].items():
        for method, operation in methods.items():
            body = BODIES.get(operation["operationId"], {"input": "x"})
            body = body if "requestBody" in operation else None
            found.append(Route(method.upper(), path, body))
    files = "/api/workers/{workerId}/files/{filePath}"
    return [*found, Route("HEAD", files, None)]


def worker_routes() -> list[Route]:
    """The routes that are about one worker."""
    return [route for route in routes() if "{workerId}" in route.path]
