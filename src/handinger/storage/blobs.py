"""Immutable bytes named by their hash, in a local folder or in an object store.

A key begins with its worker's id: nothing is shared between workers, so a deleted worker's bytes
are deleted without asking who else might need them.
"""

import asyncio
import contextlib
import hashlib
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from handinger.errors import ConfigurationError
from handinger.ids import WorkerId
from handinger.settings import Settings
from handinger.storage.database import Tenant

Content: TypeAlias = bytes | BinaryIO
"""Bytes; if they are many, in a file, which is read from its beginning and in pieces."""

# So much of one content is held in memory at most: a copy on the disk takes longer.
IN_MEMORY_BYTES = 16 * 1024 * 1024

_CHUNK_BYTES = 1024 * 1024
_HEAD_BYTES = 4096
# Less than this is hashed sooner than a thread is asked to.
_SMALL_BYTES = 64 * 1024
_TRIES = 100
# A turn rather learns that the store is down than that it waits for minutes.
_RETRIES, _RETRY_FOR = 5, timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Digest:
    """What has to be known of content before it is stored."""

    sha256: str  # in hexadecimal
    size: int  # bytes
    head: bytes  # its beginning, enough to tell of what kind it is


def size_of(content: Content) -> int:
    """How many bytes there are."""
    return len(content) if isinstance(content, bytes) else content.seek(0, os.SEEK_END)


def close(content: Content) -> None:
    """Let go of it."""
    if not isinstance(content, bytes):
        content.close()


def write(content: Content, file: BinaryIO) -> None:
    """Add what is left of it to a file, in pieces: one large write may take ten times as long."""
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    shutil.copyfileobj(source, file, _CHUNK_BYTES)


async def _digest(content: Content) -> Digest:
    if isinstance(content, bytes) and len(content) <= _SMALL_BYTES:
        return digest(content)
    return await asyncio.to_thread(digest, content)


def digest(content: Content) -> Digest:
    """Reads all of it, which takes a while if it is large."""
    if isinstance(content, bytes):
        return Digest(hashlib.sha256(content).hexdigest(), len(content), content[:_HEAD_BYTES])
    hashed, size, head = hashlib.sha256(), 0, b""
    content.seek(0)
    while piece := content.read(_CHUNK_BYTES):
        head = head or piece[:_HEAD_BYTES]
        size += len(piece)
        hashed.update(piece)
    return Digest(hashed.hexdigest(), size, head)


