"""Finds out by trying what sandboxes can and cannot do on this host, and why."""

import asyncio
import contextlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from handinger.sandbox import cgroups, inside, seccomp
from handinger.sandbox.bubblewrap import View, is_within
from handinger.sandbox.folders import Folders
from handinger.sandbox.limits import Limits
from handinger.sandbox.process import Host, SandboxError
from handinger.sandbox.sandbox import Sandbox, Sandboxes
from handinger.settings import Settings

logger = logging.getLogger(__name__)

_SYSTEM_BASE = Path("/var/lib/handinger-sandboxes")
# Ids that nothing hands out: beyond those of users, services and containers.
_FIRST_UID, _UIDS = 2_050_000_000, 16_000_000
# Where ids are few, as in containers of ordinary users.
_FIRST_SMALL_UID, _SMALL_UIDS = 60_000, 4_000
_LIBRARIES = ("numpy", "pandas", "scipy", "matplotlib", "openpyxl", "PIL", "lxml", "requests")
_PROGRAMS = ("bash", "git", "curl", "jq", "node", "pdftotext", "convert", "R", "gcc")

_USER_NAMESPACES = (
    "This user may not make user namespaces. On Debian and Ubuntu: "
    "`sudo sysctl kernel.unprivileged_userns_clone=1` and, where AppArmor restricts them (Ubuntu "
    "from 23.10 on), `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` or a profile for "
    "bwrap. In a container, run it with `--security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined --security-opt systempaths=unconfined`."
)
_PROC = (
    "A new /proc may not be mounted here, as in most containers. Run the container with "
    "`--security-opt systempaths=unconfined`."
)
_INSTALL = (
    "Install bubblewrap: `apt install bubblewrap`, `dnf install bubblewrap`, "
    "`apk add bubblewrap` or `pacman -S bubblewrap`."
)

