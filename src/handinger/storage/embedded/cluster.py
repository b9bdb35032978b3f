"""What runs on a folder of PostgreSQL's: started, asked, stopped, with the transition lock held."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from handinger.storage.embedded.account import Account, account_of, programs
from handinger.storage.embedded.errors import EmbeddedPostgresError, last_lines, no_way_as_root
from handinger.storage.embedded.locks import open_private
from handinger.storage.embedded.sockets import SOCKET_NAME, listens, socket_folder

_LOG_LIMIT_BYTES = 10 * 1024 * 1024
# Recovery after a crash replays up to `max_wal_size`, for which a slow disk may need minutes.
START_TIMEOUT_S = 300
_DEAF_TIMEOUT_S = 5.0
# Fast mode writes a checkpoint first; where the disk is too slow for that, the WAL is enough.
_STOP_MODES = (("fast", 6), ("immediate", 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A complete folder of PostgreSQL's, and how to start, reach and stop what runs on it."""

    folder: Path
    account: Account
    socket_folder: Path
    log: Path

    @property
    def socket(self) -> Path:
        return self.socket_folder / SOCKET_NAME

    def url(self, database: str) -> str:
        host = quote(os.fsencode(self.socket_folder))
        return f"postgresql://handinger@/{database}?host={host}&port=5432"

    def ensure_started(self) -> bool:
        """Return once it answers; whether it had to be started."""
        started = False
        began_at = deaf_since = time.monotonic()
        while not self._answers():
            now = time.monotonic()
            if now - began_at > START_TIMEOUT_S:
                raise EmbeddedPostgresError(self._told("does not answer"))
            if listens(self.socket):
                deaf_since = now  # It recovers, or is on its way down.
            elif self._postmaster() is None:
                deaf_since = now
                started = self._start() or started
            elif now - deaf_since > _DEAF_TIMEOUT_S:
                # Its socket was removed, as programs that clean up temporary folders do.
                self.stop()
            time.sleep(0.01)
        return started

    def stop(self) -> bool:
        """Return once it has stopped; whether it ran."""
        if self._postmaster() is None:
            return False
        for mode, timeout_s in _STOP_MODES:
            with self._open_log() as log:
                status = self._control(["-m", mode, "-t", str(timeout_s), "stop"], output=log)
            if status == 0 or self._postmaster() is None:
                return True
        raise EmbeddedPostgresError(self._told("does not stop"))

    def _postmaster(self) -> int | None:
        """The process on this folder; a number that belongs to another program by now is none."""
        pid = _noted_pid(self.folder / "postmaster.pid")
        return pid if pid is not None and _runs_on(pid, self.folder) else None

    def _answers(self) -> bool:
        """Whether it takes queries, by asking; the first time, this makes our database in it."""
        if not listens(self.socket):
            return False
        try:
            url = self.url("postgres")
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                self._check_and_complete(connection)
        except psycopg.Error as error:
            if _passes(error):
                return False
            raise EmbeddedPostgresError(
                f"The PostgreSQL in {self.folder} cannot be used: {str(error).strip()}"
            ) from error
        return True

    def _check_and_complete(self, connection: psycopg.Connection) -> None:
        asked = connection.execute(
            "SELECT current_setting('data_directory'),"
            " EXISTS (SELECT FROM pg_database WHERE datname = 'handinger')"
        ).fetchone()
        assert asked is not None
        folder, is_complete = asked
        if Path(folder) != self.folder:
            raise EmbeddedPostgresError(
                f"In {self.socket_folder} listens the PostgreSQL of {folder}, not that of"
                f" {self.folder}; stop it."
            )
        if not is_complete:
            connection.execute("CREATE DATABASE handinger")

    def _start(self) -> bool:
        """Start it; False if a former one is still on its way out, so that a new try is due."""
        self._forget_other_programs()
        options = ["-D", str(self.folder), "-k", str(self.socket_folder), "-p", "5432"]
        options += ["-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"]
        options += ["-c", "logging_collector=off", "-c", "log_destination=stderr"]
        with self._open_log(rotate=True) as log:
            said_before = os.fstat(log).st_size
            arguments = ["-t", str(START_TIMEOUT_S), "-o", shlex.join(options), "start"]
            status = self._control(arguments, output=log)
        if status == 0:
            return True
        said = self.log.read_bytes()[said_before:]
        if b"is still in use" in said or re.search(rb"lock file .* already exists", said):
            time.sleep(0.1)
            return False
        if said.startswith(b"unshare:"):
            raise no_way_as_root(f"root owns {self.folder} ({last_lines(said)})")
        raise EmbeddedPostgresError(self._told("did not start", said))

    def _forget_other_programs(self) -> None:
        """PostgreSQL overlooks a dead process in its lock files, but no other that lives."""
        of_the_socket = self.socket_folder / f"{SOCKET_NAME}.lock"
        for lock_file in (self.folder / "postmaster.pid", of_the_socket):
            pid = _noted_pid(lock_file)
            if pid is not None and (pid == 0 or (_exists(pid) and not _runs_on(pid, self.folder))):
                lock_file.unlink(missing_ok=True)

    def _control(self, arguments: Sequence[str], *, output: int) -> int:
        # The folder goes by the environment, as pg_ctl hands `-D` to a shell without quoting it.
        command = [programs() / "pg_ctl", "--silent", "--wait", *arguments]
        return self.account.run(command, output=output, environment={"PGDATA": str(self.folder)})

    @contextlib.contextmanager
    def _open_log(self, *, rotate: bool = False) -> Generator[int]:
        if rotate and self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        descriptor = open_private(self.log, os.O_WRONLY | os.O_APPEND)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _told(self, trouble: str, said: bytes | None = None) -> str:
        lines = last_lines(self.log.read_bytes() if said is None else said)
        return f"The PostgreSQL in {self.folder} {trouble}; its log {self.log} ends with: {lines}"


def _passes(error: psycopg.Error) -> bool:
    """Whether waiting helps: it starts, is ended by somebody, or is full."""
    if error.sqlstate is not None:
        return error.sqlstate.startswith("57")
    # A refused connection has no code; the texts are in English, as PostgreSQL runs with LC_ALL=C.
    said = str(error)
    return "FATAL:" not in said or "the database system is" in said or "too many clients" in said


def cluster_of(data_dir: Path, folder: Path) -> Cluster:
    account, log = account_of(folder), data_dir / "postgres.log"
    where = socket_folder(data_dir, folder, account)
    return Cluster(folder=folder, account=account, socket_folder=where, log=log)


def _noted_pid(lock_file: Path) -> int | None:
    """The process that a lock file of PostgreSQL's names, 0 where that is no number."""
    try:
        noted = lock_file.read_bytes()
    except FileNotFoundError:
        return None
    # `postgres --single` notes its number as a negative one.
    match = re.match(rb"-?(\d{1,9})\n", noted)
    return int(match[1]) if match else 0


def _runs_on(pid: int, folder: Path) -> bool:
    command = _command_line(pid) + b" "
    if b"-D " + os.fsencode(folder) + b" " in command:
        return True
    # Started by hand with PGDATA it does not say where it runs, and must be taken for this one.
    return os.path.basename(command.split(b" ", 1)[0]) == b"postgres" and b" -D " not in command


def _command_line(pid: int) -> bytes:
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            return b""
    listing = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(listing, check=False, capture_output=True).stdout.rstrip(b"\n")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
