"""DNS rebinding, through a worker: a name that is elsewhere by the time of the connection."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripts
from tests.support.model_server import Step, ToolCall
from tests.support.site import Reply, Site, redirect

PUBLIC, INSIDE = "127.0.0.2", "127.0.0.1"


def names_that_rebind() -> None:
    """In the server: each name below `rebind.test` is public when it is first asked for.

    From then on it is inside, whoever asks: the server, or the HTTP client that it uses.
    """
    import anyio._core._sockets

    from handinger.web import guard

    asked: set[str] = set()
    is_private, look_up = guard.is_private_ip, socket.getaddrinfo
    look_up_later = anyio._core._sockets.getaddrinfo

    def found(host: object, port: object) -> list[Any] | None:
        if not isinstance(host, str) or not host.endswith(".rebind.test"):
            return None
        ip = INSIDE if host in asked else PUBLIC
        asked.add(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    def rebinding(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        return found(host, port) or look_up(host, port, *more, **named)

    async def rebinding_later(host: Any, port: Any, **named: Any) -> Any:
        return found(host, port) or await look_up_later(host, port, **named)

    socket.getaddrinfo = rebinding
    anyio._core._sockets.getaddrinfo = rebinding_later  # pyright: ignore[reportPrivateUsage]
    guard.is_private_ip = lambda ip: ip != PUBLIC and is_private(ip)  # pyright: ignore[reportPrivateImportUsage]


@pytest.fixture(scope="module")
def inside() -> Iterator[Site]:
    """What a stranger must not reach."""
    with Site({"/secret": Reply("secret")}, host=INSIDE) as site:
        yield site


@pytest.fixture(scope="module")
def public() -> Iterator[Site]:
    with Site({"/": redirect("/secret")}, host=PUBLIC) as site:
        yield site


@pytest.fixture(scope="module")
def rebound(new_server: StartServer, connect: Connect) -> Api:
    server = new_server("rebound", {}, prepare=names_that_rebind)
    return connect(server, server.key)


def test_a_name_that_is_rebound_reaches_nothing_inside(
    rebound: Api, scripts: Scripts, inside: Site, public: Site
):
    urls = [
        f"http://late.rebind.test:{inside.port}/secret",  # between the check and the connection
        f"http://late.rebind.test:{inside.port}/secret",  # the model tries again
        f"http://hop.rebind.test:{public.port}/",  # between two hops
    ]
    calls = [ToolCall("web_fetch", {"url": url}) for url in urls]
    scripted = scripts(*(Step(tool_calls=[call]) for call in calls), Step(text="done"))
    worker = worker_in(rebound.create(scripted))
    connected, again, hop = [
        part["errorText"] for part in worker["messages"][-1]["parts"] if "errorText" in part
    ]
    assert "'late.rebind.test' cannot be connected to" in connected
    assert "'late.rebind.test' is in a private network" in again
    assert "'hop.rebind.test' is in a private network" in hop
    # The model has read each of these, and concluded.
    assert "which may not be reached" in str(scripted.requests[-1].messages)
    assert (worker["output_text"], worker["error"]) == ("done", None)
    assert public.seen == ["/"]
    assert inside.seen == []
