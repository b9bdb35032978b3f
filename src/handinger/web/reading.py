"""Turns what was fetched into text, in a process of its own with little memory and little time."""

import asyncio
import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import BinaryIO

from handinger.web.fetching import Fetched
from handinger.web.guard import WebError
from handinger.web.reader import Limits

logger = logging.getLogger(__name__)

_WALL_S = 40.0
_MAX_OUTPUT_BYTES = 64 * 1024 * 1024
_HEAD_BYTES = 4096
_END_S = 5.0
_LOST = 128  # no exit status: nobody told one

_TEXT_TYPES = (
    "application/json",
    "application/ld+json",
    "application/xml",
    "application/xhtml+xml",
    "application/javascript",
    "application/ecmascript",
    "application/x-javascript",
    "application/yaml",
    "application/x-yaml",
    "application/toml",
    "application/sql",
    "application/csv",
    "application/x-ndjson",
    "application/graphql",
    "message/rfc822",
)
_UNDECLARED = ("", "application/octet-stream", "binary/octet-stream", "text/plain")
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16 and UTF-32, whose text has NULs


@dataclass(frozen=True, slots=True)
class PageText:
    """A page as text."""

    text: str
    title: str | None
    links: frozenset[str]  # the addresses that it names
    note: str


def kind_of(fetched: Fetched) -> str:
    """The media type that the content is to be read as: as declared, unless it cannot be that."""
    head = fetched.body.read(_HEAD_BYTES)
    fetched.body.seek(0)
    declared = fetched.media_type
    if head.startswith(b"%PDF-"):
        return "application/pdf"
    if b"\0" in head and not head.startswith(_WIDE_MARKS) and not _is_wide(fetched.charset):
        # Whatever it is called, it is no text.
        return declared if declared and not is_text(declared) else "application/octet-stream"
    if declared not in _UNDECLARED:
        return declared
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")) and declared != "text/plain":
        return "text/html"
    return "text/plain" if _looks_like_text(head) else declared or "application/octet-stream"


def is_text(media_type: str) -> bool:
    """Whether content of this type is text, or PDF, from which text can be had."""
    return (
        media_type.startswith("text/")
        or media_type in _TEXT_TYPES
        or media_type.endswith(("+json", "+xml", "+yaml"))
        or media_type == "application/pdf"
    )


def _is_wide(charset: str | None) -> bool:
    return (charset or "").lower().replace("_", "-").startswith(("utf-16", "utf-32"))


def _looks_like_text(head: bytes) -> bool:
    """Hardly any control characters; which charset it is may be seen later."""
    control = sum(byte < 32 and byte not in b"\t\n\v\f\r\x1b" for byte in head)
    return control * 100 <= len(head)


class Reader:
    """Reads pages for all turns of a process, a few at a time.

    The process that does it starts with the first page and stays, as a start takes longer than most
    pages. It ends with `close`, and with this process, however that ends.
    """

    def __init__(self, limits: Limits | None = None, *, wall_s: float = _WALL_S) -> None:
        self._limits = limits or Limits()
        self._wall_s = wall_s
        self._slots = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._changing = asyncio.Lock()  # held by who starts or ends the process

    @property
    def pid(self) -> int | None:
        """Of the process that reads, if it was started."""
        return None if self._process is None else self._process.pid

    async def read(self, fetched: Fetched, media_type: str) -> PageText:
        """The page as Markdown, or as the text that it is. Raises WebError."""
        spec = {"media_type": media_type, "charset": fetched.charset, "url": fetched.url}
        async with self._slots:
            answer = await self._answer(fetched.body, json.dumps(spec).encode() + b"\n")
        status = answer[-1] if answer else _LOST
        if status == os.EX_TEMPFAIL:
            raise _unreadable("it is too large or too complicated.")
        if status == _LOST:
            raise WebError("The page was fetched, but the process that reads pages ended.")
        if status != 0:
            raise _unreadable("it is damaged, or too large.")
        told = json.loads(answer[:-1])
        if told["error"]:
            raise _unreadable(told["error"])
        return PageText(told["text"], told["title"], frozenset(told["links"]), told["note"])

    async def close(self) -> None:
        """End the process, and what it still reads."""
        async with self._changing:
            await self._end()

    async def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()  # On which the process ends, and all that it has started.
            self._channel = None
        if self._process is not None:
            await asyncio.to_thread(_wait_for, self._process)
            self._process = None

    async def _answer(self, body: BinaryIO, spec: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        # To close our end is to let the page's process be killed.
        with ours:
            ours.setblocking(False)
            with theirs:
                await self._hand_over(body, theirs)
            try:
                async with asyncio.timeout(self._wall_s):
                    await loop.sock_sendall(ours, spec)
                    return await _all(ours)
            except TimeoutError:
                return bytes([os.EX_TEMPFAIL])
            except ConnectionError:
                return bytes([_LOST])

    async def _hand_over(self, body: BinaryIO, answer: socket.socket) -> None:
        files = [body.fileno(), answer.fileno()]
        # Who finds it dead replaces it, and everybody else waits for that one's.
        async with self._changing:
            if self._channel is not None:
                try:
                    socket.send_fds(self._channel, [b"p"], files)
                except OSError as error:
                    logger.warning("The process that reads pages ended and is replaced: %s", error)
                else:
                    return
            # Also of one whose end somebody was too impatient to wait for.
            await self._end()
            self._channel = self._start()
            socket.send_fds(self._channel, [b"p"], files)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        limits = json.dumps(dataclasses.asdict(self._limits))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "handinger.web.reader", limits],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        return ours


def _wait_for(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _unreadable(reason: str) -> WebError:
    return WebError(f"The page was fetched, but cannot be read: {reason}")


async def _all(answer: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    pieces: list[bytes] = []
    size = 0
    while piece := await loop.sock_recv(answer, 1024 * 1024):
        size += len(piece)
        if size > _MAX_OUTPUT_BYTES:
            raise _unreadable("its text is too long.")
        pieces.append(piece)
    return b"".join(pieces)
