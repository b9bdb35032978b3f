from collections.abc import Iterator

import pytest

from handinger.sdk import exchange
from tests.sdk.faces import AsyncFace, Face, SyncFace
from tests.sdk.stub import Stub


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    # How long is waited is tested where it is decided; elsewhere it only takes time.
    monkeypatch.setattr(exchange, "_FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(exchange, "_LONGEST_DELAY_S", 0.01)
    server = Stub()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HANDINGER_API_KEY", "HANDINGER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: pytest.FixtureRequest, stub: Stub) -> Iterator[Face]:
    made = request.param(stub.url)
    yield made
    made.close()
