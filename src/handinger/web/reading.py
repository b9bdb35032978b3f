"""Turns what was fetched into text, in a process of its own with little memory and little time."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

from handinger.web.fetching import Fetched
from handinger.web.guard import WebError

_WALL_S = 40.0
_MAX_OUTPUT_BYTES = 64 * 1024 * 1024
_HEAD_BYTES = 4096

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
    """Reads pages for all turns of a process, a few at a time."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(max(2, os.cpu_count() or 1))

    async def read(self, fetched: Fetched, media_type: str) -> PageText:
        """The page as Markdown, or as the text that it is. Raises WebError."""
        spec = {"media_type": media_type, "charset": fetched.charset, "url": fetched.url}
        async with self._slots:
            told = await _run(fetched.body, json.dumps(spec))
        if told["error"]:
            raise WebError(f"The page was fetched, but cannot be read: {told['error']}")
        return PageText(told["text"], told["title"], frozenset(told["links"]), told["note"])


async def _run(body: BinaryIO, spec: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "handinger.web.reader", spec),
        stdin=body,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"LANG": "C.UTF-8"},
        start_new_session=True,
        limit=_MAX_OUTPUT_BYTES,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_WALL_S):
            output = await _all(process.stdout)
            status = await process.wait()
    except TimeoutError:
        status, output = os.EX_TEMPFAIL, b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status == 0:
        return json.loads(output)
    reason = "it is too large or too complicated" if status == os.EX_TEMPFAIL else "it is damaged"
    raise WebError(f"The page was fetched, but cannot be read: {reason}.")


async def _all(stream: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await stream.read(1024 * 1024):
        size += len(piece)
        if size > _MAX_OUTPUT_BYTES:
            raise WebError("The page was fetched, but cannot be read: its text is too long.")
        pieces.append(piece)
    return b"".join(pieces)
