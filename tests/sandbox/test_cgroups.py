"""Control groups of version 2 and 1, on a file system that behaves as the kernel's does."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from handinger.sandbox import cgroups
from handinger.sandbox.limits import Limits
from handinger.settings import load

FILES = {
    "memory": {"memory.max": "max", "memory.swap.max": "max", "memory.events": "oom_kill 0\n"},
    "pids": {"pids.max": "max"},
    "cpu": {"cpu.max": "max 100000", "cpu.weight": "100"},
}
OWN = str(os.getpid())


class KernelPath(type(Path())):
    """A path in the hierarchy: to make a folder makes a group, with its files."""

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if self.exists() and exist_ok:
            return
        kernel = Kernel.current
        if str(self.parent) in kernel.closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        super().mkdir(mode, parents, exist_ok)
        kernel.fill(self)

    def rmdir(self) -> None:
        if (self / "cgroup.procs").read_text().split():
            raise OSError(errno.EBUSY, "Device or resource busy")
        for file in [file for file in self.iterdir() if file.is_file()]:
            file.unlink()
        super().rmdir()


class Kernel:
    """What of the kernel control groups consist of."""

    current: "Kernel"

    def __init__(self, root: Path, *controllers: str, is_host: bool = False) -> None:
        Kernel.current = self
        self.root = KernelPath(root)
        self.controllers = controllers
        self.is_host = is_host  # then its root is the only group that may have both
        self.closed: set[str] = set()  # groups that this process may not change
        self.lacking: set[str] = set()  # files that are not there
        self.refused: set[str] = set()  # files that take no value
        self.fill(self.root)

    def group(self, path: str, *processes: str) -> Path:
        """A group that was there before."""
        place = self.root
        for name in path.split("/"):
            self.enable(place, set(self.controllers))
            place /= name
            place.mkdir(exist_ok=True)
        (place / "cgroup.procs").write_text("\n".join(processes))
        return place

    def fill(self, group: Path) -> None:
        above = group.parent / "cgroup.subtree_control"
        given = self.controllers if group == self.root else above.read_text().split()
        files = {
            "cgroup.controllers": " ".join(given),
            "cgroup.subtree_control": "",
            "cgroup.procs": "",
        }
        for controller in given if group != self.root else ():
            files |= FILES[controller]
        for name, content in files.items():
            if name not in self.lacking and not (group / name).exists():
                (group / name).write_text(content)
        (group / "cgroup.controllers").write_text(" ".join(given))

    def enable(self, group: Path, names: set[str]) -> None:
        control = group / "cgroup.subtree_control"
        control.write_text(" ".join(sorted({*control.read_text().split(), *names})))
        for inner in group.iterdir():
            if inner.is_dir():
                self.fill(inner)

    def write(self, file: Path, value: int | str) -> None:
        """Stands for `cgroups._write`."""
        if str(file.parent) in self.closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        if not file.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        if file.name in self.refused:
            raise OSError(errno.EINVAL, "Invalid argument")
        if file.name == "cgroup.subtree_control":
            names = {word.removeprefix("+") for word in str(value).split()}
            if not names <= set((file.parent / "cgroup.controllers").read_text().split()):
                raise OSError(errno.ENOENT, "No such controller")
            is_exempt = self.is_host and file.parent == self.root
            if (file.parent / "cgroup.procs").read_text().split() and not is_exempt:
                raise OSError(errno.EBUSY, "Device or resource busy")
            self.enable(file.parent, names)
        elif file.name == "cgroup.procs":
            for others in self.root.rglob("cgroup.procs"):
                left = [pid for pid in others.read_text().split() if pid != str(value)]
                others.write_text("\n".join(left))
            file.write_text("\n".join([*file.read_text().split(), str(value)]))
        else:
            file.write_text(str(value))

    def find(self, membership: str) -> cgroups.Hierarchy | None:
        """What a process in this group finds."""
        proc = self.root.parent / "proc"
        proc.mkdir(exist_ok=True)
        (Path(proc) / "cgroup").write_text(f"0::{membership}\n")
        return cgroups.find(self.root, Path(proc))

    def groups(self) -> set[str]:
        found = (file.parent for file in self.root.rglob("cgroup.procs"))
        return {str(group.relative_to(self.root)) for group in found if group != self.root}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    def write(file: Path, value: int | str) -> None:
        Kernel.current.write(file, value)

    monkeypatch.setattr(cgroups, "_write", write)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "cgroup").mkdir()
        (Path(name) / "proc").mkdir()
        yield Path(name) / "cgroup"


@pytest.fixture
def kernel(folder: Path) -> Kernel:
    return Kernel(folder, "cpu", "memory", "pids", is_host=True)


@pytest.fixture
def limits() -> Limits:
    return Limits.of(load(sandbox_cpus=1.5, sandbox_processes=99, sandbox_memory_bytes=2**27))


SERVICE = "system.slice/handinger.service"


def test_a_delegated_group_is_used_and_the_server_moves_into_one_of_its_own(kernel: Kernel):
    place = kernel.group(SERVICE, OWN)
    kernel.closed.add(str(kernel.root))
    hierarchy = kernel.find(f"/{SERVICE}")
    assert hierarchy is not None
    assert hierarchy.controllers == ("memory", "pids", "cpu")
    assert hierarchy.description == f"version 2, in {place / 'handinger'}"
    assert (place / "handinger-server" / "cgroup.procs").read_text() == OWN
    # The next server finds it done.
    assert kernel.find(f"/{SERVICE}") is not None


def test_a_sandbox_has_a_group_with_its_limits(kernel: Kernel, limits: Limits):
    place = kernel.group(SERVICE, OWN)
    hierarchy = kernel.find(f"/{SERVICE}")
    assert hierarchy is not None
    group = hierarchy.create("one", limits)
    made = place / "handinger" / "one"
    assert {name: (made / name).read_text() for name in ("pids.max", "memory.max", "cpu.max")} == {
        "pids.max": "100",  # and the first process, which is ours
        "memory.max": str(2**27),
        "cpu.max": "150000 100000",
    }
    assert (made / "memory.swap.max").read_text() == "0"
    assert (made / "cpu.weight").read_text() == "10"
    group.add(4711)
    assert (made / "cgroup.procs").read_text() == "4711"
    (made / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.out_of_memory_kills() == 2
    kernel.write(kernel.root / "cgroup.procs", "4711")  # As if it had ended.
    group.remove()
    group.remove()
    assert not made.exists()


def test_what_dead_servers_left_is_removed_and_others_groups_are_not(
    kernel: Kernel, limits: Limits
):
    kernel.group(SERVICE, OWN)
    hierarchy = kernel.find(f"/{SERVICE}")
    assert hierarchy is not None
    for name in ("dead-a-1", "dead-b-2", "living-a-1"):
        hierarchy.create(name, limits)
    hierarchy.remove("dead")
    assert {name.rpartition("/")[2] for name in kernel.groups() if "-1" in name} == {"living-a-1"}
    assert f"{SERVICE}/handinger/dead-b-2" not in kernel.groups()


def test_root_makes_its_groups_beside_all_others(kernel: Kernel):
    """Its own group has others' processes in it, which it leaves where they are."""
    session = kernel.group("user.slice/session-1.scope", OWN, "4711")
    hierarchy = kernel.find("/user.slice/session-1.scope")
    assert hierarchy is not None
    assert hierarchy.description == f"version 2, in {kernel.root / 'handinger'}"
    assert (session / "cgroup.procs").read_text().split() == [OWN, "4711"]
    assert not (session / "handinger").exists()


