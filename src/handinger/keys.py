"""Organizations and their API keys. A secret is shown once; only its hash is stored."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from handinger import ids
from handinger.errors import ConfigurationError, NotFound, Unauthorized
from handinger.ids import KeyId, OrganizationId
from handinger.storage.database import Database, Statements

PREFIX = "hdg_live_"
_SECRET = re.compile(r"hdg_live_[A-Za-z0-9_-]{32,200}")


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant; everything belongs to exactly one."""

    id: OrganizationId
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it may be shown at any time."""

    id: KeyId
    name: str
    hint: str  # the last characters of the secret
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """An API key at the only moment at which its secret is known."""

    id: KeyId
    name: str
    secret: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, as its key says."""

    organization_id: OrganizationId
    key_id: KeyId


async def create_organization(database: Database, name: str) -> Organization:
    """A new, empty organization."""
    async with database.system().statements() as sql:
        return await _insert_organization(sql, name)


async def list_organizations(database: Database) -> list[Organization]:
    """Every organization, oldest first."""
    async with database.system().statements() as sql:
        return await sql.all(
            Organization, "SELECT id, name, created_at FROM organizations ORDER BY created_at, id"
        )


async def first_organization(database: Database) -> Organization:
    """The oldest organization; made, once, where there is none."""
    async with database.system().transaction() as sql:
        # Two processes that start at once must not both find none.
        await sql.run("LOCK TABLE organizations IN SHARE ROW EXCLUSIVE MODE")
        found = await sql.first(
            Organization,
            "SELECT id, name, created_at FROM organizations ORDER BY created_at, id LIMIT 1",
        )
        return found or await _insert_organization(sql, "default")


async def _insert_organization(sql: Statements, name: str) -> Organization:
    made = await sql.first(
        Organization,
        "INSERT INTO organizations (id, name) VALUES (%(id)s, %(name)s)"
        " RETURNING id, name, created_at",
        id=ids.new("org"),
        name=name,
    )
    assert made is not None
    return made


async def create_key(
    database: Database, organization_id: OrganizationId, *, name: str
) -> CreatedKey:
    """A new key; its secret cannot be read again."""
    secret = PREFIX + secrets.token_urlsafe(32)
    key_id = await _insert_key(database, organization_id, name=name, secret=secret)
    return CreatedKey(id=key_id, name=name, secret=secret)


async def list_keys(database: Database, organization_id: OrganizationId) -> list[Key]:
    """The organization's keys, revoked ones too, oldest first."""
    async with database.tenant(organization_id).statements() as sql:
        return await sql.all(
            Key,
            "SELECT id, name, hint, created_at, revoked_at FROM api_keys"
            " WHERE organization_id = %(organization_id)s ORDER BY created_at, id",
        )


async def revoke_key(database: Database, organization_id: OrganizationId, key_id: str) -> Key:
    """From now on this key opens nothing. Revoking it again changes nothing.

    Raises NotFound.
    """
    async with database.tenant(organization_id).statements() as sql:
        key = await sql.first(
            Key,
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())"
            " WHERE organization_id = %(organization_id)s AND id = %(id)s"
            " RETURNING id, name, hint, created_at, revoked_at",
            id=key_id,
        )
    if key is None:
        raise NotFound(f"There is no key {key_id} in this organization; see `handinger keys list`.")
    return key


async def ensure_bootstrap_key(database: Database, secret: str) -> None:
    """Make sure that the configured key exists, in the first organization; a revoked one stays so.

    Raises ConfigurationError if it does not look like a key.
    """
    if _SECRET.fullmatch(secret) is None:
        raise ConfigurationError(
            "HANDINGER_BOOTSTRAP_API_KEY must be hdg_live_ and at least 32 URL-safe characters."
        )
    organization = await first_organization(database)
    await _insert_key(database, organization.id, name="bootstrap", secret=secret)


async def _insert_key(
    database: Database, organization_id: OrganizationId, *, name: str, secret: str
) -> KeyId:
    key_id = KeyId(ids.new("key"))
    async with database.tenant(organization_id).statements() as sql:
        await sql.run(
            "INSERT INTO api_keys (id, organization_id, name, secret_hash, hint)"
            " VALUES (%(id)s, %(organization_id)s, %(name)s, %(hash)s, %(hint)s)"
            " ON CONFLICT (secret_hash) DO NOTHING",
            id=key_id,
            name=name,
            hash=_hash(secret),
            hint=secret[-4:],
        )
    return key_id


async def authenticate(database: Database, authorization: str | None) -> Caller:
    """Whose request this is. Reads the database each time, so that a revoked key ends at once.

    Raises Unauthorized.
    """
    if not authorization:
        raise Unauthorized("Send your API key as `Authorization: Bearer hdg_live_...`.")
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not _SECRET.fullmatch(secret):
        raise Unauthorized(
            "The Authorization header must be `Bearer` and a whole API key: hdg_live_ and 32 or"
            " more letters, digits, - and _."
        )
    async with database.system().statements() as sql:
        caller = await sql.first(
            Caller,
            "SELECT organization_id, id AS key_id FROM api_keys"
            " WHERE secret_hash = %(hash)s AND revoked_at IS NULL",
            hash=_hash(secret),
        )
    if caller is None:
        raise Unauthorized("This API key is unknown or was revoked.")
    return caller


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
