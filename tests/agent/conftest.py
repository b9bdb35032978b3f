"""What the tests of turns in this process share: one PostgreSQL for each module."""

from collections.abc import Iterator

import pytest

from handinger.storage.embedded import EmbeddedPostgres


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres.join(tmp_path_factory.mktemp("postgres"))
    yield postgres
    postgres.leave()
