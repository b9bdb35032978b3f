"""Serving from a data directory: it is held by one server, whose PostgreSQL starts meanwhile."""

import contextlib
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from handinger.storage.embedded.locks import ServeLock
from handinger.storage.embedded.sharing import EmbeddedPostgres


@contextlib.contextmanager
def serving(data_dir: Path) -> Generator[Future[EmbeddedPostgres]]:
    """Hold the data directory, and a share in its PostgreSQL, until the end of the block.

    Making and starting PostgreSQL takes about as long as loading the rest of the server, and a
    machine can do both at once. Raises DataDirectoryInUse; the future may raise
    EmbeddedPostgresError.
    """
    lock = ServeLock.acquire(data_dir)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="postgres") as starting:
            postgres = starting.submit(EmbeddedPostgres.join, data_dir)
            try:
                yield postgres
            finally:
                if postgres.exception() is None:  # Known once it has started.
                    postgres.result().leave()
    finally:
        lock.release()
