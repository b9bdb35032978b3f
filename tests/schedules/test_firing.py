"""What fires and what does not, with real jobs in a real queue and a clock that the tests set."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from obstore.store import MemoryStore
from psycopg.sql import SQL
from psycopg.types.json import Json

from handinger import workers
from handinger.budgets import accounts
from handinger.errors import NotFound, TooManySchedules
from handinger.ids import WorkerId
from handinger.schedules import changing, records
from handinger.schedules.firing import Alarm
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.turns import accept
from handinger.turns.accept import Instruction, NewTurn
from tests.schedules.world import START, World, minutes, when_of

pytestmark = pytest.mark.anyio


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
        await world.end_turns(worker_id)
        world.held.clear()
        await world.end_turns(worker_id)
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
        await world.end_turns(worker_id)
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
    when = {"type": "interval", "intervalSeconds": 300}
    changed = await world.change(worker_id, schedule_id, when=when_of(when))
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
    worker_id, cursed = await world.worker(), await world.worker()
    broken = await world.schedule(cursed, type="delayed", delayInSeconds=60)
    sound = await world.schedule(worker_id, type="delayed", delayInSeconds=60)
    async with world.running():
        async with _no_turns_of(world, cursed):
            await world.at(START + minutes(1))
            assert await world.firings(worker_id, sound) == [(START + minutes(1), None)]
            await world.at(START + minutes(2))  # It fails again, which is told once.
        await world.at(START + minutes(3.1))
    assert await world.firings(cursed, broken) == [
        (START + minutes(1), "internal_error"),
        (START + minutes(1), None),
    ]
    assert len(await world.turns(worker_id)) == len(await world.turns(cursed)) == 1


@contextlib.asynccontextmanager
async def _no_turns_of(world: World, worker_id: WorkerId) -> AsyncGenerator[None]:
    """The database takes none meanwhile."""
    async with world.database.system().statements() as sql:
        cursed = SQL("ALTER TABLE turns ADD CONSTRAINT cursed CHECK (worker_id <> {}) NOT VALID")
        await sql.connection.execute(cursed.format(worker_id))
        yield
        await sql.run("ALTER TABLE turns DROP CONSTRAINT cursed")


UNREADABLE = [
    ("{}", {"type": "scheduled"}),
    ("[]", {"type": "scheduled"}),
    ("null", {"type": "scheduled"}),
    ('{"type": ["cron"]}', {"type": "scheduled"}),
    ('{"type": "lunar", "phase": "full"}', {"type": "scheduled"}),
    ('{"type": "interval", "intervalSeconds": "60"}', {"type": "scheduled"}),
    (
        '{"type": "interval", "intervalSeconds": 0}',
        {"type": "interval", "intervalSeconds": 0},
    ),
    (
        '{"type": "cron", "cron": "0 9 * * L", "timezone": "UTC"}',
        {"type": "cron", "cron": "0 9 * * L", "timezone": "UTC"},
    ),
    (
        '{"type": "cron", "cron": "@daily", "timezone": "Europe/Atlantis"}',
        {"type": "cron", "cron": "@daily", "timezone": "Europe/Atlantis"},
    ),
]


@pytest.mark.parametrize(("stored", "shown_as"), UNREADABLE, ids=[row[0] for row in UNREADABLE])
async def test_one_that_cannot_be_read_costs_no_other_anything(
    world: World, stored: str, shown_as: dict[str, Any]
):
    worker_id = await world.worker()
    broken = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    sound = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.database.system().statements() as sql:
        await sql.run(
            "UPDATE schedules SET timing = %(stored)s::json WHERE id = %(id)s",
            id=broken,
            stored=stored,
        )
    async with world.running():
        await world.at(START + minutes(1))
        await world.at(START + minutes(2))
        assert len(await world.turns(worker_id)) == 2
        listed = {one["id"]: one for one in await world.listed(worker_id)}
        assert "error" not in listed[sound]
        assert listed[broken].items() >= {**shown_as, "input": "Tick.", "budget": "low"}.items()
        assert "cannot be read" in listed[broken]["error"]
        view = await world.view(worker_id, broken)
        assert view["error"] == listed[broken]["error"]
        assert (view["nextRuns"], view["createdBy"]) == ([], "api")
        (firing,) = view["firings"]
        assert (firing["turnId"], firing["skipped"]["reason"]) == (None, "unreadable")
        # It can be paused, and go on, without becoming anything else; another `when` mends it.
        for paused in (True, False):
            changed = await world.change(worker_id, broken, paused=paused)
            assert changed["error"] == view["error"]
        when = when_of({"type": "delayed", "delayInSeconds": 60})
        mended = await world.change(worker_id, broken, when=when)
        assert "error" not in mended
        await changing.cancel(world.database, world.clock, world.organization_id, worker_id, sound)
        await world.at(START + minutes(3))
    assert (await world.firings(worker_id, broken))[-1] == (START + minutes(3), None)


async def test_one_that_can_be_read_again_fires(world: World):
    """As after an update of the time zones, or a step back to the version that wrote it."""
    worker_id = await world.worker()
    schedule_id = await world.schedule(worker_id, type="interval", intervalSeconds=60)
    async with world.database.system().statements() as sql:
        sound = await sql.value("SELECT timing FROM schedules")
        await sql.run("UPDATE schedules SET timing = '{}'")
        async with world.running():
            await world.at(START + minutes(1))
            assert await world.turns(worker_id) == []
            await sql.run("UPDATE schedules SET timing = %(sound)s", sound=Json(sound))
            await world.at(START + minutes(1.5))
    assert await world.firings(worker_id, schedule_id) == [
        (START + minutes(1), "unreadable"),
        (START + minutes(1), None),
    ]


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