def test_nothing_is_touched_without_delegation(kernel: Kernel):
    """An ordinary user in a login session, with a shell beside the server."""
    session = kernel.group("user.slice/session-1.scope", OWN, "4711")
    kernel.closed |= {str(kernel.root), str(session)}
    before = kernel.groups()
    assert kernel.find("/user.slice/session-1.scope") is None
    assert kernel.groups() == before
    # Also if the group is writable, as root's is, but holds what is not ours.
    kernel.closed.discard(str(session))
    assert kernel.find("/user.slice/session-1.scope") is None
    assert kernel.groups() == before
    assert (session / "cgroup.procs").read_text().split() == [OWN, "4711"]


def test_a_service_that_is_delegated_may_have_more_processes(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
):
    """The embedded PostgreSQL of the server, as it was left by a crash."""
    place = kernel.group(SERVICE, "4711", OWN, "4712")
    kernel.closed.add(str(kernel.root))
    marks = {(str(place), "user.delegate"): b"1"}

    def getxattr(path: object, name: str) -> bytes:
        try:
            return marks[str(path), name]
        except KeyError:
            raise OSError(errno.ENODATA, "No data available") from None

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert kernel.find(f"/{SERVICE}") is not None
    assert (place / "cgroup.procs").read_text().split() == []
    assert (place / "handinger-server" / "cgroup.procs").read_text().split() == [
        "4711",
        OWN,
        "4712",
    ]


