"""Control groups: the kernel's own limits for everything in one sandbox together.

Version 2 where this process may make groups with the controllers that are needed, else version 1.
Where neither is writable there are none, and the sandbox does with what is left; `doctor` says so.
"""

import contextlib
import errno
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from handinger.sandbox.limits import Limits

logger = logging.getLogger(__name__)

CONTROLLERS = ("memory", "pids", "cpu")

_PERIOD_US = 100_000
# Of 1 to 10,000; whoever has set nothing has 100. And the same in the words of version 1.
_CPU_WEIGHT, _CPU_SHARES = 10, 102
_EMPTY_WITHIN_S = 2.0
_MOVES = 20


class Group(Protocol):
    """The control group of one sandbox."""

    def add(self, pid: int) -> None:
        """Put a process in; what it starts from then on is in it, too."""
        ...

    def out_of_memory_kills(self) -> int:
        """How many processes the kernel has ended for want of memory."""
        ...

    def remove(self) -> None:
        """Give it back; everything in it has been killed. Blocks for moments."""
        ...


class Hierarchy(Protocol):
    """Where this process makes control groups."""

    @property
    def description(self) -> str: ...

    @property
    def controllers(self) -> tuple[str, ...]: ...

    def create(self, name: str, limits: Limits) -> Group:
        """A group with these limits. Raises OSError."""
        ...

    def remove(self, prefix: str) -> None:
        """Give back the groups whose names begin so; their processes are dead."""
        ...


def counts_memory(hierarchy: Hierarchy | None) -> bool:
    """Whether the kernel counts the memory of each group, whatever it is used for."""
    return hierarchy is not None and "memory" in hierarchy.controllers


