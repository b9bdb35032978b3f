"""The locks of a data directory: who serves from it, and who starts or stops its PostgreSQL.

All are `flock`s, which the kernel gives back when a process dies. Python opens every descriptor
close-on-exec, so no child inherits one by accident.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Self

from handinger.storage.embedded.errors import DataDirectoryInUse, LockTimeout, explained


class ServeLock:
    """At most one `handinger serve` per data directory."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, data_dir: Path) -> Self:
        """Hold the data directory until released or dead; raises DataDirectoryInUse."""
        with explained(data_dir):
            data_dir = made(data_dir)
            descriptor = open_private(data_dir / "serve.lock")
            if not lock_alone(descriptor):
                holder = os.pread(descriptor, 32, 0).decode("utf-8", "replace").strip()
                os.close(descriptor)
                raise DataDirectoryInUse(
                    f"The data directory {data_dir} is in use by another server (process"
                    f" {holder or 'unknown'}): give this one another directory with"
                    " HANDINGER_DATA_DIR, or run several servers on one PostgreSQL with"
                    " HANDINGER_DATABASE_URL=postgresql://..."
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let the next server in. Calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


@contextlib.contextmanager
def transition(data_dir: Path, *, timeout_s: float) -> Generator[int]:
    """Be the only one who starts or stops PostgreSQL here."""
    path = data_dir / "postgres.transition.lock"
    descriptor = open_private(path)
    try:
        deadline = time.monotonic() + timeout_s
        while not lock_alone(descriptor):
            if time.monotonic() > deadline:
                raise LockTimeout(
                    f"Another process has been starting or stopping the PostgreSQL of {data_dir}"
                    f" for {timeout_s:.0f} seconds; `fuser {path}` names it."
                )
            time.sleep(0.01)
        yield descriptor
    finally:
        os.close(descriptor)


def lock_alone(descriptor: int) -> bool:
    """Whether nobody else has a lock on it; a shared one of the caller's may be lost by asking."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def made(data_dir: Path) -> Path:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return data_dir.resolve(strict=True)


def open_private(path: Path, flags: int = os.O_RDWR) -> int:
    """Open a file of ours, made if it is missing, never through a link that somebody planted."""
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags | os.O_NOFOLLOW)
    if os.geteuid() == 0:
        # Root may visit a user's data directory; the user must be able to come back to it.
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
    return descriptor
