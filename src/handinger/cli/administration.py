"""Keys, organizations and whose mail is taken, on the database; loading this needs the server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from handinger import keys, mailbox, mcp_servers, settings
from handinger.budgets import accounts
from handinger.budgets.accounts import Account
from handinger.cli.failures import CommandError, ExitCode
from handinger.email import addresses
from handinger.email.addresses import AllowList
from handinger.errors import InvalidInput, NotFound
from handinger.keys import CreatedKey, Key, Organization
from handinger.mcp_servers import McpServer
from handinger.settings import BudgetLimits, BudgetName
from handinger.storage.database import Database, TenantStatements, open_database
from handinger.storage.sealing import open_sealer


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool of an MCP server, as the workers get it."""

    name: str
    description: str
    reads_only: bool
    may_write: bool


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


async def add_mcp_server(
    name: str,
    target: str,
    org: str | None,
    *,
    headers: dict[str, str],
    environment: dict[str, str],
    may_write: list[str],
) -> McpServer:
    """Configure an MCP server for the organization that `org` names, or for the first."""
    connection = mcp_servers.read_connection(target, headers=headers, environment=environment)
    async with _opened(org) as (database, organization):
        return await mcp_servers.add(
            database,
            open_sealer(settings.load()),
            organization.id,
            name,
            connection=connection,
            may_write=may_write,
        )


async def list_mcp_servers(org: str | None) -> list[McpServer]:
    """The MCP servers of the organization that `org` names, or of the first."""
    async with _opened(org) as (database, organization):
        return await mcp_servers.list_servers(database, organization.id)


async def remove_mcp_server(name: str, org: str | None) -> None:
    """Forget an MCP server of the organization that `org` names, or of the first."""
    async with _opened(org) as (database, organization):
        await mcp_servers.remove(database, organization.id, name)


async def check_mcp_server(name: str, org: str | None) -> list[OfferedTool]:
    """The tools that an MCP server offers now. Raises CommandError."""
    # The agent takes seconds to load, which no other command should wait for.
    from handinger.agent import mcp

    configured = settings.load()
    async with _opened(org) as (database, organization):
        servers = await mcp_servers.load(database, open_sealer(configured), organization.id)
    server = next((server for server in servers if server.name == name), None)
    if server is None:
        raise NotFound(f"There is no MCP server {name[:80]!r}; see `handinger mcp list`.")
    try:
        tools = await mcp.list_tools(server, configured)
    except mcp.McpUnreachable as error:
        raise CommandError(str(error), exit_code=ExitCode.NETWORK) from error
    return [
        OfferedTool(
            tool.definition.name, tool.definition.description or "", tool.reads_only, tool.permitted
        )
        for tool in tools
    ]


async def grant_credits(credits: int, note: str, org: str | None) -> tuple[Organization, Account]:
    """Add to the balance of an organization."""
    async with _opened(org) as (database, organization):
        account = await accounts.grant(database, organization.id, credits=credits, note=note)
        return organization, account


async def show_account(org: str | None) -> tuple[Organization, Account | None]:
    """What an organization has left."""
    async with _opened(org) as (database, organization):
        return organization, await accounts.show(database, organization.id)


async def lift_credits(org: str | None) -> Organization:
    """Take the balance of an organization away."""
    async with _opened(org) as (database, organization):
        await accounts.lift(database, organization.id)
        return organization


async def cap_month(usd: float | None, org: str | None) -> Organization:
    """What an organization may spend in a month."""
    cap_nano = None if usd is None else round(usd * 1e9)
    async with _opened(org) as (database, organization):
        await accounts.cap_month(database, organization.id, cap_nano)
        return organization


async def set_budget(level: BudgetName, caps: Mapping[str, float | None], org: str | None) -> None:
    """Caps of an organization's own; none: the server's."""
    async with _opened(org) as (database, organization):
        await accounts.set_budget(database, organization.id, level, caps)


async def show_budgets(
    org: str | None,
) -> tuple[dict[BudgetName, BudgetLimits], float | None]:
    """The caps that hold for an organization, and its cap for a month in USD."""
    configured = settings.load()
    async with _opened(org) as (database, organization):
        limits = await accounts.budgets_of(database, configured, organization.id)
        account = await accounts.show(database, organization.id)
    cap_nano = None if account is None else account.monthly_cap_nano
    return limits, None if cap_nano is None else cap_nano / 1e9


async def allow_list(org: str | None) -> AllowList:
    """Whose mail is taken in the organization that `org` names, or in the first."""
    async with _opened_transaction(org) as sql:
        return await addresses.allow_list(sql, settings.load())


async def change_allow_list(
    org: str | None, *, add: Sequence[str], remove: Sequence[str]
) -> AllowList:
    """Add to and remove from the list that holds; it becomes the organization's own.

    Raises InvalidInput for what is no address or domain, NotFound for what is not in the list.
    """
    try:
        added, removed = mailbox.parse_allow_list(add), mailbox.parse_allow_list(remove)
    except ValueError as error:
        raise InvalidInput(f"{error}.") from error
    async with _opened_transaction(org) as sql:
        before = (await addresses.allow_list(sql, settings.load())).entries
        missing = [entry for entry in removed if entry not in before]
        if missing:
            raise NotFound(f"{missing[0]} is not in the list; see `handinger email list`.")
        kept = [entry for entry in (*before, *added) if entry not in removed]
        await addresses.set_allow_list(sql, kept)
        return await addresses.allow_list(sql, settings.load())


async def reset_allow_list(org: str | None) -> AllowList:
    """Return to the server's list in the organization that `org` names, or in the first."""
    async with _opened_transaction(org) as sql:
        await addresses.set_allow_list(sql, None)
        return await addresses.allow_list(sql, settings.load())


@asynccontextmanager
async def _opened_transaction(org: str | None) -> AsyncGenerator[TenantStatements]:
    async with (
        _opened(org) as (database, organization),
        database.tenant(organization.id).transaction() as sql,
    ):
        yield sql


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