def test_in_a_container_everything_may_be_moved(folder: Path):
    """Its own group is the root of what it sees, and not exempt from the rules."""
    kernel = Kernel(folder, "cpu", "memory", "pids")
    (kernel.root / "cgroup.procs").write_text(f"1\n{OWN}")
    assert kernel.find("/") is not None
    assert (kernel.root / "handinger-server" / "cgroup.procs").read_text().split() == ["1", OWN]


def test_in_a_container_without_write_access_there_are_none(folder: Path):
    kernel = Kernel(folder, "cpu", "memory", "pids")
    kernel.closed.add(str(kernel.root))
    assert kernel.find("/") is None
    assert kernel.groups() == set()


def test_without_the_processors_controller_the_others_are_used(folder: Path, limits: Limits):
    kernel = Kernel(folder, "memory", "pids", "hugetlb", is_host=True)
    hierarchy = kernel.find("/")
    assert hierarchy is not None
    assert hierarchy.controllers == ("memory", "pids")
    hierarchy.create("one", limits)
    assert not (kernel.root / "handinger" / "one" / "cpu.max").exists()


@pytest.mark.parametrize("controllers", [("cpu", "pids"), ("cpu", "memory"), ()])
def test_without_memory_or_pids_there_are_none(folder: Path, controllers: tuple[str, ...]):
    kernel = Kernel(folder, *controllers, is_host=True)
    assert kernel.find("/") is None
    assert kernel.groups() == set()


def test_a_host_that_swaps_nothing_has_no_file_for_it(kernel: Kernel, limits: Limits):
    kernel.lacking.add("memory.swap.max")
    hierarchy = kernel.find("/")
    assert hierarchy is not None
    hierarchy.create("one", limits)


def test_a_group_that_cannot_have_its_limits_is_not_left_behind(kernel: Kernel, limits: Limits):
    hierarchy = kernel.find("/")
    assert hierarchy is not None
    kernel.refused.add("memory.max")
    with pytest.raises(OSError, match="Invalid argument"):
        hierarchy.create("one", limits)
    assert "handinger/one" not in kernel.groups()


# Version 1


def version_1(root: Path, limits: Limits, *controllers: str) -> cgroups.Hierarchy | None:
    """Where these controllers may be used, of all."""
    for controller in controllers:
        (root / controller / "docker" / "x").mkdir(parents=True)
    proc = root.parent / "proc"
    lines = [f"{number}:{name}:/docker/x" for number, name in enumerate(cgroups.CONTROLLERS)]
    (proc / "cgroup").write_text("\n".join(lines))
    return cgroups.find(root, proc)


def test_version_1_has_a_group_in_each_hierarchy_that_there_is(
    folder: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch
):
    written: dict[str, str] = {}

    def write(file: Path, value: int | str) -> None:
        written[str(file.relative_to(folder))] = str(value)

    monkeypatch.setattr(cgroups, "_write", write)
    hierarchy = version_1(folder, limits, "memory", "pids")
    assert hierarchy is not None
    assert hierarchy.controllers == ("memory", "pids")
    group = hierarchy.create("one", limits)
    group.add(4711)
    assert written == {
        "memory/docker/x/handinger/one/memory.limit_in_bytes": str(2**27),
        "pids/docker/x/handinger/one/pids.max": "100",
        "memory/docker/x/handinger/one/cgroup.procs": "4711",
        "pids/docker/x/handinger/one/cgroup.procs": "4711",
    }
    group.remove()
    assert not (folder / "memory/docker/x/handinger/one").exists()


def test_without_any_hierarchy_there_are_none(folder: Path, limits: Limits):
    assert version_1(folder, limits) is None
