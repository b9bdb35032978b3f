"""The folder in which PostgreSQL keeps its data: found, or made whole before it gets its name."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from handinger.storage.embedded.account import MAJOR_VERSION, Account, account_of, choose, programs
from handinger.storage.embedded.errors import USE_YOUR_OWN, EmbeddedPostgresError, last_lines

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


def find(data_dir: Path) -> Path | None:
    """The folder of the PostgreSQL that was made here, if one was."""
    folder = data_dir / "postgres"
    if folder.is_symlink():
        folder = _follow(folder)
    if not folder.exists():
        return None
    account_of(folder)
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
            f" the dump; or {USE_YOUR_OWN}."
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


def create(data_dir: Path, transition: int) -> Path:
    """Make a new PostgreSQL; the folder gets its name only once it is complete."""
    account, parent = choose(data_dir)
    name = "postgres" if parent == data_dir else short_name(data_dir)
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


def _initialise(account: Account, folder: Path, transition: int) -> None:
    options = ["--username=handinger", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    for name, value in _SETTINGS.items():
        options += ["-c", f"{name}={value}"]
    command = [programs() / "initdb", "-D", folder, *options]
    with tempfile.TemporaryFile() as output:
        # initdb outlives us if we are killed; then it keeps the transition lock until it ends.
        status = account.run(command, output=output.fileno(), keep_open=[transition])
        output.seek(0)
        said = output.read()
    if status != 0:
        raise EmbeddedPostgresError(
            f"The database in {folder.parent} could not be made; initdb said: {last_lines(said)}"
        )


def short_name(data_dir: Path) -> str:
    return f"handinger-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
