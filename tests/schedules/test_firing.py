"""What fires and what does not, with real jobs in a real queue and a clock that the tests set."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from croniter import croniter
from obstore.store import MemoryStore

from handinger import engine, ids, keys, workers
from handinger.budgets import accounts
from handinger.engine import Engine
from handinger.errors import NotFound, TooManySchedules
from handinger.ids import OrganizationId, ScheduleId, WorkerId
from handinger.schedules import changing, records
from handinger.schedules import when as timing
from handinger.schedules.changing import ALARM, FIRE_SCHEDULES, Change, NewSchedule
from handinger.schedules.firing import Alarm
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, Statements, open_database
from handinger.storage.embedded import EmbeddedPostgres
from handinger.turns import accept
from handinger.turns.accept import RUN_WORKER, Instruction, NewTurn

pytestmark = pytest.mark.anyio

# Far ahead of the real clock, so that the queue itself never finds anything due.
START = datetime(2041, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Database]:
    data_dir: Path = tmp_path_factory.mktemp("schedules")
    postgres = EmbeddedPostgres.join(data_dir)
    settings = Settings.model_validate({"data_dir": data_dir, "database_url": postgres.url})
    async with open_database(settings) as database:
        yield database
    postgres.leave()


@dataclass
class World:
    """One organization, a clock, and an engine whose turns end as soon as they may."""

    database: Database
    organization_id: OrganizationId
    settings: Settings = field(default_factory=Settings)
    now: datetime = START
    # Turns of these workers do not end.
    held: set[WorkerId] = field(default_factory=set[WorkerId])

    async def clock(self, sql: Statements) -> datetime:
        return self.now

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Engine]:
        async def no_sweep() -> None: ...

        one = Engine(
            database=self.database,
            handlers={
                FIRE_SCHEDULES: Alarm(self.database, self.settings, self.clock).go_off,
                RUN_WORKER: self._end_turns,
            },
            concurrency=4,
            sweep=no_sweep,
        )
        async with one.running(grace_s=5, rescue_all=False):
            yield one

    async def _end_turns(self, lock: str) -> None:
        if lock not in self.held:
            async with self.database.system().transaction() as sql:
                # As a claim does, so that a turn that is just being accepted is not missed.
                await sql.run("SELECT 1 FROM workers WHERE id = %(id)s FOR NO KEY UPDATE", id=lock)
                await sql.run(
                    "UPDATE turns SET status = 'completed', ended_at = now()"
                    " WHERE worker_id = %(id)s",
                    id=lock,
                )

    async def worker(self) -> WorkerId:
        """A worker without an unended turn."""
        worker_id = WorkerId(ids.new("wrk"))
        turn = NewTurn.of(worker_id, Instruction("Begin.", "standard", "api"))
        await accept.create_worker(
            self.database, self.settings, self.organization_id, turn, metadata={}
        )
        await self._end_turns(worker_id)
        return worker_id

    async def schedule(self, worker_id: WorkerId, **when: Any) -> ScheduleId:
        new = NewSchedule(worker_id, "Tick.", "low", timing.parse(when), created_by="api")
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

    async def firings(self, worker_id: WorkerId, schedule_id: ScheduleId) -> list[Any]:
        """Oldest first: when it was due, and what came of it."""
        found = (await self.view(worker_id, schedule_id))["firings"]
        return [
            (datetime.fromisoformat(one["dueAt"]), one["skipped"] and one["skipped"]["reason"])
            for one in reversed(found)
        ]

    async def at(self, moment: datetime) -> None:
        """Set the clock, wake the alarm, and wait until it has fired what is due and ended."""
        self.now = moment
        async with self.database.system().transaction() as sql:
            # A new job is told to the servers; one that is brought forward waits for their poll.
            await engine.drop_waiting(sql.connection, lock=ALARM)
            await engine.enqueue(
                sql.connection, FIRE_SCHEDULES, lock=ALARM, queue=engine.SHORT_QUEUE
            )
        async with asyncio.timeout(60):
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


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    organization = await keys.create_organization(database, "test")
    yield World(database, organization.id)
    async with database.system().statements() as sql:
        await sql.run("DELETE FROM schedules")
        await sql.run("DELETE FROM procrastinate_jobs")


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


async def test_an_interval_does_not_drift_however_late_it_is_fired(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.running():
        for count in range(1, 4):
            await world.at(START + minutes(count + 0.4))
    assert await world.firings(worker_id, schedule_id) == [
        (START + minutes(count), None) for count in range(1, 4)
    ]
    assert (await world.view(worker_id, schedule_id))["nextRunAt"] == workers.iso(
        START + minutes(4)
    )


async def test_after_an_hour_without_a_server_an_interval_of_a_minute_fires_once(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.running():
        await world.at(START + minutes(60))
        await world.at(START + minutes(60.5))
    assert await world.turns(worker_id) == ["schedule"]
    details = await world.view(worker_id, schedule_id)
    missed, fired = details["firings"]
    assert (fired["dueAt"], fired["skipped"]) == (workers.iso(START + minutes(1)), None)
    assert missed["dueAt"] == workers.iso(START + minutes(2))
    assert (missed["skipped"]["reason"], missed["skipped"]["times"]) == ("missed", 59)
    assert details["nextRunAt"] == workers.iso(START + minutes(61))


async def test_one_that_fires_once_fires_late_rather_than_never(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    async with world.running():
        await world.at(START + minutes(500))
        await world.at(START + minutes(501))
    assert await world.turns(worker_id) == ["schedule"]
    assert await world.firings(worker_id, schedule_id) == [(START + minutes(1), None)]


async def test_nothing_fires_again_when_the_clock_is_set_back(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.running():
        for moment in (1, 2, -30, 0, 1, 2, 2.5, 3):
            await world.at(START + minutes(moment))
    due = [START + minutes(count) for count in (1, 2, 3)]
    assert await world.firings(worker_id, schedule_id) == [(one, None) for one in due]


async def test_a_firing_is_skipped_while_the_turn_before_has_not_ended(world: World):
    worker_id = await world.worker()
    world.held.add(worker_id)
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.running():
        await world.at(START + minutes(1))
        await world.at(START + minutes(2))
        await world._end_turns(worker_id)
        world.held.clear()
        await world._end_turns(worker_id)
        await world.at(START + minutes(3))
    assert [why for _, why in await world.firings(worker_id, schedule_id)] == [
        None,
        "previous_turn_unfinished",
        None,
    ]


async def test_for_a_full_queue_a_recurring_one_skips_and_one_that_fires_once_waits(world: World):
    worker_id = await world.worker()
    world.held.add(worker_id)
    for _ in range(world.settings.max_waiting_turns_per_worker):
        turn = NewTurn.of(worker_id, Instruction("Wait.", "standard", "api"))
        await accept.continue_worker(world.database, world.settings, world.organization_id, turn)
    recurring = await world.schedule(worker_id, type="cron", cron="* * * * *")
    once = await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    async with world.running():
        await world.at(START + minutes(1))
        await world.at(START + minutes(2))
        full = [(START + minutes(1), "queue_full")]
        assert (await world.firings(worker_id, recurring))[:1] == full
        assert await world.firings(worker_id, once) == full
        world.held.clear()
        async with world.database.system().transaction() as sql:
            await engine.enqueue(sql.connection, RUN_WORKER, lock=worker_id)
        await world.at(START + minutes(10))
    assert await world.firings(worker_id, once) == [*full, (START + minutes(1), None)]
    assert (await world.firings(worker_id, recurring))[-2:] == [
        (START + minutes(3), None),
        (START + minutes(4), "missed"),
    ]
    assert (await world.turns(worker_id)).count("schedule") == 2


async def test_without_credits_a_recurring_one_skips_and_one_that_fires_once_waits(world: World):
    worker_id = await world.worker()
    await accounts.grant(world.database, world.organization_id, credits=-1)
    recurring = await world.schedule(worker_id, type="cron", cron="* * * * *")
    once = await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    async with world.running():
        await world.at(START + minutes(1))
        await world.at(START + minutes(2))
        broke = [(START + minutes(1), "out_of_credits")]
        assert await world.firings(worker_id, once) == broke
        assert await world.firings(worker_id, recurring) == [
            *broke,
            (START + minutes(2), "out_of_credits"),
        ]
        assert await world.turns(worker_id) == []
        await accounts.grant(world.database, world.organization_id, credits=2)
        await world.at(START + minutes(13))
    assert await world.firings(worker_id, once) == [*broke, (START + minutes(1), None)]
    assert await world.turns(worker_id) == ["schedule"] * 2


async def test_beyond_the_cap_of_a_month_nothing_fires(world: World):
    worker_id = await world.worker()
    await accounts.cap_month(world.database, world.organization_id, 0)
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.running():
        await world.at(START + minutes(1))
    details = await world.view(worker_id, schedule_id)
    assert details["firings"][0]["skipped"] == {
        "reason": "monthly_cap_reached",
        "message": "The organization had reached its cap for the month.",
        "times": 1,
    }


async def test_a_paused_one_keeps_its_date_and_lets_pass_what_comes_due(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    paused = await world.change(worker_id, schedule_id, paused=True)
    assert (paused["paused"], paused["nextRunAt"]) == (True, workers.iso(START + minutes(1)))
    async with world.running():
        await world.at(START + minutes(3.5))
        assert (await world.view(worker_id, schedule_id))["nextRunAt"] == workers.iso(
            START + minutes(4)
        )
        resumed = await world.change(worker_id, schedule_id, paused=False)
        assert resumed["nextRunAt"] == workers.iso(START + minutes(4))
        await world.at(START + minutes(4))
    details = await world.view(worker_id, schedule_id)
    fired, passed = details["firings"]
    assert (passed["dueAt"], passed["skipped"]["reason"], passed["skipped"]["times"]) == (
        workers.iso(START + minutes(1)),
        "paused",
        3,
    )
    assert fired["dueAt"] == workers.iso(START + minutes(4))
    assert await world.turns(worker_id) == ["schedule"]


async def test_one_that_fires_once_and_is_resumed_too_late_fires_then(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    await world.change(worker_id, schedule_id, paused=True)
    async with world.running():
        await world.at(START + minutes(5))
        assert await world.turns(worker_id) == []
        await world.change(worker_id, schedule_id, paused=False)
        await world.at(START + minutes(5))
    assert await world.turns(worker_id) == ["schedule"]


async def test_a_change_of_when_counts_anew_and_the_rest_stays(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=3600)
    world.now = START + minutes(10)
    when = timing.parse({"type": "interval", "intervalSeconds": 300})
    changed = await world.change(worker_id, schedule_id, when=when)
    assert changed["nextRunAt"] == workers.iso(START + minutes(15))
    world.now = START + minutes(11)
    changed = await world.change(worker_id, schedule_id, input="Tock.", budget="high")
    assert changed["nextRunAt"] == workers.iso(START + minutes(15))
    assert (changed["input"], changed["budget"]) == ("Tock.", "high")
    async with world.running():
        await world.at(START + minutes(15))
    assert await world.turns(worker_id) == ["schedule"]


async def test_a_cancelled_one_and_one_of_a_deleted_worker_never_fire(world: World):
    worker_id, other = await world.worker(), await world.worker()
    schedule_id = await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    await world.schedule(other, type="delayed", delayInSeconds=60)
    await changing.cancel(
        world.database, world.clock, world.organization_id, worker_id, schedule_id
    )
    async with world.database.system().statements() as sql:
        await sql.run("DELETE FROM workers WHERE id = %(id)s", id=other)
    async with world.running():
        await world.at(START + minutes(2))
    assert await world.turns(worker_id) == []
    with pytest.raises(NotFound):
        await world.view(worker_id, schedule_id)
    with pytest.raises(NotFound):
        await world.change(worker_id, schedule_id, paused=True)


@pytest.mark.parametrize("kept", [5, pytest.param(50, marks=pytest.mark.slow)])
async def test_the_last_firings_are_kept(world: World, monkeypatch: pytest.MonkeyPatch, kept: int):
    assert records.KEPT_FIRINGS == 50
    monkeypatch.setattr(records, "KEPT_FIRINGS", kept)
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.running():
        for count in range(1, kept + 6):
            await world.at(START + minutes(count))
    assert await world.firings(worker_id, schedule_id) == [
        (START + minutes(count), None) for count in range(6, kept + 6)
    ]
    async with world.database.system().statements() as sql:
        stored = await sql.value(
            "SELECT count(*) FROM firings WHERE schedule_id = %(id)s", id=schedule_id
        )
    assert stored == kept


async def test_one_that_cannot_be_fired_holds_up_no_other(world: World):
    worker_id = await world.worker()
    broken = await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    sound = await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    async with world.database.system().statements() as sql:
        await sql.run("UPDATE schedules SET timing = '{}' WHERE id = %(id)s", id=broken)
    async with world.running():
        await world.at(START + minutes(1))
        assert await world.firings(worker_id, sound) == [(START + minutes(1), None)]
        await world.at(START + minutes(2))  # It fails again, which is told once.
        async with world.database.system().statements() as sql:
            await sql.run(
                "UPDATE schedules SET timing = (SELECT timing FROM schedules WHERE id = %(sound)s)"
                " WHERE id = %(id)s",
                id=broken,
                sound=sound,
            )
        await world.at(START + minutes(3.1))
    assert await world.firings(worker_id, broken) == [
        (START + minutes(1), "internal_error"),
        (START + minutes(1), None),
    ]
    assert len(await world.turns(worker_id)) == 2


@pytest.mark.parametrize("first", ["change", "firing"])
async def test_a_change_and_a_firing_at_the_same_time_are_one_after_the_other(
    world: World, first: str
):
    """Whoever comes second sees what the first has made of it: no turn of a paused one."""
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.running():
        if first == "change":
            async with world.database.tenant(world.organization_id).transaction() as sql:
                await sql.run(
                    "UPDATE schedules SET status = 'paused', wake_at = NULL"
                    " WHERE organization_id = %(organization_id)s AND id = %(id)s",
                    id=schedule_id,
                )
                firing = asyncio.create_task(world.at(START + minutes(1)))
                await asyncio.sleep(0.2)  # It waits for the row, or has not found it.
            await firing
            assert await world.turns(worker_id) == []
        else:
            await world.at(START + minutes(1))
            await world.change(worker_id, schedule_id, paused=True)
            await world.at(START + minutes(2))
            assert await world.turns(worker_id) == ["schedule"]
        await world.change(worker_id, schedule_id, paused=False)
        await world.at(START + minutes(3))
    fired = [due for due, skipped in await world.firings(worker_id, schedule_id) if not skipped]
    assert fired
    assert len(fired) == len(set(fired)) == len(await world.turns(worker_id))


async def test_changes_while_it_fires_again_and_again_lose_no_firing_and_double_none(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)

    async def change_it() -> None:
        for number in range(30):
            await world.change(worker_id, schedule_id, input=f"Tick {number}.")

    async with world.running():
        for minute in range(1, 6):
            await asyncio.gather(change_it(), world.at(START + minutes(minute)))
    assert await world.firings(worker_id, schedule_id) == [
        (START + minutes(minute), None) for minute in range(1, 6)
    ]
    assert len(await world.turns(worker_id)) == 5


async def test_a_worker_deleted_while_its_schedule_fires_leaves_nothing(world: World):
    blobs = Blobs(MemoryStore())
    deleted = [await world.worker() for _ in range(5)]
    kept = await world.worker()
    for worker_id in (*deleted, kept):
        await world.schedule(worker_id, type="interval", intervalSeconds=60)

    async def delete_all() -> None:
        for worker_id in deleted:
            # Not while a turn of it runs.
            while not await workers.delete(  # noqa: ASYNC110 # The database tells no event.
                world.database, blobs, world.organization_id, worker_id
            ):
                await asyncio.sleep(0.01)

    async with world.running():
        await asyncio.gather(delete_all(), world.at(START + minutes(1)))
        await world.at(START + minutes(2))
    async with world.database.system().statements() as sql:
        left = await sql.value(
            "SELECT count(*) FROM schedules WHERE worker_id = ANY(%(ids)s)", ids=deleted
        )
    assert left == 0
    assert await world.turns(kept) == ["schedule", "schedule"]


async def test_a_clock_that_jumps_far_ahead_and_back_fires_once(world: World):
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.running():
        await world.at(START + timedelta(days=365))
        assert await world.turns(worker_id) == ["schedule"]
        for minute in range(1, 4):  # Back again: these have been counted as missed.
            await world.at(START + minutes(minute))
        assert await world.turns(worker_id) == ["schedule"]
    view = await world.view(worker_id, schedule_id)
    assert view["nextRunAt"] == "2042-03-01T12:01:00.000Z"


async def test_an_alarm_whose_job_was_lost_is_set_again(world: World):
    worker_id = await world.worker()
    await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    async with world.database.system().statements() as sql:
        await sql.run("DELETE FROM procrastinate_jobs")
    alarm = Alarm(world.database, world.settings, world.clock)
    await alarm.keep_set()
    assert await _alarms(world) == []
    world.now = START + minutes(2)
    await alarm.keep_set()
    assert await _alarms(world) == [START + minutes(1)]


async def _alarms(world: World) -> list[datetime]:
    async with world.database.system().statements() as sql:
        rows = await sql.all(
            _Alarm,
            "SELECT scheduled_at FROM procrastinate_jobs WHERE status = 'todo'"
            " AND queueing_lock = 'schedules'",
        )
    return [row.scheduled_at for row in rows]


@dataclass(frozen=True, slots=True)
class _Alarm:
    scheduled_at: datetime


async def test_no_more_than_may_have_something_to_do_yet_also_when_made_at_once(world: World):
    world.settings = Settings(max_schedules_per_worker=10)
    worker_id = await world.worker()
    made = await asyncio.gather(
        *(world.schedule(worker_id, type="delayed", delayInSeconds=60) for _ in range(15)),
        return_exceptions=True,
    )
    refused = [one for one in made if isinstance(one, BaseException)]
    assert len(refused) == 5
    assert all(isinstance(one, TooManySchedules) for one in refused)


async def test_two_servers_fire_each_once(world: World):
    worker_ids = [await world.worker() for _ in range(10)]
    schedules = [
        (one, await world.schedule(one, type="interval", intervalSeconds=60)) for one in worker_ids
    ]
    async with world.running(), world.running():
        for count in range(1, 4):
            await world.at(START + minutes(count))
    for one in schedules:
        assert await world.firings(*one) == [(START + minutes(n), None) for n in range(1, 4)]
        assert await world.turns(one[0]) == ["schedule"] * 3


# With real jobs: through a year for those that fire rarely, else through the first firings.
FEW = ["@monthly", "15 14 1 */2 *"]
REAL = [*FEW, "0 9 1 * *", "0 12 13 * FRI", "0 0 1,15 * 3", "30 6 29 2 *"]


@pytest.mark.parametrize(
    "expressions", [FEW, pytest.param(REAL, marks=pytest.mark.slow)], ids=["few", "all"]
)
async def test_a_year_of_firings_is_as_an_independent_library_has_it(
    world: World, expressions: list[str]
):
    made = [(await world.worker(), expression) for expression in expressions]
    schedules = {
        expression: (worker_id, await world.schedule(worker_id, type="cron", cron=expression))
        for worker_id, expression in made
    }
    end = START + timedelta(days=366)
    expected = {expression: _by_croniter(expression, end) for expression in expressions}
    async with world.running():
        for moment in sorted({moment for times in expected.values() for moment in times}):
            await world.at(moment)
    for expression, schedule in schedules.items():
        fired = [due for due, skipped in await world.firings(*schedule) if skipped is None]
        assert fired == expected[expression][-50:]
        assert len(await world.turns(schedule[0])) == len(expected[expression])


def _by_croniter(expression: str, end: datetime) -> Sequence[datetime]:
    other = croniter(expression, START, implement_cron_bug=True)
    times: list[datetime] = []
    while (moment := other.get_next(datetime)) < end:
        times.append(moment)
    return times


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
async def test_all_that_are_due_in_the_same_minute_fire_once(
    world: World, count: int, record_property
):
    worker_ids = [await world.worker() for _ in range(max(3, count // 100))]
    async with world.database.system().statements() as sql:
        await sql.run(
            "INSERT INTO schedules (id, organization_id, worker_id, created_by, status, input,"
            " budget, timing, anchored_at, next_run_at, wake_at) SELECT 'sch_' || n, %(org)s,"
            " (%(workers)s::text[])[1 + n %% cardinality(%(workers)s::text[])], 'api', 'active',"
            " 'Tick.', 'low', '{\"type\": \"delayed\", \"delayInSeconds\": 60}', %(start)s,"
            " %(start)s + n %% 60 * interval '1 second', %(start)s + n %% 60 * interval '1 second'"
            " FROM generate_series(1, %(count)s) n",
            org=world.organization_id,
            workers=worker_ids,
            start=START,
            count=count,
        )
    world.settings = Settings(max_waiting_turns_per_worker=count)
    began = asyncio.get_running_loop().time()
    async with world.running():
        world.now = START + minutes(1)
        async with world.database.system().transaction() as sql:
            await changing.set_alarm(sql, datetime.now(UTC))
        async with asyncio.timeout(500), world.database.system().statements() as sql:
            while await sql.value(  # noqa: ASYNC110 # As above.
                "SELECT count(*) FROM schedules WHERE wake_at IS NOT NULL"
            ):
                await asyncio.sleep(0.05)
        took_s = asyncio.get_running_loop().time() - began
        record_property("firings_per_s", count / took_s)
        async with world.database.system().statements() as sql:
            fired = await sql.value("SELECT count(*) FROM firings WHERE turn_id IS NOT NULL")
            turns = await sql.value(
                "SELECT count(*) FROM turns WHERE source = 'schedule' AND organization_id = %(id)s",
                id=world.organization_id,
            )
            distinct = await sql.value("SELECT count(DISTINCT schedule_id) FROM firings")
    assert (fired, distinct) == (count, count)
    assert turns == count