@dataclass(frozen=True, slots=True)
class Blobs:
    """The object store."""

    store: ObjectStore
    # Where a local store keeps its files. They are written here, as it does not sync them, and read
    # here, in a fifth of the time.
    folder: Path | None = None

    async def put(
        self,
        tenant: Tenant,
        worker_id: WorkerId,
        content: Content,
        *,
        known: Digest | None = None,
    ) -> Digest:
        """Store bytes durably, once; returns what they are known by, which may be known already.

        They are noted before they are stored, so that nothing is stored that is not known. What no
        row names is removed after a while, see `turns.garbage`; storing it again begins anew.
        """
        found = known or await _digest(content)
        async with tenant.statements() as sql:
            await sql.run(
                "INSERT INTO blobs (organization_id, worker_id, sha256)"
                " SELECT %(organization_id)s, %(worker_id)s, %(sha256)s"
                # Losing this note in a crash of PostgreSQL only leaves garbage until the worker's
                # end, so it need not wait for the disk.
                " FROM set_config('synchronous_commit', 'off', true)"
                " ON CONFLICT (worker_id, sha256) DO UPDATE SET used_at = now()",
                worker_id=worker_id,
                sha256=found.sha256,
            )
        key = _key(worker_id, found.sha256)
        if not isinstance(content, bytes):
            content.seek(0)
        if self.folder is None:
            await obstore.put_async(self.store, key, content)
        else:
            await asyncio.to_thread(_write, self.folder, key, content)
        return found

    async def read(self, worker_id: WorkerId, sha256: str) -> bytes:
        """All the bytes, for content that is known to be small enough. Raises FileNotFoundError."""
        key = _key(worker_id, sha256)
        if self.folder is not None:
            return await asyncio.to_thread((self.folder / key).read_bytes)
        result = await obstore.get_async(self.store, key)
        return bytes(await result.bytes_async())

    async def load(self, worker_id: WorkerId, sha256: str) -> Content:
        """All the bytes; if they are many, in a file that is open. Raises FileNotFoundError."""
        key = _key(worker_id, sha256)
        if self.folder is not None:
            return await asyncio.to_thread(_open, self.folder / key)
        result = await obstore.get_async(self.store, key)
        if result.meta["size"] <= IN_MEMORY_BYTES:
            return bytes(await result.bytes_async())
        file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 # It is the caller's.
        try:
            async for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
                await asyncio.to_thread(file.write, chunk)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    async def stream(
        self, worker_id: WorkerId, sha256: str, *, start: int, end: int
    ) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to `end`, in pieces. Raises FileNotFoundError."""
        if start >= end:
            return
        key = _key(worker_id, sha256)
        if self.folder is not None:
            async for piece in _pieces(self.folder / key, start=start, end=end):
                yield piece
            return
        result = await obstore.get_async(self.store, key, options={"range": (start, end)})
        async for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
            yield bytes(chunk)

    async def delete(self, worker_id: WorkerId, sha256: str) -> None:
        """Remove bytes; it does not matter if they are gone."""
        with contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self.store, _key(worker_id, sha256))

    async def delete_worker(self, worker_id: WorkerId) -> None:
        """Remove everything that this worker stored."""
        batches = obstore.list(self.store, prefix=f"{worker_id}/")  # pyright: ignore[reportUnknownMemberType] # Only its Arrow variant is untyped.
        async for batch in batches:
            await obstore.delete_async(self.store, [item["path"] for item in batch])

    async def check(self) -> None:
        """Prove that the store can be written and read. Raises what the store raises."""
        await obstore.put_async(self.store, "health", b"ok")
        result = await obstore.get_async(self.store, "health")
        await result.bytes_async()


def _open(path: Path) -> Content:
    return path.read_bytes() if path.stat().st_size <= IN_MEMORY_BYTES else path.open("rb")


async def _pieces(path: Path, *, start: int, end: int) -> AsyncGenerator[bytes]:
    file = await asyncio.to_thread(path.open, "rb", buffering=0)
    try:
        while start < end:
            size = min(_CHUNK_BYTES, end - start)
            piece = await asyncio.to_thread(os.pread, file.fileno(), size, start)
            if not piece:
                raise FileNotFoundError(f"{path} is shorter than it was.")
            start += len(piece)
            yield piece
    finally:
        file.close()


def _write(folder: Path, key: str, content: Content) -> None:
    """Put a file into a folder: after a power failure it is there in full, or not at all."""
    path = folder / key
    # The store knows by such a name that it is none of its objects.
    temporary = path.with_name(f"{path.name}#{secrets.randbelow(10**15)}")
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = temporary.open("xb")
            break
        except FileNotFoundError:
            continue  # Whoever removed the last blob of this folder removed it as well.
    else:
        raise FileNotFoundError(f"The folder {path.parent} is removed again and again.")
    try:
        with file:
            write(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for parent in (path.parent, path.parent.parent, folder):
        _sync(parent)


def _sync(folder: Path) -> None:
    """See that the names in a folder are on the disk."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _key(worker_id: WorkerId, sha256: str) -> str:
    return f"{worker_id}/{sha256[:2]}/{sha256}"


def open_blobs(settings: Settings) -> Blobs:
    """The store that the settings name; files in the data directory by default.

    Raises ConfigurationError.
    """
    url = settings.storage_url
    if url is None:
        folder: Path = settings.data_dir.resolve() / "blobs"
        # Parents get the process's own mode, which would leave the data directory open.
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        # A deleted worker leaves no empty folder with its name behind.
        return Blobs(LocalStore(folder, automatic_cleanup=True), folder)
    try:
        return Blobs(
            from_url(url, retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_FOR})
        )
    except Exception as error:
        # What follows the first line is for whoever maintains the library.
        why = str(error).partition("\n")[0]
        raise ConfigurationError(f"HANDINGER_STORAGE_URL cannot be used: {why}.") from error
