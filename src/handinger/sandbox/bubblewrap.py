"""The view of the host that a sandbox gets, as arguments for bubblewrap.

Visible is what programs need to run, read-only: `/usr` and a few files of `/etc`. Whatever is not
listed here does not exist in a sandbox: no home, no `/var`, no `/run`, no `/sys`, no socket.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Where commands begin; the worker's files.
WORKING_DIR = "/workspace"
_TEMPORARY = "/tmp"  # noqa: S108 # A sandbox has its own.
_SHARED_MEMORY = "/dev/shm"  # noqa: S108
# The ids that programs see. What they are outside says `Host.uid`.
_UID = 1000

_LIBRARIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    "alternatives",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "ssl/certs",
    "ssl/openssl.cnf",
)
# What the host's own files say about its users and networks is nobody's business in there.
_ETC_OF_OURS = {
    "passwd": f"worker:x:{_UID}:{_UID}:worker:/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "group": f"worker:x:{_UID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_SHM_BYTES = 64 * 1024 * 1024
# A shared mapping of /dev/zero is memory that nobody could count. The other one reads the same, and
# cannot be mapped.
_ZERO_WITHOUT_MEMORY = ("--dev-bind", "/dev/full", "/dev/zero")


@dataclass(frozen=True, slots=True)
class View:
    """What of the host is visible in a sandbox."""

    etc: Path  # the folder with what is made up
    extra: tuple[Path, ...]  # further folders with programs and libraries, read-only
    hidden: tuple[Path, ...]  # folders that stay hidden, wherever they are

    def write_etc(self) -> None:
        """Make the files that replace the host's own."""
        self.etc.mkdir(mode=0o755, exist_ok=True)
        for name, content in _ETC_OF_OURS.items():
            (self.etc / name).write_text(content)
            (self.etc / name).chmod(0o644)

    def environment(self) -> dict[str, str]:
        """All that commands find in their environment."""
        first = [str(path / "bin") for path in self.extra if (path / "bin").is_dir()]
        return {
            "PATH": ":".join([*first, _PATH]),
            "HOME": _TEMPORARY,
            "TMPDIR": _TEMPORARY,
            "USER": "worker",
            "LOGNAME": "worker",
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "TZ": "UTC",
            # Neither belongs into a worker's files.
            "PYTHONPYCACHEPREFIX": f"{_TEMPORARY}/.pycache",
            "MPLBACKEND": "Agg",
        }

    def arguments(self, workspace: Path, temporary: Path, *, counted: bool) -> list[str]:
        """Bubblewrap's, up to the command. `counted`: the kernel counts the sandbox's memory."""
        return [
            *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"),
            *("--unshare-uts", "--unshare-cgroup-try"),
            *("--uid", str(_UID), "--gid", str(_UID), "--hostname", "sandbox"),
            *("--new-session", "--die-with-parent", "--as-pid-1", "--clearenv"),
            *self._system(),
            *("--proc", "/proc", "--dev", "/dev"),
            *(() if counted else _ZERO_WITHOUT_MEMORY),
            *("--size", str(_SHM_BYTES), "--tmpfs", _SHARED_MEMORY),
            *("--bind", str(temporary), _TEMPORARY, "--dir", "/run", "--dir", "/var"),
            *("--symlink", _TEMPORARY, f"/var{_TEMPORARY}"),
            *self._extra(),
            *("--bind", str(workspace), WORKING_DIR, "--chdir", WORKING_DIR),
            # Bubblewrap makes these two in memory, and would leave them writable.
            *("--remount-ro", "/dev", "--remount-ro", "/"),
        ]

    def _system(self) -> Iterator[str]:
        yield from ("--ro-bind", "/usr", "/usr")
        for name in _LIBRARIES:
            path = Path("/", name)
            if path.is_symlink():
                yield from ("--symlink", os.readlink(path), str(path))
            elif path.is_dir():
                yield from ("--ro-bind", str(path), str(path))
        for name in _ETC:
            if Path("/etc", name).exists():
                yield from ("--ro-bind", f"/etc/{name}", f"/etc/{name}")
        for name in _ETC_OF_OURS:
            yield from ("--ro-bind", str(self.etc / name), f"/etc/{name}")

    def _extra(self) -> Iterator[str]:
        for path in self.extra:
            yield from ("--ro-bind", str(path), str(path))
        for path in self.hidden:
            if is_within(path, [Path("/usr"), *self.extra]):
                yield from ("--tmpfs", str(path), "--remount-ro", str(path))


def is_within(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a resolved path is one of these folders, or inside of one."""
    return any(path.is_relative_to(folder) for folder in folders)
