"""Files on their way to disk: taken up where a broken connection left them, never half there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeAlias

import httpx2

from handinger.sdk import errors
from handinger.sdk.answers import FileContent
from handinger.sdk.errors import DownloadError
from handinger.sdk.exchange import Attempts, Close, Flow, Operation, Reply, Request, Sleep, receive

# Told of the bytes that have arrived, and of how many there will be, if that is known.
Progress: TypeAlias = Callable[[int, "int | None"], object]
Target: TypeAlias = "str | os.PathLike[str] | IO[bytes]"


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was fetched and written."""

    size: int
    media_type: str
    etag: str | None = None


def download(
    operation: Operation[FileContent],
    attempts: Attempts,
    *,
    to: Target,
    progress: Progress | None = None,
) -> Flow[Download]:
    """Write a file to a path or an open file.

    A path has the whole file in the end or is left as it was. Raises DownloadError when the file
    was changed in the middle and an open file cannot begin anew.
    """
    # Ranges count the bytes of the file, so none of them may be compressed on the way.
    headers = {**operation.request.headers, "accept-encoding": "identity"}
    request = replace(operation.request, headers=headers)
    if not isinstance(to, (str, os.PathLike)):
        return (yield from _Transfer(request, attempts, _Sink(to), progress).run())
    target = Path(to).resolve()
    if target.exists() and not target.is_file():
        with target.open("wb") as device:
            return (yield from _Transfer(request, attempts, _Sink(device), progress).run())
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", suffix=".part", delete=False
    ) as part:
        try:
            done = yield from _Transfer(request, attempts, _Sink(part), progress).run()
            part.close()
            Path(part.name).chmod(_mode_of(target))
            Path(part.name).replace(target)
        finally:
            Path(part.name).unlink(missing_ok=True)
    return done


class _Sink:
    """An open file, and where in it the download began."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._beginning = file.tell() if file.seekable() else None

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)

    def begin_anew(self) -> None:
        if self._beginning is None:
            raise DownloadError("The file was changed while it was fetched; fetch it again.")
        self._file.seek(self._beginning)
        self._file.truncate()


class _Transfer:
    """The bytes of one file, over any number of connections."""

    def __init__(
        self, request: Request, attempts: Attempts, sink: _Sink, progress: Progress | None
    ) -> None:
        self._request = request
        self._attempts = attempts
        self._sink = sink
        self._progress = progress
        self._received = 0

    def run(self) -> Flow[Download]:
        failures = 0
        reply = yield from self._attempts.until_answered(self._request, streamed=True)
        first = reply.response.headers
        while True:
            before = self._received
            cause = yield from self._take(reply)
            if cause is None:
                media_type = first.get("content-type", "application/octet-stream")
                return Download(self._received, media_type, first.get("etag"))
            failures = 1 if self._received > before else failures + 1
            if failures > self._attempts.max_retries:
                raise errors.of_transport(cause, base_url=self._attempts.base_url)
            yield Sleep(self._attempts.delay_s(failures))
            rest = replace(self._request, headers=self._rest_of(first))
            reply = yield from self._attempts.until_answered(rest, streamed=True)
            if reply.response.status_code != 206 and self._received:
                # Another version by now, told from its beginning.
                self._sink.begin_anew()
                self._received, first = 0, reply.response.headers

    def _take(self, reply: Reply) -> Flow[httpx2.RequestError | None]:
        total = _total(reply.response.headers, self._received)
        try:
            while (chunk := (yield from receive(reply))) is not None:
                self._sink.write(chunk)
                self._received += len(chunk)
                if self._progress is not None:
                    self._progress(self._received, total)
        except httpx2.RequestError as error:
            yield Close(reply)
            return error
        return None

    def _rest_of(self, first: Mapping[str, str]) -> dict[str, str]:
        headers = dict(self._request.headers)
        if self._received and (etag := first.get("etag")):
            headers |= {"range": f"bytes={self._received}-", "if-range": etag}
        return headers


def _total(headers: Mapping[str, str], received: int) -> int | None:
    length = headers.get("content-length", "")
    return received + int(length) if length.isdecimal() else None


def _mode_of(target: Path) -> int:
    """What the file has, or would get if it were simply opened."""
    if target.exists():
        return target.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
