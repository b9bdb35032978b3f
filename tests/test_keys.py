"""Keys and organizations: what is stored of a secret, and what a secret opens."""

import hashlib
import re
from pathlib import Path

import pytest

from handinger import keys
from handinger.errors import ConfigurationError, NotFound, Unauthorized
from handinger.settings import Settings
from handinger.storage.database import Database, open_database

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
async def database(data_dir: Path):
    async with open_database(Settings.model_validate({"data_dir": data_dir})) as database:
        yield database


async def _rows_that_say(database: Database, word: str) -> dict[str, int]:
    """In which tables any row says this word, as text or as bytes."""
    found: dict[str, int] = {}
    async with database.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        for (table,) in await cursor.fetchall():
            counted = await connection.execute(
                f'SELECT count(*) FROM "{table}" AS t'
                " WHERE t::text LIKE %s OR t::text LIKE %s".encode(),
                [f"%{word}%", f"%{word.encode().hex()}%"],
            )
            row = await counted.fetchone()
            assert row is not None
            if row[0]:
                found[table] = row[0]
    return found


def _files_that_say(folder: Path, word: str) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if word.encode() in path.read_bytes()]


async def test_the_secret_is_nowhere_in_the_database(database: Database, data_dir: Path):
    organization = await keys.create_organization(database, "acme")
    key = await keys.create_key(database, organization.id, name="ci")
    await keys.authenticate(database, f"Bearer {key.secret}")
    body = key.secret.removeprefix(keys.PREFIX)
    for part in (key.secret, body, body[:-4], body[:8]):
        assert await _rows_that_say(database, part) == {}
    # That way of looking finds what is there.
    digest = hashlib.sha256(key.secret.encode()).hexdigest()
    assert await _rows_that_say(database, digest) == {"api_keys": 1}
    async with database.pool.connection() as connection:
        await connection.execute("CHECKPOINT")
    assert _files_that_say(data_dir, body) == []


async def test_a_secret_is_shown_once(database: Database):
    organization = await keys.create_organization(database, "acme")
    key = await keys.create_key(database, organization.id, name="ci")
    (listed,) = await keys.list_keys(database, organization.id)
    assert (listed.id, listed.name, listed.revoked_at) == (key.id, "ci", None)
    assert key.secret not in repr(listed)
    assert listed.hint == key.secret[-4:]


async def test_secrets_look_like_keys_and_never_repeat(database: Database):
    organization = await keys.create_organization(database, "acme")
    made = [await keys.create_key(database, organization.id, name="same") for _ in range(10)]
    assert all(re.fullmatch(r"hdg_live_[A-Za-z0-9_-]{32,}", key.secret) for key in made)
    assert len({key.secret for key in made}) == 10
    ids = [key.id for key in made]
    assert all(key_id.startswith("key_") for key_id in ids)
    assert ids == sorted(set(ids))
    assert organization.id.startswith("org_")


async def test_a_key_opens_its_own_organization(database: Database):
    organizations = [await keys.create_organization(database, name) for name in ("a", "b")]
    for organization in organizations:
        key = await keys.create_key(database, organization.id, name="x")
        caller = await keys.authenticate(database, f"Bearer {key.secret}")
        assert (caller.organization_id, caller.key_id) == (organization.id, key.id)


async def test_a_revoked_key_opens_nothing_any_more(database: Database):
    organization = await keys.create_organization(database, "acme")
    key = await keys.create_key(database, organization.id, name="ci")
    left = await keys.create_key(database, organization.id, name="left")
    revoked = await keys.revoke_key(database, organization.id, key.id)
    assert revoked.revoked_at is not None
    with pytest.raises(Unauthorized):
        await keys.authenticate(database, f"Bearer {key.secret}")
    await keys.authenticate(database, f"Bearer {left.secret}")
    # It stays listed, and revoking it again changes nothing.
    again = await keys.revoke_key(database, organization.id, key.id)
    assert again == revoked
    assert [k.revoked_at is None for k in await keys.list_keys(database, organization.id)] == [
        False,
        True,
    ]


async def test_a_key_of_another_organization_cannot_be_revoked_or_listed(database: Database):
    mine = await keys.create_organization(database, "mine")
    yours = await keys.create_organization(database, "yours")
    key = await keys.create_key(database, yours.id, name="yours")
    with pytest.raises(NotFound):
        await keys.revoke_key(database, mine.id, key.id)
    with pytest.raises(NotFound):
        await keys.revoke_key(database, mine.id, "key_unknown")
    assert await keys.list_keys(database, mine.id) == []
    await keys.authenticate(database, f"Bearer {key.secret}")


async def test_the_configured_key_exists_after_each_start_unless_it_was_revoked(
    database: Database,
):
    secret = keys.PREFIX + "configured" * 4
    for _ in range(2):
        await keys.ensure_bootstrap_key(database, secret)
    organization = await keys.first_organization(database)
    caller = await keys.authenticate(database, f"Bearer {secret}")
    assert caller.organization_id == organization.id
    (key,) = [k for k in await keys.list_keys(database, organization.id) if k.name == "bootstrap"]
    await keys.revoke_key(database, organization.id, key.id)
    await keys.ensure_bootstrap_key(database, secret)
    with pytest.raises(Unauthorized):
        await keys.authenticate(database, f"Bearer {secret}")


@pytest.mark.parametrize("secret", ["", "short", "hdg_live_short", "sk-" + "x" * 40])
async def test_a_configured_key_that_is_none_is_refused(database: Database, secret: str):
    with pytest.raises(ConfigurationError, match="HANDINGER_BOOTSTRAP_API_KEY"):
        await keys.ensure_bootstrap_key(database, secret)


async def test_the_first_organization_is_made_once(database: Database):
    first = await keys.first_organization(database)
    assert await keys.first_organization(database) == first
    assert (await keys.list_organizations(database))[0] == first
