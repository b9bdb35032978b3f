"""A workspace checked out to a local folder, where commands work on it.

The manifest stays the truth. Before a command the folder is brought up to it, and after the command
whatever the command changed becomes changes of the manifest, to be stored with the call's result.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from handinger.files.manifest import Change, File, Manifest
from handinger.files.paths import FileError, is_published_by_default, media_type
from handinger.files.tree import Scan, Stamp, Tree, why_no_path
from handinger.files.workspace import Workspace
from handinger.storage.blobs import IN_MEMORY_BYTES, Content, Digest, close, digest

# What tools make for themselves, by the thousand; nobody wants to be sent it.
TOOLS_OWN = frozenset({"__pycache__", "bower_components", "node_modules", "site-packages", "venv"})
# So many files are under way at a time, and so many bytes of them, unless it is one file.
_BATCH_FILES = 64
_BATCH_BYTES = IN_MEMORY_BYTES

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Held:
    """What a file of the folder is known to contain."""

    sha256: str
    size: int  # bytes; the stamp's, unless it grew while it was read
    media_type: str
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that was read; settled: every later change of it is sure to change its stamp."""

    path: str
    content: Content
    digest: Digest
    held: _Held
    settled: bool


@dataclass(slots=True)
class Collected:
    """What a command did to the files."""

    changes: list[Change] = field(default_factory=list[Change])
    removed: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])  # what the command's author has to know


