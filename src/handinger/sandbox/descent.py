"""A walk through folders that a hostile program may have made, and changes meanwhile.

Each folder is opened within the one above it, so no path is too long, no folder is looked up twice,
and no link is followed. However deep it goes, few descriptors are open.
"""

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# So many folders above are kept open. Deeper than that, and only there, the way back is `..`.
_KEPT_OPEN = 32


@dataclass(slots=True)
class _Level:
    descriptor: int | None  # None: closed meanwhile
    identity: tuple[int, int]
    waiting: list[str] = field(default_factory=list[str])  # folders in it that are still to be seen


class Descent:
    """Where a walk is: in a folder, with the way back to the one where it began.

    Begin with `Descent(root)`, call `wait` with the folders that were found in the one where it is,
    and `go_on` until that says that nothing is left.
    """

    def __init__(self, root: Path, *, unlock: bool = False) -> None:
        """Raises OSError. `unlock`: see `open_folder`."""
        self._unlocks = unlock
        self._levels: list[_Level] = []
        self._push(open_folder(root, within=None, unlock=unlock))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for level in self._levels:
            self._close(level)

    @property
    def descriptor(self) -> int:
        """Of the folder where it is."""
        descriptor = self._levels[-1].descriptor
        assert descriptor is not None
        return descriptor

    @property
    def depth(self) -> int:
        """How many folders below the root it is."""
        return len(self._levels) - 1

    def wait(self, names: Iterable[str]) -> None:
        """Folders of the one where it is, which are to be gone through later."""
        self._levels[-1].waiting.extend(names)

    def next(self) -> str | None:
        """Go up to the nearest folder in which one waits, and say which; None if none does.

        Raises OSError if a folder was moved to where the way up is another.
        """
        while not self._levels[-1].waiting:
            if len(self._levels) == 1:
                return None
            self._ascend()
        return self._levels[-1].waiting.pop()

    def enter(self, name: str) -> None:
        """Go into a folder of the one where it is. Raises OSError, also where a name is a link."""
        self._push(open_folder(name, within=self.descriptor, unlock=self._unlocks))

    def _push(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self._levels.append(_Level(descriptor, (found.st_dev, found.st_ino)))
        if len(self._levels) > _KEPT_OPEN + 1:
            # The root stays open: what is above it is none of ours.
            self._close(self._levels[-_KEPT_OPEN])

    def _ascend(self) -> None:
        below = self._levels.pop()
        above = self._levels[-1]
        try:
            if above.descriptor is None:
                assert below.descriptor is not None
                above.descriptor = os.open("..", _FOLDER, dir_fd=below.descriptor)
                found = os.fstat(above.descriptor)
                if (found.st_dev, found.st_ino) != above.identity:
                    raise OSError("A folder was moved away while it was gone through.")
        finally:
            self._close(below)

    def _close(self, level: _Level) -> None:
        if level.descriptor is not None:
            os.close(level.descriptor)
            level.descriptor = None


def open_folder(name: str | Path, *, within: int | None, unlock: bool = False) -> int:
    """A descriptor of a folder. Raises OSError, also where the name is a link.

    `unlock`: one of our own that we may not look into is first made so that we may.
    """
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=within)
    except PermissionError:
        if not unlock:
            raise
        _unlock(name, within)
        return os.open(name, _FOLDER, dir_fd=within)
    try:
        if unlock and _is_locked(os.fstat(descriptor)):
            _unlock(name, within)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unlock_tree(folder: Path) -> None:
    """Make all folders in it, and itself, such that we may look into and change them."""
    with Descent(folder, unlock=True) as at:
        at.wait(_folders_in(at.descriptor))
        while (name := at.next()) is not None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                at.enter(name)
                at.wait(_folders_in(at.descriptor))


def _folders_in(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _is_locked(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and found.st_mode & stat.S_IRWXU != stat.S_IRWXU


def _unlock(name: str | Path, within: int | None) -> None:
    place = os.open(name, _PLACE, dir_fd=within)
    try:
        # By its descriptor: its name may have become a link to something else.
        mode = stat.S_IMODE(os.fstat(place).st_mode)
        os.chmod(f"/proc/self/fd/{place}", mode | stat.S_IRWXU)
    finally:
        os.close(place)
