"""The scripted model server that its own tests share, and a client that never retries by itself."""

from collections.abc import Iterator

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.support.model_server import ModelServer


@pytest.fixture(scope="module")
def running_server() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def server(running_server: ModelServer) -> ModelServer:
    running_server.reset()
    return running_server


@pytest.fixture
async def client(server: ModelServer):
    # Reading the certificates would take most of a test's time, and nothing here speaks TLS.
    http_client = DefaultAsyncHttpxClient(verify=False)
    async with AsyncOpenAI(
        base_url=server.base_url, api_key="k", max_retries=0, timeout=10, http_client=http_client
    ) as client:
        yield client
