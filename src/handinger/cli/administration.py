"""Keys and organizations, straight on the server's database; loading this needs the server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from handinger import keys, settings
from handinger.errors import NotFound
from handinger.keys import CreatedKey, Key, Organization
from handinger.storage.database import Database, open_database


async def create_key(name: str, org: str | None) -> tuple[Organization, CreatedKey]:
    """A new key for the organization that `org` names, or for the first."""
    async with _opened(org) as (database, organization):
        return organization, await keys.create_key(database, organization.id, name=name)


async def list_keys(org: str | None) -> list[Key]:
    """The keys of the organization that `org` names, or of the first."""
    async with _opened(org) as (database, organization):
        return await keys.list_keys(database, organization.id)


async def revoke_key(key_id: str, org: str | None) -> Key:
    """Revoke a key of the organization that `org` names, or of the first."""
    async with _opened(org) as (database, organization):
        return await keys.revoke_key(database, organization.id, key_id)


async def create_organization(name: str) -> Organization:
    """A new organization."""
    async with open_database(settings.load()) as database:
        return await keys.create_organization(database, name=name)


async def list_organizations() -> list[Organization]:
    """Every organization, oldest first."""
    async with open_database(settings.load()) as database:
        return await keys.list_organizations(database)


@asynccontextmanager
async def _opened(org: str | None) -> AsyncGenerator[tuple[Database, Organization]]:
    async with open_database(settings.load()) as database:
        yield database, await _organization(database, org)


async def _organization(database: Database, org: str | None) -> Organization:
    """The organization with this id, or the only one with this name."""
    if org is None:
        return await keys.first_organization(database)
    organizations = await keys.list_organizations(database)
    found = [organization for organization in organizations if organization.id == org]
    found = found or [organization for organization in organizations if organization.name == org]
    if len(found) == 1:
        return found[0]
    how_many = "Several organizations are" if found else "No organization is"
    raise NotFound(f"{how_many} called {org}; see `handinger orgs list`, and use the id.")
