"""Where a request may go: public addresses, and the private hosts that the operator named.

A name is resolved once; the address that was checked is the one that is connected to, so that a
name which resolves to something else a moment later (DNS rebinding) gains nothing.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

# The library's own tools are guarded by these; its tables of special addresses are kept by others
# than us, and the tests of this module notice if they move.
from pydantic_ai._ssrf import (  # pyright: ignore[reportPrivateImportUsage]
    is_cloud_metadata_ip,
    is_private_ip,
)

from handinger.errors import HandingerServerError
from handinger.web.urls import WebUrl, host_name

Resolve = Callable[[str], Awaitable[Sequence[str]]]

_RESOLVING_THREADS = 8
_MAX_ADDRESSES = 4


class WebError(HandingerServerError):
    """A page or a search could not be had; the message is fit for the model that asked.

    It repeats nothing that the other side wrote.
    """


class Hosts:
    """Hosts that the operator named, each with one port or with any."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._named = {_host_and_port(entry) for entry in entries}

    def __contains__(self, url: WebUrl) -> bool:
        return bool({(url.host, None), (url.host, url.port)} & self._named)


def _host_and_port(entry: str) -> tuple[str, int | None]:
    """Of a setting's entry: `host`, `host:port`, `::1` or `[::1]:port`."""
    if entry.count(":") > 1 and not entry.startswith("["):
        return host_name(entry), None
    host, _, port = entry.removeprefix("[").partition("]" if entry.startswith("[") else ":")
    port = port.removeprefix(":")
    return host_name(host), int(port) if port else None


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, and the addresses that it may be fetched from."""

    url: WebUrl
    ips: Sequence[str]
    private: bool  # reachable only because the operator named its host


class Guard:
    """Decides about one URL at a time; whoever follows redirects asks again for each."""

    def __init__(self, private: Hosts, *, resolve: Resolve | None = None) -> None:
        self._private = private
        # Of its own: a server that answers slowly must not hold the threads of everybody else.
        self._threads = ThreadPoolExecutor(_RESOLVING_THREADS, thread_name_prefix="resolve")
        self._resolve = resolve or self._look_up

    async def check(self, url: WebUrl) -> Target:
        """Where to connect to for this URL. Raises WebError if it may not be reached."""
        if "%" in url.host:
            raise WebError(f"{str(url)!r} names a network interface; that cannot be fetched.")
        ips = await self._resolve(url.host)
        private = False
        for ip in ips:
            if is_cloud_metadata_ip(ip):
                raise WebError(f"{url.host!r} is a cloud's metadata service; it is never fetched.")
            if not is_private_ip(ip):
                continue
            if url not in self._private:
                raise WebError(
                    f"{url.host!r} is in a private network ({ip}), which may not be reached. Only "
                    "the operator of this server can allow a host there."
                )
            private = True
        return Target(url, ips[:_MAX_ADDRESSES], private)

    async def _look_up(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads,
                lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM),
            )
        except (OSError, UnicodeError) as error:
            raise WebError(f"There is no host {host!r}, or its name cannot be resolved.") from error
        return list(dict.fromkeys(str(address[4][0]) for address in found))
