"""What goes wrong with the PostgreSQL of a data directory, said so that its owner can mend it."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from handinger.errors import DatabaseError, HandingerServerError

USE_YOUR_OWN = "set HANDINGER_DATABASE_URL=postgresql://... to use a PostgreSQL of your own"


class EmbeddedPostgresError(DatabaseError):
    """The PostgreSQL of the data directory cannot be made, started or stopped."""


class EmbeddedPostgresUnavailable(EmbeddedPostgresError):
    """This platform, or this user on it, cannot run the embedded PostgreSQL at all."""


class DataDirectoryInUse(HandingerServerError):
    """Another server process works on this data directory."""


class LockTimeout(EmbeddedPostgresError):
    """Another process has held the transition lock for too long."""


def no_way_as_root(reason: str) -> EmbeddedPostgresUnavailable:
    return EmbeddedPostgresUnavailable(
        "PostgreSQL does not run as root, user namespaces are forbidden or missing here, and"
        f" {reason}: run Handinger as an ordinary user, or {USE_YOUR_OWN}."
    )


@contextlib.contextmanager
def explained(data_dir: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise EmbeddedPostgresError(
            f"The data directory {data_dir} cannot be used: {error.strerror}{where}; choose another"
            " one with HANDINGER_DATA_DIR."
        ) from error


def last_lines(said: bytes) -> str:
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return " | ".join(lines[-5:]) or "(nothing)"