class Checkout:
    """One worker's workspace in a folder. One call at a time."""

    def __init__(self, workspace: Workspace, tree: Tree, *, max_published: int) -> None:
        self._workspace = workspace
        self._tree = tree
        self._max_published = max_published
        self._manifest = Manifest.empty()  # as of the last update
        self._held: dict[str, _Held] = {}
        # Of those: files whose stamp may hide a change, and files that differ from the manifest.
        self._unsettled: set[str] = set()
        self._pending: set[str] = set()

    async def update(self) -> None:
        """Bring what has changed in the manifest since the last time into the folder.

        What a command left in the folder and the manifest could not take stays as it is.
        """
        manifest = await self._workspace.refresh(self._manifest)
        before = self._manifest.files
        gone = [path for path in before.keys() - manifest.files.keys() if path in self._held]
        if gone:
            await asyncio.to_thread(self._remove, gone)
        news = [
            file
            for path, file in manifest.files.items()
            # Of thousands, most are the very same.
            if before.get(path) is not file and self._is_news(file)
        ]
        for batch in _batches(news, size=lambda file: file.size):
            contents = await asyncio.gather(*map(self._workspace.load, batch))
            await asyncio.to_thread(self._write, batch, contents)
        self._settle(news)
        self._manifest = manifest

    def _is_news(self, file: File) -> bool:
        """Whether the manifest says something that the folder does not have, and never had."""
        before, held = self._manifest.files.get(file.path), self._held.get(file.path)
        if before is not None and _is_same(before, file.sha256, file.executable):
            return False
        return held is None or not _is_same(file, held.sha256, held.stamp.executable)

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._tree.remove(path)
            self._forget(path)

    def _write(self, files: Sequence[File], contents: Sequence[Content]) -> None:
        for file, content in zip(files, contents, strict=True):
            stamp = self._tree.write(
                file.path, content, executable=file.executable, modified_at=file.updated_at
            )
            close(content)
            held = _Held(file.sha256, file.size, file.media_type, stamp)
            self._hold(file.path, held, settled=False)

    def _hold(self, path: str, held: _Held, *, settled: bool) -> None:
        self._held[path] = held
        if settled:
            self._unsettled.discard(path)
        else:
            self._unsettled.add(path)

    def _forget(self, path: str) -> None:
        self._held.pop(path, None)
        self._unsettled.discard(path)
        self._pending.discard(path)

    def _settle(self, files: Sequence[File]) -> None:
        """These were written a moment ago and no command has begun: only the last may be unsure."""
        now_ns = time.time_ns()
        for file in files:
            if self._held[file.path].stamp.is_settled(now_ns):
                self._unsettled.discard(file.path)

    async def collect(self) -> Collected:
        """What differs from the manifest; the bytes of what is new are stored already."""
        collected = Collected()
        scan = await asyncio.to_thread(self._scan)
        too_much = self._workspace.why_no_room(
            files=len(scan.files), size=sum(stamp.size for stamp in scan.files.values())
        )
        if too_much is not None:
            collected.notes.append(
                f"{too_much} So no change of the files was kept. Remove what is not needed: with "
                "the next command that leaves few enough, they are kept."
            )
            return collected
        doubtful = self._doubtful(scan)
        for batch in _batches(doubtful, size=lambda path: scan.files[path].size):
            await self._look_into(batch, scan)
        changes = map(self._change, sorted({*doubtful, *self._pending} & scan.files.keys()))
        collected.changes = [change for change in changes if change is not None]
        self._pending = {change.path for change in collected.changes}
        gone = self._manifest.files.keys() - scan.files.keys()
        collected.removed = sorted(path for path in gone if not scan.hides(path))
        for path in collected.removed:
            self._forget(path)
        self._publish(collected)
        if scan.left_out:
            collected.notes.append("Not kept: " + "; ".join(scan.left_out) + ".")
        return collected

    def _scan(self) -> Scan:
        scan = self._tree.scan()
        for path in scan.files.keys() - self._manifest.files.keys():
            why = why_no_path(path)
            if why is not None:
                del scan.files[path]
                scan.leave_out(path, why)
        return scan

    def _doubtful(self, scan: Scan) -> list[str]:
        """Files that may contain something else than what is known of them."""
        held, unsettled = self._held, self._unsettled
        return [
            path
            for path, stamp in scan.files.items()
            if path not in held or held[path].stamp != stamp or path in unsettled
        ]

    async def _look_into(self, paths: Sequence[str], scan: Scan) -> None:
        """Read files, and store the bytes of those that are new."""
        found = await asyncio.to_thread(self._read, paths, scan)
        known = {held.sha256 for path in paths if (held := self._held.get(path)) is not None}
        new = {read.held.sha256: read for read in found if read.held.sha256 not in known}
        await asyncio.gather(
            *(self._workspace.store(read.content, read.digest) for read in new.values())
        )
        for read in found:
            close(read.content)
            self._hold(read.path, read.held, settled=read.settled)

    def _read(self, paths: Sequence[str], scan: Scan) -> list[_Read]:
        found: list[_Read] = []
        for path in paths:
            began_ns = time.time_ns()
            try:
                read = self._tree.read(path, self._workspace.max_file_bytes)
            except FileError as error:
                scan.leave_out(path, str(error))
                scan.unreadable.add(path)
                read = None
            if read is None:
                del scan.files[path]
                continue
            content, stamp = read
            known = digest(content)
            held = _Held(known.sha256, known.size, media_type(path, known.head), stamp)
            found.append(_Read(path, content, known, held, stamp.is_settled(began_ns)))
        return found

    def _change(self, path: str) -> Change | None:
        held, before = self._held[path], self._manifest.files.get(path)
        if before is not None and _is_same(before, held.sha256, held.stamp.executable):
            return None
        return Change(
            path=path,
            sha256=held.sha256,
            size=held.size,
            media_type=held.media_type,
            published=is_published_by_default(path) and not TOOLS_OWN.intersection(path.split("/")),
            executable=held.stamp.executable,
        )

    def _publish(self, collected: Collected) -> None:
        """A file that was moved stays published; many new files at once are not meant to be."""
        removed = (self._manifest.files[path] for path in collected.removed)
        moved = {file.sha256 for file in removed if file.published}
        new = [
            change
            for change in collected.changes
            if change.published and change.path not in self._manifest.files
        ]
        quietly = {change.path for change in new} if len(new) > self._max_published else set[str]()
        collected.changes = [
            replace(
                change,
                published=change.sha256 in moved
                or (change.published and change.path not in quietly),
            )
            for change in collected.changes
        ]
        if quietly:
            collected.notes.append(
                f"{len(quietly)} new files are too many to be published at once. They are in the "
                "workspace; publish those that are meant for the person with publish_file."
            )


def _is_same(file: File, sha256: str, executable: bool) -> bool:
    return file.sha256 == sha256 and file.executable == executable


def _batches(items: Iterable[_T], *, size: Callable[[_T], int]) -> Iterator[list[_T]]:
    """In groups that are few enough, and small enough together."""
    batch: list[_T] = []
    room = _BATCH_BYTES
    for item in items:
        if batch and (len(batch) == _BATCH_FILES or size(item) > room):
            yield batch
            batch, room = [], _BATCH_BYTES
        batch.append(item)
        room -= size(item)
    if batch:
        yield batch
