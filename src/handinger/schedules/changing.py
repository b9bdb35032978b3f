"""Making, changing and cancelling schedules, each in one transaction with its alarm."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Json

from handinger import engine, ids, workers
from handinger.errors import InvalidInput, TooManySchedules
from handinger.ids import OrganizationId, ScheduleId, WorkerId
from handinger.schedules import records
from handinger.schedules import when as timing
from handinger.schedules.clock import Clock
from handinger.schedules.records import Creator, Firing, Row, Schedule
from handinger.schedules.when import Unreadable, When
from handinger.settings import BudgetName, Settings
from handinger.storage.database import Database, Statements, TenantStatements
from handinger.turns import accept
from handinger.turns.accept import RequestIdentity

# The job that fires what is due; `jobs.py` binds it. There is one for all schedules.
FIRE_SCHEDULES = "fire_schedules"
ALARM = "schedules"

_ENDED_KEPT = timedelta(days=30)
_MAX_COUNTED = 1_000
_LOOKED_AT_TIMES = 100


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """What a schedule is to be."""

    worker_id: WorkerId
    input: str
    budget: BudgetName
    when: When
    created_by: Creator
    # What started the turn in which an agent makes it.
    made_in: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of a schedule; None leaves it as it is."""

    input: str | None = None
    budget: BudgetName | None = None
    when: When | None = None
    paused: bool | None = None


async def create(
    database: Database,
    settings: Settings,
    clock: Clock,
    organization_id: OrganizationId,
    new: NewSchedule,
    *,
    request: RequestIdentity | None = None,
) -> tuple[ScheduleId, dict[str, Any]]:
    """A new schedule's id and wire form; a repeated request gets what the first one made.

    Raises NotFound, TooManySchedules, InvalidInput, IdempotencyKeyReused.
    """
    async with database.tenant(organization_id).transaction() as sql:
        earlier = await accept.find_earlier(sql, request)
        if earlier is not None and earlier.schedule_id is not None:
            row = await sql.first(Row, records.SELECT + " AND id = %(id)s", id=earlier.schedule_id)
            assert row is not None  # The request's row hangs on the schedule's.
            return row.id, row.schedule().wire(row.created_at)
        # Two at once must not both be the last that may be, nor may the worker go meanwhile.
        await accept.lock_worker(sql, new.worker_id)
        schedule = await prepare(sql, settings, clock, new)
        await insert(sql, schedule)
        if request is not None:
            await accept.remember(sql, request, schedule_id=schedule.id)
    return schedule.id, schedule.wire(schedule.created_at)


async def prepare(
    sql: TenantStatements, settings: Settings, clock: Clock, new: NewSchedule
) -> Schedule:
    """The schedule as it would be, made now. Raises NotFound, TooManySchedules, InvalidInput."""
    await workers.require(sql, new.worker_id)
    await _require_room(sql, settings, new)
    now = await clock(sql)
    first = new.when.first(now)
    if new.created_by == "agent":
        _require_patience(settings, new, first=first, now=now)
    return Schedule(
        id=ScheduleId(ids.new("sch")),
        organization_id=sql.organization_id,
        worker_id=new.worker_id,
        created_by=new.created_by,
        status="active",
        input=new.input,
        budget=new.budget,
        when=new.when,
        anchored_at=now,
        next_run_at=first,
        wake_at=first,
        last_turn_id=None,
        firings=0,
        created_at=now,
    )


