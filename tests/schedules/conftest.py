"""A database for the tests of a module, and a world in it for each."""

from collections.abc import AsyncIterator

import pytest

from handinger import keys
from handinger.settings import Settings
from handinger.storage.database import Database, open_database
from handinger.storage.embedded import EmbeddedPostgres
from tests.schedules.world import World


@pytest.fixture(scope="module")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    async with open_database(Settings.model_validate({"database_url": postgres.url})) as database:
        yield database


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    organization = await keys.create_organization(database, "test")
    yield World(database, organization.id)
    async with database.system().statements() as sql:
        await sql.run("DELETE FROM schedules")
        await sql.run("DELETE FROM procrastinate_jobs")