State = Literal["yes", "partly", "no"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that sandboxes can, can partly, or cannot do here."""

    name: str
    state: State
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found; with a host, sandboxes work."""

    host: Host | None
    findings: tuple[Finding, ...]

    @property
    def trouble(self) -> str:
        """Why there are no sandboxes, in one sentence or two."""
        lacking = [finding for finding in self.findings if finding.state == "no"]
        return " ".join(f"{finding.detail} {finding.advice}".strip() for finding in lacking[:1])


def base_folder(settings: Settings) -> Path:
    """Where sandboxes keep their files.

    A data directory of root's is closed to the user that sandboxes run as, so they have another.
    """
    if settings.sandbox_dir is not None:
        return settings.sandbox_dir.resolve()
    if os.geteuid() == 0:
        return _SYSTEM_BASE
    return settings.data_dir.resolve() / "sandboxes"


async def survey(settings: Settings, folders: Folders, *, thorough: bool = False) -> Survey:
    """Try to run a command in a sandbox, in the best way that works here.

    `thorough`: with a finding for everything that a person may want to know.
    """
    if settings.sandbox == "off":
        return _none("sandbox", "HANDINGER_SANDBOX is off.", "")
    if sys.platform != "linux":
        return _none("sandbox", f"There are no sandboxes on {platform.system()}.", "Use Linux.")
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return _none("bubblewrap", "Bubblewrap is not installed.", _INSTALL)
    view = View(
        etc=folders.root / "etc",
        extra=tuple(path.resolve() for path in settings.sandbox_paths or ()),
        hidden=(settings.data_dir.resolve(), folders.root.parent),
    )
    view.write_etc()
    if not _may_be_passed(folders.root.parent):
        return _none(
            "folder",
            f"The user that commands run as may not pass through {folders.root.parent}.",
            "Name another folder in HANDINGER_SANDBOX_DIR, or `chmod o+x` those above it.",
        )
    limits = Limits.of(settings)
    failures: list[str] = []
    for host in _candidates(Path(bwrap), view):
        try:
            return await _examine(host, limits, folders, thorough=thorough)
        except SandboxError as error:
            failures.append(str(error))
    return _none("sandbox", failures[0] if failures else _NO_PYTHON, _advice(" ".join(failures)))


_NO_PYTHON = (
    "There is no Python for the sandbox: neither under /usr, nor the server's own where a sandbox "
    "may see it. Install python3."
)


def _none(name: str, detail: str, advice: str) -> Survey:
    return Survey(None, (Finding(name, "no", detail, advice),))


def _advice(said: str) -> str:
    if re.search(r"mount proc", said, re.IGNORECASE):
        return _PROC
    if re.search(r"namespace|uid map|Operation not permitted|Permission denied", said):
        return _USER_NAMESPACES
    return ""


def _candidates(bwrap: Path, view: View) -> list[Host]:
    """Ways to make sandboxes, the safest first."""
    hierarchy = cgroups.find()
    program = seccomp.program(counted=cgroups.counts_memory(hierarchy))
    shell = "bash" if Path("/usr/bin/bash").exists() or Path("/bin/bash").exists() else "sh"
    # Never as root: to the kernel root owns its settings in /proc, in every namespace.
    uid = _other_uid() if os.geteuid() == 0 else None
    return [
        Host(bwrap, python, shell, seen, uid, program, hierarchy) for python, seen in _pythons(view)
    ]


def _pythons(view: View) -> list[tuple[Path, View]]:
    """The host's own Python, which every sandbox sees; else the server's, which has to be shown."""
    places = [Path("/usr/bin/python3"), Path("/usr/local/bin/python3")]
    places += sorted(Path("/usr/bin").glob("python3.[0-9]*[0-9]"), reverse=True)
    found = [(place, view) for place in places if is_within(place.resolve(), [Path("/usr")])]
    found = [(place, seen) for place, seen in found if os.access(place, os.X_OK)]
    prefix = Path(sys.base_prefix).resolve()
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    is_seen = is_within(prefix, [Path("/usr")])
    if not is_seen and own.is_relative_to(prefix) and _may_be_passed(prefix):
        shown = tuple(folder for folder in (prefix / "bin", prefix / "lib") if folder.is_dir())
        found.append((own, View(view.etc, (*view.extra, *shown), view.hidden)))
    return found


def _may_be_passed(folder: Path) -> bool:
    """Whether the user that sandboxes run as gets through to it."""
    if os.geteuid() != 0:
        return True
    return all(above.stat().st_mode & stat.S_IXOTH for above in (folder, *folder.parents))


def _other_uid() -> int:
    """Somebody whom nothing on this host belongs to."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = (int(word) for word in line.split())
        for begin, how_many in ((_FIRST_UID, _UIDS), (_FIRST_SMALL_UID, _SMALL_UIDS)):
            if first <= begin and begin + how_many <= first + count:
                return begin + secrets.randbelow(how_many)
    return 65534


async def _examine(host: Host, limits: Limits, folders: Folders, *, thorough: bool) -> Survey:
    """Run a command in a sandbox made so. Raises SandboxError."""
    # What is full now may be so no longer when a worker has a command.
    whatever_is_free = replace(limits, disk_reserve_bytes=0, memory_reserve_bytes=0)
    sandbox = Sandbox(f"survey-{secrets.token_hex(4)}", folders, host, whatever_is_free)
    try:
        look = [str(host.python), "-c", _LOOK]
        done = await sandbox.execute(look if thorough else ["true"], timeout_s=30)
    finally:
        await sandbox.close()
    if done.exit_code != 0:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise SandboxError(f"A command failed in the sandbox: {said}")
    if not thorough:
        return Survey(host, ())
    seen = cast("dict[str, Any]", json.loads(done.stdout))
    disk = os.statvfs(folders.root)
    free_bytes = disk.f_bavail * disk.f_frsize
    return Survey(host, tuple(_findings(host, limits, seen, free_bytes)))


# What commands find, told by one that looks.
_LOOK = f"""
import importlib.util, json, platform, shutil
print(json.dumps({{
    "python": platform.python_version(),
    "libraries": [name for name in {_LIBRARIES!r} if importlib.util.find_spec(name)],
    "programs": [name for name in {_PROGRAMS!r} if shutil.which(name)],
}}))
"""


def _findings(
    host: Host, limits: Limits, seen: Mapping[str, Any], free_bytes: int
) -> Iterator[Finding]:
    mib = 1024 * 1024
    yield Finding("commands", "yes", f"They run under {host.bwrap}, and end with their turn.")
    yield _about_user(host)
    yield Finding("files", "yes", "Only the workspace and /tmp are writable; /usr is read-only.")
    yield Finding("network", "yes", "There is none, but for the sandbox's own loopback.")
    if host.filter is not None:
        yield Finding("system calls", "yes", "Those that no command needs are refused.")
    else:
        machine = platform.machine()
        yield Finding(
            "system calls",
            "partly",
            f"They are not filtered on {machine}; namespaces alone separate commands.",
            "Use x86-64 or arm64.",
        )
    controllers = () if host.hierarchy is None else host.hierarchy.controllers
    memory, processes = f"{limits.memory_bytes // mib} MiB", f"{limits.processes}"
    available_bytes = inside.available_bytes()
    if host.counts_memory or available_bytes >= limits.memory_reserve_bytes:
        yield _about_limit("memory", host.counts_memory, f"{memory} a sandbox", held=_EACH)
    else:
        yield _about_reserve(limits, available_bytes)
    yield _about_limit("processes", "pids" in controllers, f"{processes} a sandbox", held=_USER)
    if "cpu" in controllers:
        yield Finding("processors", "yes", f"At most {limits.cpus:g} a sandbox, behind the server.")
    else:
        yield Finding(
            "processors",
            "partly",
            f"Commands run behind the server (nice {limits.nice}), for at most {limits.cpu_s} s of "
            "processor time a process; how many they use at a time is not limited.",
            _CGROUPS,
        )
    yield _about_disk(limits, free_bytes)
    libraries = ", ".join(seen["libraries"])
    yield Finding(
        "python",
        "yes" if libraries else "partly",
        f"Python {seen['python']}, with " + (libraries or "none of the usual data libraries") + ".",
        "" if libraries else _DATA_LIBRARIES,
    )
    yield Finding("programs", "yes", ", ".join(seen["programs"]) + ", and what else is in /usr.")


_CGROUPS = (
    "Run the server under systemd with `Delegate=yes`, or as root, so that it may make control "
    "groups; in a container, with /sys/fs/cgroup writable (`--privileged`, `--cgroupns=private`)."
)
_EACH = "the kernel holds each process to it"
_USER = "the kernel holds the sandbox's user to it, in most versions"
_DATA_LIBRARIES = (
    "Install them for the system (`apt install python3-pandas python3-matplotlib`), or name a "
    "virtual environment that has them in HANDINGER_SANDBOX_PATHS."
)


def _about_user(host: Host) -> Finding:
    if host.uid is not None:
        return Finding(
            "user", "yes", f"Commands run as the user {host.uid}, who owns nothing else."
        )
    return Finding("user", "yes", f"They run as the server's own user {os.geteuid()}.")


def _about_limit(name: str, by_kernel: bool, limit: str, *, held: str) -> Finding:
    if by_kernel:
        return Finding(name, "yes", f"At most {limit}, held by the kernel.")
    return Finding(
        name,
        "partly",
        f"At most {limit}. It is looked at five times a second, so it can be passed for a moment; "
        f"{held}.",
        _CGROUPS,
    )


def _about_reserve(limits: Limits, available_bytes: int) -> Finding:
    mib = 1024 * 1024
    return Finding(
        "memory",
        "no",
        f"Only {available_bytes // mib} MiB of the host's memory are available, so commands are "
        "stopped as they start.",
        f"Make {limits.memory_reserve_bytes // mib} MiB available, or set "
        f"HANDINGER_SANDBOX_MEMORY_RESERVE_BYTES; with control groups none is needed. {_CGROUPS}",
    )


def _about_disk(limits: Limits, free_bytes: int) -> Finding:
    mib = 1024 * 1024
    if free_bytes < limits.disk_reserve_bytes:
        return Finding(
            "disk",
            "no",
            f"Only {free_bytes // mib} MiB are free where sandboxes keep their files, so commands "
            "are stopped as they start.",
            f"Make {limits.disk_reserve_bytes // mib} MiB free, or set "
            "HANDINGER_SANDBOX_DISK_RESERVE_BYTES.",
        )
    return Finding(
        "disk",
        "yes",
        f"At most {limits.file_bytes // mib} MiB a file, and {limits.disk_bytes // mib} MiB and "
        f"{limits.disk_entries} files a sandbox, which is looked at every moment.",
    )


@contextlib.asynccontextmanager
async def open_sandboxes(settings: Settings) -> AsyncGenerator[Sandboxes | None]:
    """The sandboxes of this process; None, with a line in the log, where there can be none."""
    async with _folders(settings) as folders:
        gone = (
            await asyncio.to_thread(folders.remove_leftovers)
            if isinstance(folders, Folders)
            else []
        )
        found = await _survey(settings, folders, thorough=False)
        if found.host is None or not isinstance(folders, Folders):
            logger.warning(
                "Workers cannot run commands here, so run_command is not offered: %s "
                "`handinger doctor` says more.",
                found.trouble,
            )
            yield None
            return
        if gone:
            logger.info("Removed what %d dead processes left of their sandboxes", len(gone))
        if found.host.hierarchy is not None:
            for name in gone:
                found.host.hierarchy.remove(name)
        sandboxes = Sandboxes(folders, found.host, Limits.of(settings))
        sandboxes.prepare_spare()
        try:
            yield sandboxes
        finally:
            await sandboxes.close_all()


async def examine(settings: Settings) -> Survey:
    """What sandboxes can do here, for a person who asks."""
    async with _folders(settings) as folders:
        return await _survey(settings, folders, thorough=True)


async def _survey(settings: Settings, folders: Folders | OSError, *, thorough: bool) -> Survey:
    if isinstance(folders, Folders):
        return await survey(settings, folders, thorough=thorough)
    return _none(
        "folder",
        f"The folder for sandboxes {base_folder(settings)} cannot be made: {folders.strerror}.",
        "Name another in HANDINGER_SANDBOX_DIR.",
    )


@contextlib.asynccontextmanager
async def _folders(settings: Settings) -> AsyncGenerator[Folders | OSError]:
    """This process's folder; or why there is none, which must not keep the server from starting."""
    try:
        folders = await asyncio.to_thread(Folders.make, base_folder(settings))
    except OSError as error:
        yield error
        return
    try:
        yield folders
    finally:
        await asyncio.to_thread(folders.close)
