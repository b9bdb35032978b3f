"""Cron expressions through a year, changes of the clock and leap days, and many due at once.

All with real jobs, which end their turns as soon as they may, and a clock of the tests.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from handinger.ids import ScheduleId
from handinger.schedules import changing, records
from handinger.settings import Settings
from tests.schedules.test_cron import (
    CHANGES,
    EXPRESSIONS,
    by_another_library,
    day_of_change,
    shown,
)
from tests.schedules.world import START, World, minutes

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "expressions",
    [
        ["@monthly", "15 14 1 */2 *"],
        *(
            pytest.param(EXPRESSIONS[part::4], marks=[pytest.mark.slow, pytest.mark.timeout(900)])
            for part in range(4)
        ),
    ],
    ids=lambda expressions: expressions[0],
)
async def test_a_year_of_firings_is_as_an_independent_library_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch, expressions: list[str]
):
    """Each time has one firing, just then, and each firing a turn."""
    year = timedelta(days=366)
    monkeypatch.setattr(records, "KEPT_FIRINGS", 100_000)
    made = {
        expression: await world.schedule(await world.worker(), type="cron", cron=expression)
        for expression in expressions
    }
    async with world.running():
        await world.let_pass(year)
    for expression, schedule_id in made.items():
        fired = await _fired(world, schedule_id)
        assert [one.due_at for one in fired] == by_another_library(
            expression, START + timedelta(seconds=1), START + year
        )
        assert all(one.fired_at == one.due_at and one.source == "schedule" for one in fired)
        assert len({one.turn_id for one in fired}) == len(fired)


@dataclass(frozen=True, slots=True)
class _Fired:
    due_at: datetime
    fired_at: datetime
    turn_id: str | None
    source: str | None


async def _fired(world: World, schedule_id: ScheduleId) -> list[_Fired]:
    async with world.database.system().statements() as sql:
        return await sql.all(
            _Fired,
            "SELECT f.due_at, f.fired_at, f.turn_id, t.source FROM firings f"
            " LEFT JOIN turns t ON t.id = f.turn_id WHERE f.schedule_id = %(id)s"
            " ORDER BY f.number",
            id=schedule_id,
        )


ZONES = {zone: [] if zone == "Europe/Madrid" else [pytest.mark.slow] for zone, *_ in CHANGES}


@pytest.mark.parametrize("zone", [pytest.param(zone, marks=ZONES[zone]) for zone in ZONES])
async def test_what_fires_when_the_clocks_change(world: World, zone: str):
    async with world.running():
        for day, expression, expected in [row[1:] for row in CHANGES if row[0] == zone]:
            world.now, end = day_of_change(zone, day, expected)
            world.now -= timedelta(seconds=1)
            schedule_id = await world.schedule(
                await world.worker(), type="cron", cron=expression, timezone=zone
            )
            await world.let_pass(end - world.now)
            fired = await _fired(world, schedule_id)
            assert [one.due_at for one in fired] == [one.fired_at for one in fired]
            assert shown([one.due_at for one in fired], zone) == expected, (day, expression)
            assert all(one.source == "schedule" for one in fired)
            async with world.database.system().statements() as sql:
                await sql.run("DELETE FROM schedules")


async def test_a_leap_day_fires_in_leap_years_alone(world: World):
    schedule_id = await world.schedule(await world.worker(), type="cron", cron="0 12 29 2 *")
    async with world.running():
        await world.let_pass(timedelta(days=366 * 8))
    assert [one.due_at for one in await _fired(world, schedule_id)] == [
        datetime(year, 2, 29, 12, tzinfo=UTC) for year in (2044, 2048)
    ]


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
