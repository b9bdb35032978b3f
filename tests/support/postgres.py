"""A PostgreSQL with the schema of this version, made once and copied from then on.

To make one takes longer than most tests. That a data directory gets its own is seen where a server
is started as a person starts it.
"""

import asyncio
import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

from handinger.storage import schema
from handinger.storage.embedded import EmbeddedPostgres


def joined(data_dir: Path) -> EmbeddedPostgres:
    """A share in the PostgreSQL of a new data directory."""
    give_postgres(data_dir)
    return EmbeddedPostgres.join(data_dir)


def give_postgres(data_dir: Path) -> None:
    """Leave a new data directory as a server does that was started on it and has stopped.

    One that has a PostgreSQL keeps it. Where root needs another user for it, nothing is copied, so
    that each one is made anew.
    """
    made, place = _made(), data_dir / "postgres"
    if not place.exists() and not made.is_symlink() and made.stat().st_uid == os.geteuid():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(made, place)


@functools.cache
def _made() -> Path:
    data_dir = Path(tempfile.mkdtemp(prefix="handinger-postgres-"))
    atexit.register(shutil.rmtree, data_dir)
    postgres = EmbeddedPostgres.join(data_dir)
    try:
        asyncio.run(schema.migrate(postgres.url))
    finally:
        postgres.leave()
    # Processes are killed here, and no machine: what was written is there after each death.
    with (data_dir / "postgres" / "postgresql.auto.conf").open("a") as settings:
        settings.write("fsync = off\n")
    return data_dir / "postgres"
