"""A workspace as a tree on a local disk, beside programs that nobody trusts.

They may turn a folder into a link, or a file into another, at any moment. So every path is walked
from the root one name at a time, and no link is ever followed.
"""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from handinger.files.paths import MAX_PATH_BYTES, FileError, normalize, spelled
from handinger.sandbox import folders
from handinger.sandbox.descent import Descent, open_folder
from handinger.storage import blobs
from handinger.storage.blobs import IN_MEMORY_BYTES, Content

# A pipe or a device must not make the opener wait.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# A change this soon after another may leave the same time behind: clocks of files are coarse.
_TICK_NS = 20_000_000
_STAMPED = attrgetter("st_mtime_ns", "st_ctime_ns", "st_size", "st_ino", "st_mode")
# It is not there, or a link, or a socket.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_PIECE_BYTES = 1024 * 1024
_MAX_NAMED = 20
_SHOWN = 80  # characters of a path that is too long


class Stamp(NamedTuple):
    """What changes when a file does, as far as can be seen without reading it."""

    mtime_ns: int
    ctime_ns: int
    size: int
    inode: int
    mode: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        # Thousands are made with every command, and this is the fastest way.
        return cls._make(_STAMPED(found))

    @property
    def executable(self) -> bool:
        return bool(self.mode & stat.S_IXUSR)

    def is_settled(self, now_ns: int) -> bool:
        """Whether every later change is sure to show."""
        return self.ctime_ns < now_ns - _TICK_NS


