"""One server for all tests of a process, its PostgreSQL to look into, and a scripted model.

Servers with other settings share that PostgreSQL, each with a database of its own.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest

from handinger import keys
from handinger.settings import Settings
from handinger.storage import schema
from handinger.storage.database import open_database
from handinger.storage.embedded import EmbeddedPostgres
from tests.contract.world import Api, Scripts
from tests.support import preloaded
from tests.support.model_server import ModelServer
from tests.support.postgres import give_postgres
from tests.support.server import HandingerServer

StartServer = Callable[..., HandingerServer]
Connect = Callable[[HandingerServer, str], Api]


@pytest.fixture(scope="session")
def model() -> Iterator[ModelServer]:
    with ModelServer() as model:
        yield model


@pytest.fixture(scope="session")
def scripts(model: ModelServer) -> Scripts:
    return Scripts(model)


@pytest.fixture(scope="session")
def server(
    model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HandingerServer]:
    """The server that most tests share; it must not log one traceback in all that time."""
    data_dir = tmp_path_factory.mktemp("contract") / "data"
    give_postgres(data_dir)
    server = HandingerServer(
        data_dir,
        model_url=model.base_url,
        environment={"HANDINGER_SHUTDOWN_GRACE_S": "1"},
        preload=False,
    )
    server.start()
    yield server
    server.close()
    assert "Traceback" not in server.log_path.read_text(errors="replace")


@pytest.fixture(scope="session")
def postgres_url(server: HandingerServer) -> Iterator[str]:
    postgres = EmbeddedPostgres.join(server.data_dir)
    yield postgres.url
    postgres.leave()


@pytest.fixture(scope="session")
def database(postgres_url: str) -> Iterator[psycopg.Connection]:
    """The server's database, as nobody but an operator sees it."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template(postgres_url: str, database: psycopg.Connection) -> str:
    """The name of a database with the schema of this version, to be copied."""
    name = "copied"
    database.execute(f"CREATE DATABASE {name}".encode())
    asyncio.run(schema.migrate(urlsplit(postgres_url)._replace(path=f"/{name}").geturl()))
    return name


@pytest.fixture(scope="session")
def new_server(
    model: ModelServer,
    postgres_url: str,
    database: psycopg.Connection,
    template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[StartServer]:
    """Starts a server with settings of its own, on a database of its own."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def start(
            name: str,
            environment: Mapping[str, str],
            *,
            prepare: Callable[[], None] = preloaded.nothing,
        ) -> HandingerServer:
            # Two modules may call theirs the same.
            name = f"{name}_{next(numbers)}"
            database.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
            url = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
            server = HandingerServer(
                tmp_path_factory.mktemp(name) / "data",
                model_url=model.base_url,
                database_url=url,
                environment={"HANDINGER_SHUTDOWN_GRACE_S": "1", **environment},
                prepare=prepare,
            )
            server.data_dir.mkdir()
            stack.callback(server.close)
            return server.start()

        yield start


@pytest.fixture(scope="session")
def connect() -> Iterator[Connect]:
    """Opens a client for a server and a key."""
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(64))

        def connect(server: HandingerServer, key: str) -> Api:
            client = httpx2.Client(
                base_url=server.base_url,
                headers={"Authorization": f"Bearer {key}"},
                timeout=60,
                limits=httpx2.Limits(max_connections=100, max_keepalive_connections=100),
            )
            return Api(server, stack.enter_context(client), key, threads)

        yield connect


@pytest.fixture(scope="session")
def api(server: HandingerServer, connect: Connect) -> Api:
    """The first organization's."""
    return connect(server, server.key)


@pytest.fixture(scope="session")
def new_organization(
    server: HandingerServer, postgres_url: str, connect: Connect
) -> Callable[[str], Api]:
    """Makes a further organization with a key."""

    def make(name: str) -> Api:
        secret = asyncio.run(new_key(server.data_dir, postgres_url, name))
        return connect(server, secret)

    return make


async def new_key(data_dir: Path, url: str, organization_name: str) -> str:
    """The secret of a key of a further organization."""
    async with open_database(
        Settings.model_validate({"data_dir": data_dir, "database_url": url})
    ) as database:
        organization = await keys.create_organization(database, organization_name)
        return (await keys.create_key(database, organization.id, name="test")).secret


@pytest.fixture(scope="session")
def other(new_organization: Callable[[str], Api]) -> Api:
    """Another organization's, on the same server."""
    return new_organization("other")


@pytest.fixture(scope="session")
def narrow_api(new_server: StartServer, connect: Connect) -> Api:
    """Of a server that runs one turn at a time and has small limits."""
    server = new_server(
        "narrow",
        {
            "HANDINGER_MAX_CONCURRENT_TURNS": "1",
            "HANDINGER_MAX_QUEUED_TURNS": "3",
            "HANDINGER_MAX_JSON_BYTES": "20000",
            "HANDINGER_MAX_MULTIPART_BYTES": "100000",
            "HANDINGER_MAX_ATTACHMENTS": "3",
            "HANDINGER_MAX_FILE_BYTES": "30000",
            "HANDINGER_MAX_WORKSPACE_BYTES": "50000",
            "HANDINGER_MAX_WORKSPACE_FILES": "5",
            "HANDINGER_BLOB_GRACE_S": "1",
            "HANDINGER_IMAGE_INPUT": "false",
            "HANDINGER_MODEL_RETRIES": "1",
            "HANDINGER_BUDGETS": '{"low": {"modelCalls": null, "seconds": 2},'
            ' "unlimited": {"seconds": 2}}',
        },
    )
    return connect(server, server.key)
