"""The addresses of workers, and whose mail their organizations take."""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from handinger import mailbox, workers
from handinger.ids import OrganizationId, WorkerId
from handinger.mailbox import Mailbox
from handinger.settings import Settings
from handinger.storage.database import Database, TenantStatements

_TOKEN_BYTES = 16


def new_token() -> str:
    """A token that nobody guesses, and that survives being written in capitals."""
    return base64.b32encode(secrets.token_bytes(_TOKEN_BYTES)).decode().rstrip("=").lower()


def with_token(settings: Settings, token: str) -> Mailbox:
    """The address that a token stands for."""
    return Mailbox(f"{settings.email_name}+{token}", settings.mail_domain)


async def of_worker(
    database: Database, settings: Settings, organization_id: OrganizationId, worker_id: WorkerId
) -> Mailbox:
    """The one address of a worker, always the same. Raises NotFound."""
    async with database.tenant(organization_id).statements() as sql:
        return await ensure(sql, settings, worker_id)


async def ensure(sql: TenantStatements, settings: Settings, worker_id: WorkerId) -> Mailbox:
    """The one address of a worker; made if nobody has asked before. Raises NotFound."""
    token = await sql.value(
        "WITH made AS (INSERT INTO email_addresses (organization_id, worker_id, token)"
        " SELECT organization_id, id, %(token)s FROM workers"
        " WHERE organization_id = %(organization_id)s AND id = %(worker_id)s"
        " ON CONFLICT (worker_id) DO UPDATE SET token = email_addresses.token RETURNING token)"
        " SELECT token FROM made",
        worker_id=worker_id,
        token=new_token(),
    )
    if token is None:
        raise workers.not_found(worker_id)
    return with_token(settings, token)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A worker that a mail is for."""

    organization_id: OrganizationId
    worker_id: WorkerId
    address: str
    # The mail of ours that this address was made for; None for the worker's own address.
    answers: str | None
    allow: tuple[str, ...]  # whose mail its organization takes


@dataclass(frozen=True, slots=True)
class _RecipientRow:
    organization_id: OrganizationId
    worker_id: WorkerId
    answers: str | None
    allow: list[str] | None


async def find(database: Database, settings: Settings, address: Mailbox) -> Recipient | None:
    """Whom an address means; None if it is none of ours."""
    name, plus, token = address.local.partition("+")
    if not plus or name != settings.email_name or address.domain != settings.mail_domain:
        return None
    async with database.system().statements() as sql:
        row = await sql.first(
            _RecipientRow,
            "SELECT found.*, s.allow FROM ("
            "SELECT organization_id, worker_id, NULL AS answers FROM email_addresses"
            " WHERE token = %(token)s UNION ALL"
            " SELECT organization_id, worker_id, id FROM outbound_emails"
            " WHERE reply_token = %(token)s"
            ") found LEFT JOIN email_settings s ON s.organization_id = found.organization_id",
            token=token,
        )
    if row is None:
        return None
    allow = default_allow_list(settings) if row.allow is None else tuple(row.allow)
    return Recipient(row.organization_id, row.worker_id, str(address), row.answers, allow)


# Whose mail is taken


def default_allow_list(settings: Settings) -> tuple[str, ...]:
    """For organizations that have none of their own."""
    return settings.email_allow or ()


@dataclass(frozen=True, slots=True)
class AllowList:
    """Whose mail an organization takes, and to whom its agents may write."""

    entries: tuple[str, ...]
    is_default: bool  # the server's, because the organization has none of its own

    def wire(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"allow": list(self.entries), "isDefault": self.is_default}


async def allow_list(sql: TenantStatements, settings: Settings) -> AllowList:
    """The list that holds for an organization."""
    stored = await sql.value(
        "SELECT allow FROM email_settings WHERE organization_id = %(organization_id)s"
    )
    if stored is None:
        return AllowList(default_allow_list(settings), is_default=True)
    return AllowList(tuple(stored), is_default=False)


async def set_allow_list(sql: TenantStatements, entries: Sequence[str] | None) -> None:
    """Replace an organization's list; None: the server's holds again. Raises ValueError."""
    if entries is None:
        await sql.run("DELETE FROM email_settings WHERE organization_id = %(organization_id)s")
        return
    await sql.run(
        "INSERT INTO email_settings (organization_id, allow)"
        " VALUES (%(organization_id)s, %(allow)s) ON CONFLICT (organization_id)"
        " DO UPDATE SET allow = excluded.allow, updated_at = now()",
        allow=Jsonb(list(mailbox.parse_allow_list(entries))),
    )