def find(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self")) -> Hierarchy | None:
    """What this host offers to this process; None if nothing."""
    memberships = _memberships(proc)
    if (root / "cgroup.controllers").exists():
        return _find_v2(root, memberships.get("", "/"))
    return _find_v1(root, memberships)


def _memberships(proc: Path) -> dict[str, str]:
    """By controller, `""` for version 2: the path of the group that this process is in."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


@dataclass(frozen=True, slots=True)
class V2:
    """One hierarchy for all controllers."""

    parent: Path
    controllers: tuple[str, ...]

    @property
    def description(self) -> str:
        return f"version 2, in {self.parent}"

    def create(self, name: str, limits: Limits) -> Group:
        folder = self.parent / name
        folder.mkdir()
        group = _GroupV2(folder)
        try:
            _write(folder / "pids.max", limits.processes + 1)
            _write(folder / "memory.max", limits.memory_bytes)
            with contextlib.suppress(FileNotFoundError):  # There is none where nothing swaps.
                _write(folder / "memory.swap.max", 0)
            if "cpu" in self.controllers:
                _write(folder / "cpu.max", f"{int(limits.cpus * _PERIOD_US)} {_PERIOD_US}")
                _write(folder / "cpu.weight", _CPU_WEIGHT)
        except OSError:
            group.remove()
            raise
        return group

    def remove(self, prefix: str) -> None:
        _remove_beginning(self.parent, prefix)


@dataclass(frozen=True, slots=True)
class _GroupV2:
    folder: Path

    def add(self, pid: int) -> None:
        _write(self.folder / "cgroup.procs", pid)

    def out_of_memory_kills(self) -> int:
        return _value(self.folder / "memory.events", "oom_kill")

    def remove(self) -> None:
        _remove_when_empty(self.folder)


def _find_v2(root: Path, membership: str) -> V2 | None:
    """In the own group if it was delegated to this process, or beside all others.

    The latter is for root; and in a container, whose own group is the root of all that it sees.
    """
    own = root / membership.lstrip("/")
    for place in dict.fromkeys((own, root)):
        with contextlib.suppress(OSError):
            controllers = _delegate(place, is_whole=place == root)
            if controllers is not None:
                return V2(place / _NAME, controllers)
    return None


_NAME = "handinger"


def _delegate(place: Path, *, is_whole: bool) -> tuple[str, ...] | None:
    """Make a group of ours in this place, whose children have the controllers. Raises OSError.

    `is_whole`: what is in this place is all that can be seen from here.
    """
    wanted = [name for name in CONTROLLERS if name in _words(place / "cgroup.controllers")]
    if not {"memory", "pids"} <= set(wanted):
        return None
    ours = place / _NAME
    ours.mkdir(exist_ok=True)
    try:
        try:
            _enable(place, wanted)
        except OSError as error:
            # A group with processes in it hands out no controllers.
            if error.errno != errno.EBUSY or not (is_whole or _is_ours(place)):
                raise
            _move_processes(place, place / f"{_NAME}-server")
            _enable(place, wanted)
        _enable(ours, wanted)
    except OSError:
        with contextlib.suppress(OSError):
            ours.rmdir()
        raise
    return tuple(wanted)


def _is_ours(group: Path) -> bool:
    """Whether the processes in a group are this one's to move.

    They are if there is no other, or if systemd has delegated the group (`Delegate=yes`).
    """
    if _words(group / "cgroup.procs") == [str(os.getpid())]:
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _move_processes(group: Path, inner: Path) -> None:
    """Into a group within, until none is left: some may start others meanwhile."""
    inner.mkdir(exist_ok=True)
    for _ in range(_MOVES):
        processes = [pid for pid in _words(group / "cgroup.procs") if pid != "0"]
        if not processes:
            return
        for pid in processes:
            try:
                _write(inner / "cgroup.procs", pid)
            except ProcessLookupError:
                continue  # It has ended.


def _enable(group: Path, controllers: list[str]) -> None:
    missing = set(controllers) - set(_words(group / "cgroup.subtree_control"))
    if missing:
        _write(group / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))


@dataclass(frozen=True, slots=True)
class V1:
    """A hierarchy for each controller."""

    parents: dict[str, Path]

    @property
    def description(self) -> str:
        return "version 1"

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(self.parents)

    def create(self, name: str, limits: Limits) -> Group:
        group = _GroupV1({})
        try:
            for controller, parent in self.parents.items():
                folder = group.folders[controller] = parent / name
                folder.mkdir()
                for file, value in _settings_v1(controller, limits):
                    _write(folder / file, value)
        except OSError:
            group.remove()
            raise
        return group

    def remove(self, prefix: str) -> None:
        for parent in self.parents.values():
            _remove_beginning(parent, prefix)


def _settings_v1(controller: str, limits: Limits) -> list[tuple[str, int]]:
    match controller:
        case "memory":
            return [("memory.limit_in_bytes", limits.memory_bytes)]
        case "pids":
            return [("pids.max", limits.processes + 1)]
        case _:
            return [
                ("cpu.cfs_period_us", _PERIOD_US),
                ("cpu.cfs_quota_us", int(limits.cpus * _PERIOD_US)),
                ("cpu.shares", _CPU_SHARES),
            ]


@dataclass(frozen=True, slots=True)
class _GroupV1:
    folders: dict[str, Path] = field(default_factory=dict[str, Path])

    def add(self, pid: int) -> None:
        for folder in self.folders.values():
            _write(folder / "cgroup.procs", pid)

    def out_of_memory_kills(self) -> int:
        folder = self.folders.get("memory")
        return 0 if folder is None else _value(folder / "memory.oom_control", "oom_kill")

    def remove(self) -> None:
        for folder in self.folders.values():
            _remove_when_empty(folder)


def _find_v1(root: Path, memberships: dict[str, str]) -> V1 | None:
    parents: dict[str, Path] = {}
    for controller in CONTROLLERS:
        for membership in (memberships.get(controller, "/"), "/"):
            place = root / controller / membership.lstrip("/")
            with contextlib.suppress(OSError):
                (place / _NAME).mkdir(exist_ok=True)
                if os.access(place / _NAME, os.W_OK):
                    parents[controller] = place / _NAME
                    break
    return V1(parents) if parents else None


def _words(file: Path) -> list[str]:
    return file.read_text().split()


def _value(file: Path, name: str) -> int:
    """A line `name value` of a file; 0 if there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            word, _, value = line.partition(" ")
            if word == name:
                return int(value)
    return 0


def _write(file: Path, value: int | str) -> None:
    # Opened without O_CREAT: what the kernel does not offer must fail, not be made.
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def _remove_beginning(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}-*/"):
        _remove_when_empty(folder)


def _remove_when_empty(folder: Path) -> None:
    end = time.monotonic() + _EMPTY_WITHIN_S
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # The dead take a moment to be taken out.
            if error.errno != errno.EBUSY or time.monotonic() > end:
                logger.warning("The control group %s could not be removed: %s", folder, error)
                return
            time.sleep(0.01)
        else:
            return
