"""A process's share in the PostgreSQL of a data directory: joined, kept up, and left."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Self

from handinger.storage.embedded.cluster import START_TIMEOUT_S, Cluster, cluster_of
from handinger.storage.embedded.errors import EmbeddedPostgresError, LockTimeout, explained
from handinger.storage.embedded.folder import create, find
from handinger.storage.embedded.locks import lock_alone, made, open_private, transition
from handinger.storage.embedded.sockets import listens

_JOIN_LOCK_TIMEOUT_S = START_TIMEOUT_S + 30.0
_LEAVE_LOCK_TIMEOUT_S = 5.0


class EmbeddedPostgres:
    """One process's share in the PostgreSQL of a data directory.

    The share is a shared `flock`, so the kernel gives it back when the process dies. Whoever starts
    or stops PostgreSQL holds the transition lock meanwhile. Methods may be called from any thread.
    """

    def __init__(self, data_dir: Path, cluster: Cluster, *, share: int) -> None:
        self._data_dir = data_dir
        self._cluster = cluster
        self._share: int | None = share
        self._guard = threading.Lock()

    @classmethod
    def join(cls, data_dir: Path) -> Self:
        """Make PostgreSQL if there is none, start it if it does not run, and hold a share in it.

        One left over by a process that was killed is adopted. Raises EmbeddedPostgresError.
        """
        with explained(data_dir):
            data_dir = made(data_dir)
            with transition(data_dir, timeout_s=_JOIN_LOCK_TIMEOUT_S) as held:
                share = open_private(data_dir / "postgres.lock")
                try:
                    fcntl.flock(share, fcntl.LOCK_SH)
                    folder = find(data_dir) or create(data_dir, held)
                    cluster = cluster_of(data_dir, folder)
                    with _stopped_on_failure(cluster, share):
                        cluster.ensure_started()
                except BaseException:
                    os.close(share)
                    raise
        return cls(data_dir, cluster, share=share)

    @property
    def url(self) -> str:
        """Where its database is, in libpq's notation."""
        return self._cluster.url("handinger")

    def is_running(self) -> bool:
        """Whether something listens on the socket; costs microseconds and never blocks."""
        return listens(self._cluster.socket)

    def ensure_running(self) -> bool:
        """Start PostgreSQL again if it died; whether that was needed. It never makes a new one."""
        with self._guard, explained(self._data_dir):
            if self._share is None:
                raise EmbeddedPostgresError(
                    f"The share in the PostgreSQL of {self._data_dir} was given back already."
                )
            with transition(self._data_dir, timeout_s=_JOIN_LOCK_TIMEOUT_S):
                folder = find(self._data_dir)
                if folder is None or not self._is_where_it_was(self._share):
                    raise EmbeddedPostgresError(
                        f"The data directory {self._data_dir} was removed or replaced while it was"
                        " in use; start the server again."
                    )
                self._cluster = cluster_of(self._data_dir, folder)
                return self._cluster.ensure_started()

    def leave(self) -> bool:
        """Give the share back; the last one out stops PostgreSQL. Whether this call stopped it.

        Calling it again does nothing. The share is given back even where stopping fails.
        """
        with self._guard, explained(self._data_dir), contextlib.ExitStack() as held:
            if self._share is None:
                return False
            share, self._share = self._share, None
            held.callback(os.close, share)
            if not self._is_where_it_was(share):
                return False
            try:
                # The share is closed before the transition lock, or who leaves next would see it.
                with transition(self._data_dir, timeout_s=_LEAVE_LOCK_TIMEOUT_S), held:
                    return lock_alone(share) and self._cluster.stop()
            except LockTimeout:
                # Whoever works on it for so long has a share, or is about to take one.
                return False

    def _is_where_it_was(self, share: int) -> bool:
        """False once the data directory was removed: another's PostgreSQL may be there by now."""
        try:
            return os.path.samestat(os.fstat(share), (self._data_dir / "postgres.lock").stat())
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def _stopped_on_failure(cluster: Cluster, share: int) -> Generator[None]:
    try:
        yield
    except EmbeddedPostgresError:
        if lock_alone(share):
            cluster.stop()
        raise
