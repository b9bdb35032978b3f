"""What keeps the queue honest: how full it is, lost jobs, answered requests, unused bytes."""

from dataclasses import dataclass

from handinger import engine
from handinger.ids import OrganizationId, WorkerId
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database
from handinger.turns import garbage
from handinger.turns.accept import RUN_WORKER

# In rounds of the engine's rescue, one every two seconds.
_REQUEUE_EVERY = 2
_FORGET_EVERY = 1800
_COLLECT_AT_LEAST_EVERY = 300


@dataclass(slots=True)
class Housekeeping:
    """Done by every server process; doing it twice does no harm."""

    database: Database
    blobs: Blobs
    max_queued_turns: int
    blob_grace_s: float
    waiting: int = 0  # turns, as of the last round; counted no further than the queue may hold
    _round: int = 0

    async def sweep(self) -> None:
        """One round."""
        await self._measure_queue()
        if self._round % _REQUEUE_EVERY == 0:
            await requeue_orphans(self.database)
        if self._round % _FORGET_EVERY == 0:
            await forget_old_requests(self.database)
        if self._round % self._collect_every == 0:
            await garbage.collect(self.database, self.blobs, grace_s=self.blob_grace_s)
        self._round += 1

    @property
    def queue_is_full(self) -> bool:
        """Whether nothing more may be accepted now."""
        return self.waiting >= self.max_queued_turns

    @property
    def _collect_every(self) -> int:
        return max(1, min(_COLLECT_AT_LEAST_EVERY, int(self.blob_grace_s / 10)))

    async def _measure_queue(self) -> None:
        async with self.database.system().statements() as sql:
            self.waiting = await sql.value(
                "SELECT count(*) FROM (SELECT 1 FROM turns WHERE status = 'pending'"
                " LIMIT %(limit)s) AS waiting",
                limit=self.max_queued_turns,
            )


async def forget_old_requests(database: Database) -> None:
    """Remove what no retry can join any more."""
    async with database.system().statements() as sql:
        await sql.run("DELETE FROM requests WHERE created_at <= now() - interval '24 hours'")


async def requeue_orphans(database: Database) -> None:
    """Enqueue every worker that has turns and no job, whatever lost it."""
    async with database.system().statements() as sql:
        orphans = await sql.all(
            _Orphan,
            "SELECT DISTINCT t.worker_id, t.organization_id FROM turns t"
            " WHERE t.status <> 'completed' AND NOT EXISTS"
            " (SELECT 1 FROM procrastinate_jobs j WHERE j.lock = t.worker_id"
            " AND j.status IN ('todo', 'doing')) LIMIT 1000",
        )
    for orphan in orphans:
        async with database.system().transaction() as sql:
            await engine.enqueue(
                sql.connection, RUN_WORKER, lock=orphan.worker_id, queue=orphan.organization_id
            )


@dataclass(frozen=True, slots=True)
class _Orphan:
    worker_id: WorkerId
    organization_id: OrganizationId
