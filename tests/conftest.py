"""What the tests of every room share."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from handinger.storage.embedded import EmbeddedPostgres
from tests.support import postgres as copied
from tests.support.commands import preloaded_commands

# What is loaded with the tests stays, and is much: no collection of garbage need go through it.
gc.disable()

# Machines may be busy; what takes too long is ended by pytest's own limit.
settings.register_profile("handinger", deadline=None)
settings.load_profile("handinger")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for one module, for tests in this process."""
    postgres = copied.joined(tmp_path_factory.mktemp("postgres"))
    yield postgres
    postgres.leave()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for `PATH`, whose `handinger` and `python` start in no time."""
    with preloaded_commands(tmp_path_factory.mktemp("commands")) as folder:
        yield folder
