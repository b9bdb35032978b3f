"""Bytes that nothing names are removed, and no others, whoever stores what meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import obstore
import pytest
from obstore.store import MemoryStore

from handinger import attachments, files, ids, keys, mailbox, settings, workers
from handinger.attachments import Attachment, IncomingFile, attach
from handinger.email import outbox
from handinger.email.outbox import AttachedFile, Draft
from handinger.files import Change
from handinger.ids import OrganizationId, WorkerId
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, TenantStatements, open_database
from handinger.storage.embedded import EmbeddedPostgres
from handinger.turns import accept, cancelling, garbage
from handinger.turns.accept import Instruction, NewTurn

pytestmark = pytest.mark.anyio

HOUR_S = 3600


@dataclass
class World:
    """A worker whose first turn waits, with one attachment, and a store beside it."""

    configured: Settings
    database: Database
    blobs: Blobs
    organization_id: OrganizationId
    worker_id: WorkerId
    attached: tuple[Attachment, ...]

    async def put(self, content: bytes) -> str:
        tenant = self.database.tenant(self.organization_id)
        return (await self.blobs.put(tenant, self.worker_id, content)).sha256

    async def name(self, path: str, sha256: str) -> None:
        async with self.database.tenant(self.organization_id).transaction() as sql:
            change = Change(path, sha256, 1, "text/plain", published=False)
            await files.apply(sql, self.worker_id, [change])

    async def age(self) -> None:
        """Two hours pass."""
        async with self.database.system().statements() as sql:
            await sql.run("UPDATE blobs SET used_at = used_at - interval '2 hours'")

    async def collect(self) -> int:
        return await garbage.collect(self.database, self.blobs, grace_s=HOUR_S)

    async def stored(self) -> set[str]:
        found = await obstore.list(self.blobs.store, prefix=f"{self.worker_id}/").collect_async()
        return {item["path"].rsplit("/", 1)[-1] for item in found}

    async def start(self) -> None:
        """Its turn begins, as far as its files are concerned."""
        async with self.database.tenant(self.organization_id).transaction() as sql:
            delivered = await attachments.deliver(sql, self.worker_id, self.attached)
            assert [file.delivered for file in delivered] == [True]
            await self._set_status(sql, "running")

    async def end(self) -> None:
        """Its turn ends."""
        async with self.database.tenant(self.organization_id).transaction() as sql:
            await self._set_status(sql, "completed")

    async def _set_status(self, sql: TenantStatements, status: str) -> None:
        await sql.run(
            "UPDATE turns SET status = %(status)s WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s",
            status=status,
            worker_id=self.worker_id,
        )

    async def cancel(self) -> None:
        await cancelling.cancel(self.database, self.organization_id, self.worker_id, turn_id=None)


@pytest.fixture
async def world(postgres: EmbeddedPostgres, tmp_path) -> AsyncIterator[World]:
    configured = settings.load(data_dir=tmp_path, database_url=postgres.url, model="demo")
    async with open_database(configured) as database:
        async with database.system().statements() as sql:
            await sql.run("DELETE FROM blobs")
        organization = await keys.first_organization(database)
        blobs = Blobs(MemoryStore())
        worker_id = WorkerId(ids.new("wrk"))
        attached = await attach(
            database,
            blobs,
            configured,
            organization.id,
            worker_id,
            [IncomingFile("a.txt", None, b"attached")],
        )
        turn = NewTurn.of(worker_id, Instruction("x", "low", "api", attached))
        await accept.create_worker(database, configured, organization.id, turn, metadata={})
        yield World(configured, database, blobs, organization.id, worker_id, attached)


async def test_what_nothing_names_goes_and_all_else_stays(world: World):
    orphan, named = await world.put(b"orphan"), await world.put(b"named")
    await world.name("a.txt", named)
    await world.age()
    young = await world.put(b"young")
    assert await world.collect() == 1
    assert orphan not in await world.stored()
    assert await world.stored() == {named, young, world.attached[0].sha256}
    assert await world.collect() == 0


async def test_an_attachment_stays_from_its_acceptance_on(world: World):
    await world.age()
    assert await world.collect() == 0
    await world.start()
    await world.age()
    assert await world.collect() == 0
    assert await world.stored() == {world.attached[0].sha256}


async def test_what_a_turn_published_stays_until_its_answer_is_written(world: World):
    sha256 = await world.put(b"published")
    async with world.database.tenant(world.organization_id).statements() as sql:
        await sql.run(
            "UPDATE turns SET published = jsonb_build_array(jsonb_build_object("
            "'sha256', %(sha256)s::text)) WHERE organization_id = %(organization_id)s",
            sha256=sha256,
        )
    await world.age()
    assert await world.collect() == 0
    assert sha256 in await world.stored()


async def test_the_files_of_a_mail_stay_as_they_went_out(world: World):
    sha256 = await world.put(b"sent")
    sent = AttachedFile("report.txt", sha256, 4, "text/plain")
    async with world.database.tenant(world.organization_id).transaction() as sql:
        turn_id = await sql.value(
            "SELECT id FROM turns WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s",
            worker_id=world.worker_id,
        )
        recipient = mailbox.parse("ada@example.com")
        draft = Draft("sent", recipient, "Hello", "Hello.", attachments=[sent])
        await outbox.put(sql, world.configured, world.worker_id, turn_id, draft)
    await world.age()
    await world.collect()
    assert sha256 in await world.stored()


async def test_an_attachment_of_a_turn_that_never_started_goes(world: World):
    await world.cancel()
    await world.age()
    assert await world.collect() == 1
    assert await world.stored() == set()


async def test_the_bytes_of_a_replaced_or_removed_file_stay_for_a_while(world: World):
    old, new = await world.put(b"old"), await world.put(b"new")
    await world.name("a.txt", old)
    await world.age()
    await world.name("a.txt", new)
    assert await world.collect() == 0
    await world.age()
    assert await world.collect() == 1
    async with world.database.tenant(world.organization_id).transaction() as sql:
        await files.remove(sql, world.worker_id, ["a.txt"])
    assert await world.collect() == 0
    await world.age()
    assert await world.collect() == 1
    assert await world.stored() == {world.attached[0].sha256}
    assert {old, new}.isdisjoint(await world.stored())


class _Halting(Blobs):
    """A store in which removing waits to be told."""

    async def delete(self, worker_id: WorkerId, sha256: str) -> None:
        _removing.set()
        await _go_on.wait()
        await super().delete(worker_id, sha256)


_removing, _go_on = asyncio.Event(), asyncio.Event()


async def test_who_stores_bytes_that_are_being_removed_has_them_afterwards(world: World):
    sha256 = await world.put(b"again")
    await world.age()
    halting = _Halting(world.blobs.store)
    collecting = asyncio.create_task(garbage.collect(world.database, halting, grace_s=HOUR_S))
    async with asyncio.timeout(30):
        await _removing.wait()
        storing = asyncio.create_task(world.put(b"again"))
        # It waits for the note that is being removed; so it cannot store before that is over.
        done, _ = await asyncio.wait({storing}, timeout=0.3)
        assert not done
        _go_on.set()
        assert await collecting == 1
        assert await storing == sha256
    assert sha256 in await world.stored()
    assert await world.collect() == 0


async def test_servers_that_collect_at_once_remove_each_blob_once(world: World):
    for number in range(250):
        await world.put(f"orphan {number}".encode())
    await world.age()
    assert sum(await asyncio.gather(*(world.collect() for _ in range(4)))) == 250
    assert await world.stored() == {world.attached[0].sha256}


class _Dying(Blobs):
    """A store that goes away in the middle of removing a worker."""

    async def delete_worker(self, worker_id: WorkerId) -> None:
        raise OSError("gone")


async def test_a_deletion_that_broke_off_is_finished(world: World):
    await world.start()
    await world.name("b.txt", await world.put(b"b"))
    await world.end()
    dying = _Dying(world.blobs.store)
    with pytest.raises(OSError, match="gone"):
        await workers.delete(world.database, dying, world.organization_id, world.worker_id)
    assert len(await world.stored()) == 2
    assert await world.collect() == 2
    assert await world.stored() == set()


async def test_a_deleted_worker_leaves_no_notes(world: World):
    await world.start()
    await world.end()
    assert await workers.delete(world.database, world.blobs, world.organization_id, world.worker_id)
    assert await world.stored() == set()
    async with world.database.system().statements() as sql:
        assert await sql.value("SELECT count(*) FROM blobs") == 0
