"""What the tests of durability share: a scripted model, and a server that stays between tests."""

from collections.abc import Iterator

import pytest

from tests.durability.stand import Stand
from tests.support.model_server import ModelServer


@pytest.fixture(scope="session")
def running_model() -> Iterator[ModelServer]:
    with ModelServer() as model:
        yield model


@pytest.fixture
def model(running_model: ModelServer) -> ModelServer:
    running_model.reset()
    return running_model


@pytest.fixture(scope="session")
def running_stand(
    running_model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    stand = Stand(tmp_path_factory.mktemp("stand"), running_model)
    try:
        yield stand
    finally:
        stand.close()


@pytest.fixture
def stand(running_stand: Stand, model: ModelServer) -> Stand:
    """Healthy and idle, whatever the test before did to it."""
    assert running_stand.model is model
    if not running_stand.is_up:
        running_stand.start()
    running_stand.observer.wait_until_idle()
    return running_stand
