"""Where PostgreSQL listens: in its folder, or in a private one where that path is too long."""

import os
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

from handinger.storage.embedded.account import Account
from handinger.storage.embedded.errors import EmbeddedPostgresError
from handinger.storage.embedded.folder import short_name

SOCKET_NAME = ".s.PGSQL.5432"
# `sun_path` holds 108 bytes on Linux and 104 on macOS, the closing zero among them.
_SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107


def socket_folder(data_dir: Path, folder: Path, account: Account) -> Path:
    if _is_addressable(folder):
        return folder
    name, link = short_name(data_dir), data_dir / "postgres.socket"
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


def _temporary_folders(account: Account) -> Generator[Path]:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nonexistent")
    if runtime.is_dir() and runtime.stat().st_uid == account.uid:
        yield runtime
    if not account.is_foreign:
        yield Path(tempfile.gettempdir())
    yield Path("/tmp")  # noqa: S108 # What is made in it is checked to be ours alone.


def _is_addressable(folder: Path) -> bool:
    """Whether libpq and PostgreSQL, to which a comma separates folders, can name a socket in it."""
    if len(os.fsencode(folder / SOCKET_NAME)) > _SOCKET_PATH_LIMIT:
        return False
    return re.fullmatch(r"/[\w ./+@%=:~-]+", str(folder)) is not None


def _make_private(folder: Path, account: Account) -> bool:
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


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except BlockingIOError:
            return True  # Its queue is full at the moment.
        except OSError:
            return False
    return True
