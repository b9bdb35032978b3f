"""An organization with schedules, real jobs in a real queue, and a clock that the tests set."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from handinger import engine, ids
from handinger.engine import Engine
from handinger.ids import OrganizationId, ScheduleId, WorkerId
from handinger.schedules import changing, records
from handinger.schedules.changing import ALARM, FIRE_SCHEDULES, Change, NewSchedule
from handinger.schedules.firing import Alarm
from handinger.schedules.when import When
from handinger.settings import Settings
from handinger.storage.database import Database, Statements
from handinger.turns import accept
from handinger.turns.accept import RUN_WORKER, Instruction, NewTurn

# Far ahead of the real clock, so that the queue itself never finds anything due.
START = datetime(2041, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class World:
    """One organization, a clock, and an engine whose turns end as soon as they may."""

    database: Database
    organization_id: OrganizationId
    settings: Settings = field(default_factory=Settings)
    now: datetime = START
    # Until then the clock goes on by itself, from one time at which something is due to the next.
    until: datetime | None = None
    # Turns of these workers do not end.
    held: set[WorkerId] = field(default_factory=set[WorkerId])

    async def clock(self, sql: Statements) -> datetime:
        if self.until is not None:
            cursor = await sql.connection.execute("SELECT min(wake_at) FROM schedules")
            (due,) = await cursor.fetchone() or (None,)
            if due is not None and self.now < due < self.until:
                await self._let_turns_end()
                self.now = due
        return self.now

    async def let_pass(self, span: timedelta) -> None:
        """Let time pass, and whatever is due in it be fired just then."""
        self.until = self.now + span
        await self.at(self.now, patience_s=800)
        self.now, self.until = self.until, None

    async def _let_turns_end(self) -> None:
        async with self.database.system().statements() as sql:
            while await sql.value(  # noqa: ASYNC110 # The database tells no event.
                "SELECT EXISTS (SELECT 1 FROM turns WHERE status <> 'completed')"
            ):
                await asyncio.sleep(0.001)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Engine]:
        async def no_sweep() -> None: ...

        one = Engine(
            database=self.database,
            handlers={
                FIRE_SCHEDULES: Alarm(self.database, self.settings, self.clock).go_off,
                RUN_WORKER: self.end_turns,
            },
            concurrency=4,
            sweep=no_sweep,
        )
        async with one.running(grace_s=5, rescue_all=False):
            yield one

    async def end_turns(self, lock: str) -> None:
        if lock not in self.held:
            async with self.database.system().transaction() as sql:
                # As a claim does, so that a turn that is just being accepted is not missed.
                await sql.run("SELECT 1 FROM workers WHERE id = %(id)s FOR NO KEY UPDATE", id=lock)
                await sql.run(
                    "UPDATE turns SET status = 'completed', ended_at = now()"
                    " WHERE worker_id = %(id)s AND status <> 'completed'",
                    id=lock,
                )

    async def worker(self) -> WorkerId:
        """A worker without an unended turn."""
        worker_id = WorkerId(ids.new("wrk"))
        turn = NewTurn.of(worker_id, Instruction("Begin.", "standard", "api"))
        await accept.create_worker(
            self.database, self.settings, self.organization_id, turn, metadata={}
        )
        await self.end_turns(worker_id)
        return worker_id

    async def schedule(self, worker_id: WorkerId, **when: Any) -> ScheduleId:
        new = NewSchedule(worker_id, "Tick.", "low", when_of(when), created_by="api")
        schedule_id, _ = await changing.create(
            self.database, self.settings, self.clock, self.organization_id, new
        )
        return schedule_id

    async def change(self, worker_id: WorkerId, schedule_id: ScheduleId, **fields: Any) -> Any:
        return await changing.change(
            self.database,
            self.clock,
            self.organization_id,
            worker_id,
            schedule_id,
            Change(**fields),
        )

    async def view(self, worker_id: WorkerId, schedule_id: ScheduleId) -> dict[str, Any]:
        return await records.view(
            self.database, self.clock, self.organization_id, worker_id, schedule_id
        )

    async def listed(self, worker_id: WorkerId) -> list[dict[str, Any]]:
        return await records.pending(self.database, self.clock, self.organization_id, worker_id)

    async def firings(self, worker_id: WorkerId, schedule_id: ScheduleId) -> list[Any]:
        """Oldest first: when it was due, and what came of it."""
        found = (await self.view(worker_id, schedule_id))["firings"]
        return [
            (datetime.fromisoformat(one["dueAt"]), one["skipped"] and one["skipped"]["reason"])
            for one in reversed(found)
        ]

    async def at(self, moment: datetime, *, patience_s: float = 60) -> None:
        """Set the clock, wake the alarm, and wait until it has fired what is due and ended."""
        self.now = moment
        async with self.database.system().transaction() as sql:
            # A new job is told to the servers; one that is brought forward waits for their poll.
            await engine.drop_waiting(sql.connection, lock=ALARM)
            await engine.enqueue(
                sql.connection, FIRE_SCHEDULES, lock=ALARM, queue=engine.SHORT_QUEUE
            )
        async with asyncio.timeout(patience_s):
            while await self._unrest():  # noqa: ASYNC110 # The database tells no event.
                await asyncio.sleep(0.002)

    async def _unrest(self) -> bool:
        async with self.database.system().statements() as sql:
            return await sql.value(
                "SELECT EXISTS (SELECT 1 FROM procrastinate_jobs WHERE status = 'doing'"
                " OR status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now()))"
            )

    async def turns(self, worker_id: WorkerId) -> list[str]:
        """What its turns were started by, but for the first."""
        async with self.database.tenant(self.organization_id).statements() as sql:
            rows = await sql.all(
                _Source,
                "SELECT source FROM turns WHERE organization_id = %(organization_id)s"
                " AND worker_id = %(id)s ORDER BY position OFFSET 1",
                id=worker_id,
            )
        return [row.source for row in rows]


@dataclass(frozen=True, slots=True)
class _Source:
    source: str


def when_of(fields: dict[str, Any]) -> When:
    return TypeAdapter[When](When).validate_python(fields)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)