async def _require_room(sql: TenantStatements, settings: Settings, new: NewSchedule) -> None:
    counts = await sql.first(
        _Counts,
        "SELECT count(*) AS every, count(*) FILTER (WHERE created_by = 'agent') AS by_agent"
        " FROM schedules WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s AND ended_at IS NULL",
        worker_id=new.worker_id,
    )
    assert counts is not None
    if counts.every >= settings.max_schedules_per_worker:
        raise TooManySchedules(
            f"This worker has {counts.every} schedules, and {settings.max_schedules_per_worker} "
            "may be. Cancel one that is not needed any more."
        )
    limit = settings.max_agent_schedules_per_worker
    if new.created_by == "agent" and counts.by_agent >= limit:
        raise TooManySchedules(
            f"This worker has made {counts.by_agent} schedules for itself, and {limit} may be. "
            "Cancel one that is not needed any more."
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    every: int
    by_agent: int


def _require_patience(
    settings: Settings, new: NewSchedule, *, first: datetime, now: datetime
) -> None:
    """An agent that wakes itself too often, by one schedule or a chain, would never rest."""
    least = timedelta(seconds=settings.min_agent_interval_s)
    later = timing.times(new.when, first, anchor=now)
    times = [first, *itertools.islice(later, _LOOKED_AT_TIMES)]
    if new.made_in == "agent":
        times.insert(0, now)
    if any(after - before < least for before, after in itertools.pairwise(times)):
        raise InvalidInput.of(
            f"your own schedules may start turns at most every {settings.min_agent_interval_s} "
            "seconds; choose longer pauses",
            "when",
        )


async def insert(sql: TenantStatements, schedule: Schedule) -> None:
    """Store a prepared schedule, and see to it that the alarm goes off in time."""
    await sql.run(
        "DELETE FROM schedules WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s AND ended_at < %(now)s::timestamptz - %(kept)s",
        worker_id=schedule.worker_id,
        now=schedule.created_at,
        kept=_ENDED_KEPT,
    )
    await sql.run(
        "INSERT INTO schedules (id, organization_id, worker_id, created_by, status, input, budget,"
        " timing, anchored_at, next_run_at, wake_at, created_at) VALUES (%(id)s,"
        " %(organization_id)s, %(worker_id)s, %(created_by)s, %(status)s, %(input)s, %(budget)s,"
        " %(timing)s, %(anchored_at)s, %(next_run_at)s, %(wake_at)s, %(created_at)s)",
        id=schedule.id,
        worker_id=schedule.worker_id,
        created_by=schedule.created_by,
        status=schedule.status,
        input=schedule.input,
        budget=schedule.budget,
        timing=_json(schedule.when),
        anchored_at=schedule.anchored_at,
        next_run_at=schedule.next_run_at,
        wake_at=schedule.wake_at,
        created_at=schedule.created_at,
    )
    await set_alarm(sql, schedule.wake_at)


async def set_alarm(sql: Statements, at: datetime | None) -> None:
    """See to it that the alarm goes off at this time, or before."""
    if at is not None:
        await engine.enqueue(
            sql.connection, FIRE_SCHEDULES, lock=ALARM, at=at, queue=engine.SHORT_QUEUE
        )


async def change(
    database: Database,
    clock: Clock,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    schedule_id: ScheduleId,
    change: Change,
) -> dict[str, Any]:
    """Change a schedule that has something to do yet; its wire form. Raises NotFound, InvalidInput.

    With another `when` it counts anew. What comes due while it is paused is let pass, but one that
    fires once does so when it goes on.
    """
    async with database.tenant(organization_id).transaction() as sql:
        row = await sql.first(
            Row,
            records.SELECT + " AND worker_id = %(worker_id)s AND id = %(id)s AND ended_at IS NULL"
            " FOR UPDATE",
            worker_id=worker_id,
            id=schedule_id,
        )
        if row is None:
            await workers.require(sql, worker_id)
            raise records.not_found(schedule_id)
        now = await clock(sql)
        schedule = await _changed(sql, row.schedule(), change, now)
        await sql.run(
            "UPDATE schedules SET status = %(status)s, input = %(input)s, budget = %(budget)s,"
            " timing = %(timing)s, anchored_at = %(anchored_at)s, next_run_at = %(next_run_at)s,"
            " wake_at = %(wake_at)s, firings = %(firings)s"
            " WHERE organization_id = %(organization_id)s AND id = %(id)s",
            id=schedule.id,
            status=schedule.status,
            input=schedule.input,
            budget=schedule.budget,
            timing=_json(schedule.when),
            anchored_at=schedule.anchored_at,
            next_run_at=schedule.next_run_at,
            wake_at=schedule.wake_at,
            firings=schedule.firings,
        )
        await set_alarm(sql, schedule.wake_at)
    return schedule.wire(now)


async def _changed(
    sql: TenantStatements, schedule: Schedule, change: Change, now: datetime
) -> Schedule:
    schedule = replace(
        schedule,
        input=change.input or schedule.input,
        budget=change.budget or schedule.budget,
    )
    if change.when is not None:
        first = change.when.first(now)
        schedule = replace(
            schedule, when=change.when, anchored_at=now, next_run_at=first, wake_at=first
        )
    paused = schedule.status == "paused" if change.paused is None else change.paused
    if paused:
        return replace(schedule, status="paused", wake_at=None)
    if schedule.status == "paused":
        return await _resumed(sql, schedule, now)
    return schedule


async def _resumed(sql: TenantStatements, schedule: Schedule, now: datetime) -> Schedule:
    following = schedule.due_after(now)
    if following > schedule.next_run_at:
        passed = Firing(
            due_at=schedule.next_run_at,
            fired_at=now,
            turn_id=None,
            skipped="paused",
            times=1 + count_passed(schedule, after=schedule.next_run_at, until=now),
        )
        await record(sql, [(schedule, passed)])
        schedule = replace(schedule, firings=schedule.firings + 1)
    return replace(schedule, status="active", next_run_at=following, wake_at=following)


def count_passed(schedule: Schedule, *, after: datetime, until: datetime) -> int:
    """How many times lie after one moment and not after another; no more than can be said fast."""
    times = timing.times(schedule.when, after, anchor=schedule.anchored_at)
    passed = itertools.takewhile(lambda moment: moment <= until, times)
    return sum(1 for _ in itertools.islice(passed, _MAX_COUNTED))


async def record(sql: TenantStatements, firings: Sequence[tuple[Schedule, Firing]]) -> None:
    """Keep firings, which follow those that their schedules have had; forget the oldest."""
    if not firings:
        return
    numbers: list[int] = []
    counted: Counter[ScheduleId] = Counter()
    for schedule, _ in firings:
        numbers.append(schedule.firings + counted[schedule.id])
        counted[schedule.id] += 1
    await sql.run(
        "WITH forgotten AS (DELETE FROM firings f USING unnest(%(ids)s::text[],"
        " %(forgotten)s::int[]) AS row(id, number) WHERE f.organization_id = %(organization_id)s"
        " AND f.schedule_id = row.id AND f.number <= row.number)"
        " INSERT INTO firings (organization_id, schedule_id, number, due_at, fired_at, turn_id,"
        " skipped, times) SELECT %(organization_id)s, row.* FROM unnest(%(ids)s::text[],"
        " %(numbers)s::int[], %(due)s::timestamptz[], %(fired)s::timestamptz[],"
        " %(turns)s::text[], %(skipped)s::text[], %(times)s::int[]) row",
        ids=[schedule.id for schedule, _ in firings],
        numbers=numbers,
        due=[firing.due_at for _, firing in firings],
        fired=[firing.fired_at for _, firing in firings],
        turns=[firing.turn_id for _, firing in firings],
        skipped=[firing.skipped for _, firing in firings],
        times=[firing.times for _, firing in firings],
        forgotten=[number - records.KEPT_FIRINGS for number in numbers],
    )


async def cancel(
    database: Database,
    clock: Clock,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    schedule_id: ScheduleId,
) -> None:
    """It does not fire again; a turn that it has started goes on. Raises NotFound."""
    async with database.tenant(organization_id).transaction() as sql:
        if not await cancel_in(sql, clock, worker_id, schedule_id):
            await workers.require(sql, worker_id)
            raise records.not_found(schedule_id)


async def cancel_in(
    sql: TenantStatements, clock: Clock, worker_id: WorkerId, schedule_id: ScheduleId
) -> bool:
    """Cancel in the caller's transaction; whether there was something to cancel."""
    cancelled = await sql.run(
        "UPDATE schedules SET status = 'cancelled', ended_at = %(now)s, wake_at = NULL"
        " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
        " AND id = %(id)s AND ended_at IS NULL",
        worker_id=worker_id,
        id=schedule_id,
        now=await clock(sql),
    )
    return cancelled == 1


def _json(when: When | Unreadable) -> Json:
    return Json(timing.dump(when), dumps=workers.dump)
