"""What the tests of every room share."""

from collections.abc import Iterator

import pytest

from handinger.storage.embedded import EmbeddedPostgres


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for one module, for tests in this process."""
    postgres = EmbeddedPostgres.join(tmp_path_factory.mktemp("postgres"))
    yield postgres
    postgres.leave()