@dataclass(slots=True)
class Scan:
    """What is there: regular files by path, and what cannot be kept."""

    files: dict[str, Stamp] = field(default_factory=dict[str, Stamp])
    unreadable: set[str] = field(
        default_factory=set[str]
    )  # folders, and files, that hide what is in them; "" is the root
    left_out: list[str] = field(default_factory=list[str])  # "path: why", the first few

    def hides(self, path: str) -> bool:
        """Whether this file may be there, unseen."""
        if not self.unreadable:
            return False
        parts = path.split("/")
        return any("/".join(parts[:count]) in self.unreadable for count in range(len(parts) + 1))

    def hide(self, path: str, error: OSError) -> None:
        """A folder or file that cannot be looked into; if it went away, it hides nothing."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            self.unreadable.add(path)
            self.leave_out(path or ".", f"it cannot be read ({error.strerror or error})")

    def leave_out(self, path: str, why: str) -> None:
        if len(self.left_out) < _MAX_NAMED:
            name = spelled(path.encode(errors="replace").decode())
            self.left_out.append(f"{name}: {why.removesuffix('.')}")


@dataclass(frozen=True, slots=True)
class Tree:
    """The folder, and whose the files in it shall be (None: ours)."""

    root: Path
    uid: int | None

    def scan(self) -> Scan:
        """Everything in it whose path a file may have."""
        found = Scan()
        try:
            with Descent(self.root) as at:
                prefixes = [""]
                _scan_folder(at, "", found)
                while (name := at.next()) is not None:
                    del prefixes[at.depth + 1 :]
                    path = prefixes[-1] + name
                    if len(os.fsencode(path)) + len("/x") > MAX_PATH_BYTES:
                        # Nor has the manifest any file there that could be missed.
                        found.leave_out(path[:_SHOWN] + "...", "paths below it are too long")
                        continue
                    try:
                        at.enter(name)
                    except OSError as error:
                        found.hide(path, error)
                    else:
                        prefixes.append(f"{path}/")
                        _scan_folder(at, path, found)
        except OSError as error:
            # A folder was moved so that the walk lost its way.
            found.hide("", error)
        return found

    def read(self, path: str, limit: int) -> tuple[Content, Stamp] | None:
        """A file's content, and its stamp from before it was read; None if there is no such file.

        What is read stays as it was read, whatever becomes of the file. Raises FileError for one of
        more bytes than the limit, or that cannot be read.
        """
        folder, _, name = path.rpartition("/")
        try:
            with self._folder(folder) as parent:
                descriptor = os.open(name, _FILE, dir_fd=parent)
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise FileError(f"it cannot be read ({error.strerror})") from error
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return None
            return _copy(file, found.st_size, limit), Stamp.of(found)

    def write(
        self, path: str, content: Content, *, executable: bool, modified_at: datetime
    ) -> Stamp:
        """Put a file there, in the place of whatever is there. Raises OSError."""
        folder, _, name = path.rpartition("/")
        with self._folder(folder, make=True, unlock=True) as parent:
            self._clear(parent, name)
            descriptor = os.open(name, _NEW, 0o600, dir_fd=parent)
            with open(descriptor, "wb") as file:
                blobs.write(content, file)
                file.flush()
                if self.uid is not None:
                    os.fchown(descriptor, self.uid, self.uid)
                os.fchmod(descriptor, 0o755 if executable else 0o644)
                seconds = modified_at.timestamp()
                os.utime(descriptor, (seconds, seconds))
                return Stamp.of(os.fstat(descriptor))

    def remove(self, path: str) -> None:
        """Take a file away, and the folders that it leaves empty. Raises OSError."""
        folder, _, name = path.rpartition("/")
        try:
            with self._folder(folder, unlock=True) as parent:
                os.unlink(name, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        while folder:
            above, _, name = folder.rpartition("/")
            try:
                with self._folder(above) as parent:
                    os.rmdir(name, dir_fd=parent)
            except OSError:
                return  # It is not empty.
            folder = above

    @contextlib.contextmanager
    def _folder(self, path: str, *, make: bool = False, unlock: bool = False) -> Generator[int]:
        """A folder, opened name by name. Raises OSError, also where a name is a link."""
        descriptor = open_folder(self.root, within=None, unlock=unlock)
        try:
            for name in path.split("/") if path else ():
                try:
                    inner = open_folder(name, within=descriptor, unlock=unlock)
                except OSError:
                    if not make:
                        raise
                    inner = self._make_folder(descriptor, name)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_folder(self, parent: int, name: str) -> int:
        """A folder in the place of whatever else has its name."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
        descriptor = open_folder(name, within=parent)
        if self.uid is not None:
            os.fchown(descriptor, self.uid, self.uid)
        return descriptor

    def _clear(self, parent: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            # The manifest has a file here, so it has none below.
            folders.remove(Path(name), within=parent)


def _copy(file: BinaryIO, size: int, limit: int) -> Content:
    """What is in a file of about this size. Raises FileError for one of more than the limit."""
    too_large = FileError(f"it has more than {limit} bytes")
    if size > limit:
        raise too_large
    content = file.read(min(size, IN_MEMORY_BYTES) + 1)
    if len(content) <= min(size, IN_MEMORY_BYTES):
        return content
    copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 # It is the caller's.
    try:
        while content:
            copy.write(content)
            # It may grow at this moment.
            if copy.tell() > limit:
                raise too_large
            content = file.read(_PIECE_BYTES)
    except BaseException:
        copy.close()
        raise
    return copy


def _scan_folder(at: Descent, path: str, found: Scan) -> None:
    prefix = f"{path}/" if path else ""
    try:
        with os.scandir(at.descriptor) as entries:
            for entry in entries:
                try:
                    stamp = Stamp.of(entry.stat(follow_symlinks=False))
                except OSError as error:
                    found.hide(prefix + entry.name, error)
                    continue
                if stat.S_ISREG(stamp.mode):
                    found.files[prefix + entry.name] = stamp
                elif stat.S_ISDIR(stamp.mode):
                    at.wait([entry.name])
                else:
                    is_link = stat.S_ISLNK(stamp.mode)
                    why = "links are not kept" if is_link else "only files are kept"
                    found.leave_out(prefix + entry.name, why)
    except OSError as error:
        found.hide(path, error)


def why_no_path(path: str) -> str | None:
    """Why a file of this name cannot be kept; None if it can."""
    try:
        return None if normalize(path) == path else "its name cannot be kept"
    except FileError as error:
        return str(error)
