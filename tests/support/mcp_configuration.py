"""Configures an MCP server for the first organization of a server under test."""

import asyncio
from collections.abc import Mapping, Sequence

from handinger import keys, mcp_servers
from handinger.settings import Settings
from handinger.storage.database import open_database
from handinger.storage.sealing import open_sealer
from tests.support.server import HandingerServer


def configure(
    server: HandingerServer,
    name: str,
    target: str,
    *,
    database_url: str | None = None,
    headers: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    may_write: Sequence[str] = (),
) -> None:
    """As `handinger mcp add` does; `database_url` if it is not in the server's environment."""

    async def add() -> None:
        settings = Settings.model_validate(
            {
                "data_dir": server.data_dir,
                "database_url": database_url or server.environment["HANDINGER_DATABASE_URL"],
            }
        )
        connection = mcp_servers.read_connection(
            target, headers=headers or {}, environment=environment or {}
        )
        async with open_database(settings) as database:
            await mcp_servers.add(
                database,
                open_sealer(settings),
                (await keys.first_organization(database)).id,
                name,
                connection=connection,
                may_write=list(may_write),
            )

    asyncio.run(add())
