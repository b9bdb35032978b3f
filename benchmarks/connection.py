"""One HTTP connection that costs next to nothing, so that what is measured is the other side."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import httptools
from pydantic_core import to_json


@dataclass(slots=True)
class Response:
    """What has arrived of an answer; also the parser's callbacks."""

    body: list[bytes] = field(default_factory=list[bytes])
    complete: bool = False

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


@dataclass(frozen=True, slots=True)
class Connection:
    """To one server, kept alive; one exchange at a time."""

    host: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, url: str) -> Self:
        host = urlsplit(url).netloc
        name, _, port = host.partition(":")
        return cls(host, *await asyncio.open_connection(name, int(port)))

    async def post(self, path: str, body: object, *, headers: Mapping[str, str]) -> bytes:
        """The whole answer. Raises ConnectionError unless it is a 2xx."""
        return b"".join([piece async for piece in self.stream(path, body, headers=headers)])

    async def stream(
        self, path: str, body: object = None, *, headers: Mapping[str, str]
    ) -> AsyncGenerator[bytes]:
        """The answer as it comes; a GET if there is no body to send."""
        payload = b"" if body is None else to_json(body)
        lines = {
            "host": self.host,
            "content-type": "application/json",
            "content-length": str(len(payload)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        method = "GET" if body is None else "POST"
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + payload)
        response = Response()
        parser = httptools.HttpResponseParser(response)
        while not response.complete:
            data = await self.reader.read(1 << 16)
            if not data:
                raise ConnectionError(f"{method} {path}: the connection ended early")
            parser.feed_data(data)
            if parser.get_status_code() // 100 != 2:
                raise ConnectionError(f"{method} {path}: {data.decode(errors='replace')[:500]}")
            if response.body:
                yield b"".join(response.body)
                response.body.clear()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def first_seen_at(pieces: AsyncGenerator[bytes], *, marker: bytes) -> tuple[float, bytes]:
    """When the marker had arrived, by `time.monotonic()`; and all that came, to the end."""
    told, seen_at = b"", None
    async for piece in pieces:
        told += piece
        if seen_at is None and marker in told:
            seen_at = time.monotonic()
    if seen_at is None:
        raise ConnectionError(f"the stream ended without {marker.decode()}")
    return seen_at, told
