"""A workspace checked out to a local folder, where commands work on it.

The manifest stays the truth. Before a command the folder is brought up to it, and after the command
whatever the command changed becomes changes of the manifest, to be stored with the call's result.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from handinger.files.manifest import Change, File
from handinger.files.paths import FileError, is_published_by_default, media_type
from handinger.files.tree import Scan, Stamp, Tree, why_no_path
from handinger.files.workspace import Workspace

# What tools make for themselves, by the thousand; nobody wants to be sent it.
TOOLS_OWN = frozenset({"__pycache__", "bower_components", "node_modules", "site-packages", "venv"})
# So many files are under way at a time, and so many bytes of them are held in memory.
_BATCH_FILES = 16
_BATCH_BYTES = 64 * 1024 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Held:
    """What a file of the folder is known to contain."""

    sha256: str
    media_type: str
    stamp: Stamp
    settled: bool  # else a change may have left its stamp as it was

    def is_still(self, stamp: Stamp) -> bool:
        return self.settled and self.stamp == stamp


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
        self._manifest: dict[str, File] = {}  # as of the last update
        self._held: dict[str, _Held] = {}

    async def update(self) -> None:
        """Bring what has changed in the manifest since the last time into the folder.

        What a command left in the folder and the manifest could not take stays as it is.
        """
        manifest = {file.path: file for file in await self._workspace.list()}
        gone = [path for path in self._manifest if path not in manifest and path in self._held]
        if gone:
            await asyncio.to_thread(self._remove, gone)
        missing = [file for file in manifest.values() if self._is_news(file)]
        for batch in _batches(missing, size=lambda file: file.size):
            await asyncio.gather(*map(self._bring, batch))
        self._settle()
        self._manifest = manifest

    def _is_news(self, file: File) -> bool:
        """Whether the manifest says something that the folder does not have, and never had."""
        before, held = self._manifest.get(file.path), self._held.get(file.path)
        if before is not None and _is_same(before, file.sha256, file.executable):
            return False
        return held is None or not _is_same(file, held.sha256, held.stamp.executable)

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._tree.remove(path)
            self._held.pop(path, None)

    async def _bring(self, file: File) -> None:
        content = await self._workspace.read(file)
        stamp = await asyncio.to_thread(
            self._tree.write,
            file.path,
            content,
            executable=file.executable,
            modified_at=file.updated_at,
        )
        self._held[file.path] = _Held(file.sha256, file.media_type, stamp, settled=False)

    def _settle(self) -> None:
        """No command has run since these files were written, so their stamps hide nothing."""
        now_ns = time.time_ns()
        for path, held in self._held.items():
            if not held.settled and held.stamp.is_settled(now_ns):
                self._held[path] = replace(held, settled=True)

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
        for batch in _batches(self._doubtful(scan), size=lambda path: scan.files[path].size):
            await asyncio.gather(*(self._look_into(path, scan) for path in batch))
        for path in scan.files:
            change = self._change(path)
            if change is not None:
                collected.changes.append(change)
        collected.removed = [
            path for path in self._manifest if path not in scan.files and not scan.hides(path)
        ]
        for path in collected.removed:
            self._held.pop(path, None)
        self._publish(collected)
        if scan.left_out:
            collected.notes.append("Not kept: " + "; ".join(scan.left_out) + ".")
        return collected

    def _scan(self) -> Scan:
        scan = self._tree.scan()
        for path in [path for path in scan.files if path not in self._manifest]:
            why = why_no_path(path)
            if why is not None:
                del scan.files[path]
                scan.leave_out(path, why)
        return scan

    def _doubtful(self, scan: Scan) -> list[str]:
        """Files that may contain something else than what is known of them."""
        held = self._held
        return [
            path
            for path, stamp in scan.files.items()
            if path not in held or not held[path].is_still(stamp)
        ]

    async def _look_into(self, path: str, scan: Scan) -> None:
        """Read a file, and store its bytes if they are new."""
        began_ns = time.time_ns()
        try:
            found = await asyncio.to_thread(self._read, path)
        except FileError as error:
            scan.leave_out(path, str(error))
            scan.unreadable.append(path)
            found = None
        if found is None:
            del scan.files[path]
            return
        content, sha256, stamp = found
        held = self._held.get(path)
        if held is None or held.sha256 != sha256:
            await self._workspace.store(content)
        self._held[path] = _Held(
            sha256, media_type(path, content), stamp, stamp.is_settled(began_ns)
        )

    def _read(self, path: str) -> tuple[bytes, str, Stamp] | None:
        found = self._tree.read(path, self._workspace.max_file_bytes)
        if found is None:
            return None
        content, stamp = found
        return content, hashlib.sha256(content).hexdigest(), stamp

    def _change(self, path: str) -> Change | None:
        held, before = self._held[path], self._manifest.get(path)
        if before is not None and _is_same(before, held.sha256, held.stamp.executable):
            return None
        return Change(
            path=path,
            sha256=held.sha256,
            size=held.stamp.size,
            media_type=held.media_type,
            published=is_published_by_default(path) and not TOOLS_OWN.intersection(path.split("/")),
            executable=held.stamp.executable,
        )

    def _publish(self, collected: Collected) -> None:
        """A file that was moved stays published; many new files at once are not meant to be."""
        removed = (self._manifest[path] for path in collected.removed)
        moved = {file.sha256 for file in removed if file.published}
        new = [
            change
            for change in collected.changes
            if change.published and change.path not in self._manifest
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
