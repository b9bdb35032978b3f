"""A server that takes mail, with the world around it: a name server, and senders with keys."""

from collections.abc import Iterator

import pytest

from tests.email.sink import Sink
from tests.email.world import World
from tests.support.dns_server import DnsServer
from tests.support.model_server import ModelServer


@pytest.fixture(scope="session")
def model() -> Iterator[ModelServer]:
    with ModelServer() as model:
        yield model


@pytest.fixture(scope="session")
def names() -> Iterator[DnsServer]:
    with DnsServer() as names:
        yield names


@pytest.fixture(scope="session")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="session")
def world(
    model: ModelServer, names: DnsServer, sink: Sink, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Most tests share it; it must not log one traceback in all that time."""
    environment = {"HANDINGER_SMTP_URL": f"smtp://127.0.0.1:{sink.port}"}
    world = World(tmp_path_factory.mktemp("mail") / "data", model, names, environment)
    world.sink = sink
    world.start()
    yield world
    world.close()
    assert "Traceback" not in world.server.log_path.read_text(errors="replace")
