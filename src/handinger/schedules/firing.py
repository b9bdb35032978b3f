"""The alarm: one job for all schedules, which fires what is due and asks to be woken for the next.

The job is deferred to the earliest time that any schedule waits for; making or changing a schedule
brings it forward. So sleeping schedules cost nothing but their rows, and those that are due at the
same time are fired many in one transaction.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter

from handinger.budgets import accounts
from handinger.errors import MonthlyCapReached, OutOfCredits
from handinger.ids import OrganizationId, ScheduleId, TurnId, WorkerId
from handinger.schedules import changing, records
from handinger.schedules.clock import Clock, database_clock
from handinger.schedules.records import Firing, Row, Schedule, Skip
from handinger.schedules.when import Unreadable
from handinger.settings import Settings
from handinger.storage.database import Database, TenantStatements, is_connection_error
from handinger.turns import accept
from handinger.turns.accept import Instruction, NewTurn

logger = logging.getLogger(__name__)

# Beside running turns a statement waits for longer than it works, however many rows it is about.
_BATCH = 300
_AFTER_FAILURE = timedelta(minutes=1)
# One that waits, for room, for funds or to be read, looks again after a part of the time that it
# has waited.
_WAITING_SHARE = 0.25
_SHORTEST_WAIT_S = 1.0
_LONGEST_WAIT_FOR_ROOM_S = 60.0
_LONGEST_WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class _Due:
    id: ScheduleId
    organization_id: OrganizationId


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a firing leaves: the schedule as it is then, and the turn that it starts."""

    schedule: Schedule
    firings: Sequence[Firing]
    turn: NewTurn | None = None


@dataclass(slots=True)
class Alarm:
    """Fires schedules in this process, whenever its job is due."""

    database: Database
    settings: Settings
    clock: Clock = database_clock
    batch: int = field(default=_BATCH, kw_only=True)

    async def go_off(self, lock: str) -> None:
        """Fire all that is due, then set the alarm for the next."""
        del lock
        while due := await self._due():
            for organization_id, group in itertools.groupby(due, attrgetter("organization_id")):
                await self._fire(organization_id, [one.id for one in group])
        await reset(self.database)

    async def keep_set(self) -> None:
        """Set the alarm again if something is due and its job is gone, whatever lost it."""
        async with self.database.system().statements() as sql:
            lost = await sql.value(
                "SELECT 1 FROM schedules WHERE wake_at <= %(now)s AND NOT EXISTS (SELECT 1"
                " FROM procrastinate_jobs WHERE lock = %(lock)s AND status IN ('todo', 'doing'))"
                " LIMIT 1",
                now=await self.clock(sql),
                lock=changing.ALARM,
            )
        if lost is not None:
            await reset(self.database)

    async def _due(self) -> list[_Due]:
        async with self.database.system().statements() as sql:
            return await sql.all(
                _Due,
                "SELECT id, organization_id FROM (SELECT id, organization_id FROM schedules"
                " WHERE wake_at <= %(now)s ORDER BY wake_at LIMIT %(limit)s) due"
                " ORDER BY organization_id, id",
                now=await self.clock(sql),
                limit=self.batch,
            )

    async def _fire(self, organization_id: OrganizationId, due: Sequence[ScheduleId]) -> None:
        """Fire several together; if that fails each alone, so that one does not hold up others."""
        try:
            async with self.database.tenant(organization_id).transaction() as sql:
                await self._fire_in(sql, due)
        except Exception as error:
            if is_connection_error(error):
                raise
            if len(due) > 1:
                for one in due:
                    await self._fire(organization_id, [one])
                return
            logger.exception("The schedule %s could not be fired", due[0])
            await self._postpone(organization_id, due[0])

    async def _fire_in(self, sql: TenantStatements, due: Sequence[ScheduleId]) -> None:
        # Workers before their schedules, as whoever deletes a worker does; each in one order.
        await sql.run(
            "SELECT 1 FROM workers WHERE organization_id = %(organization_id)s AND id IN"
            " (SELECT worker_id FROM schedules WHERE organization_id = %(organization_id)s"
            " AND id = ANY(%(due)s)) ORDER BY id FOR NO KEY UPDATE",
            due=list(due),
        )
        now = await self.clock(sql)
        # What was cancelled, changed or fired since it was found due is not any more.
        rows = await sql.all(
            Row,
            records.SELECT + " AND id = ANY(%(due)s) AND wake_at <= %(now)s"
            " ORDER BY wake_at, id FOR UPDATE",
            due=list(due),
            now=now,
        )
        schedules = [row.schedule() for row in rows]
        if not schedules:
            return
        unended = await _unended_turns(sql, schedules)
        waiting = await accept.count_waiting(sql, {one.worker_id for one in schedules})
        broke = await _broke(sql)
        outcomes = [self._outcome(one, now, unended, waiting, broke) for one in schedules]
        await accept.append_all(sql, [outcome.turn for outcome in outcomes if outcome.turn])
        await _store(sql, outcomes)

    def _outcome(
        self,
        schedule: Schedule,
        now: datetime,
        unended: Collection[TurnId],
        waiting: Counter[WorkerId],
        broke: Skip | None,
    ) -> _Outcome:
        if isinstance(schedule.when, Unreadable):
            logger.warning("The schedule %s cannot be read: %s", schedule.id, schedule.when.problem)
            return _waiting(schedule, now, "unreadable")
        following = schedule.following(max(now, schedule.next_run_at))
        skipped: Skip | None = None
        if following is not None and schedule.last_turn_id in unended:
            skipped = "previous_turn_unfinished"
        elif broke is not None:
            skipped = broke
        elif waiting[schedule.worker_id] >= self.settings.max_waiting_turns_per_worker:
            skipped = "queue_full"
        if skipped is not None:
            if following is None:
                return _waiting(schedule, now, skipped)
            return _passed(schedule, now, following, skipped=skipped)
        turn = _turn(schedule)
        waiting[schedule.worker_id] += 1
        schedule = replace(schedule, last_turn_id=turn.id)
        if following is None:
            finished = replace(schedule, status="finished", wake_at=None)
            return _Outcome(finished, [Firing(schedule.next_run_at, now, turn.id, None)], turn)
        return _passed(schedule, now, following, turn=turn)

    async def _postpone(self, organization_id: OrganizationId, schedule_id: ScheduleId) -> None:
        """Have it tried again, and tell so once. The row is not read: it may be what is wrong."""
        async with self.database.tenant(organization_id).transaction() as sql:
            now = await self.clock(sql)
            told = await sql.run(
                "INSERT INTO firings (organization_id, schedule_id, number, due_at, fired_at,"
                " skipped, times) SELECT organization_id, id, firings, next_run_at, %(now)s,"
                " %(skipped)s, 1 FROM schedules WHERE organization_id = %(organization_id)s"
                " AND id = %(id)s AND wake_at <= %(now)s AND wake_at = next_run_at FOR UPDATE",
                id=schedule_id,
                now=now,
                skipped="internal_error",
            )
            await sql.run(
                "UPDATE schedules SET wake_at = %(later)s, firings = firings + %(told)s"
                " WHERE organization_id = %(organization_id)s AND id = %(id)s"
                " AND wake_at <= %(now)s",
                id=schedule_id,
                now=now,
                later=now + _AFTER_FAILURE,
                told=told,
            )


async def reset(database: Database) -> None:
    """Set the alarm for whatever is due first, if anything is."""
    async with database.system().transaction() as sql:
        earliest = await sql.value(
            "SELECT wake_at FROM schedules WHERE wake_at IS NOT NULL ORDER BY wake_at LIMIT 1"
        )
        await changing.set_alarm(sql, earliest)


async def _broke(sql: TenantStatements) -> Skip | None:
    """Why no turn of the organization may spend anything now, if none may."""
    account = (await accounts.funds(sql)).account
    try:
        if account is not None:
            account.require()
    except MonthlyCapReached:
        return "monthly_cap_reached"
    except OutOfCredits:
        return "out_of_credits"
    return None


async def _unended_turns(sql: TenantStatements, schedules: Sequence[Schedule]) -> set[TurnId]:
    rows = await sql.all(
        _TurnRow,
        "SELECT id FROM turns WHERE organization_id = %(organization_id)s"
        " AND id = ANY(%(ids)s) AND status <> 'completed'",
        ids=[one.last_turn_id for one in schedules if one.last_turn_id is not None],
    )
    return {row.id for row in rows}


@dataclass(frozen=True, slots=True)
class _TurnRow:
    id: TurnId


def _turn(schedule: Schedule) -> NewTurn:
    source = "agent" if schedule.created_by == "agent" else "schedule"
    instruction = Instruction(input=schedule.input, budget=schedule.budget, source=source)
    return NewTurn.of(schedule.worker_id, instruction)


def _passed(
    schedule: Schedule,
    now: datetime,
    following: datetime,
    *,
    turn: NewTurn | None = None,
    skipped: Skip | None = None,
) -> _Outcome:
    """A recurring one goes on to its next time; those between are missed, and that is kept."""
    due = schedule.next_run_at
    firings = [Firing(due, now, turn.id if turn else None, skipped)]
    missed = changing.count_passed(schedule, after=due, until=now)
    if missed:
        first = schedule.following(due) or now
        firings.append(Firing(first, now, None, "missed", times=missed))
    going_on = replace(schedule, next_run_at=following, wake_at=following)
    return _Outcome(going_on, firings, turn)


def _waiting(schedule: Schedule, now: datetime, skipped: Skip) -> _Outcome:
    """One that fires once waits for room or for funds, any other to be read. That is told once."""
    due = schedule.next_run_at
    share_s = (now - due).total_seconds() * _WAITING_SHARE
    longest_s = _LONGEST_WAIT_FOR_ROOM_S if skipped == "queue_full" else _LONGEST_WAIT_S
    wait_s = min(max(share_s, _SHORTEST_WAIT_S), longest_s)
    is_first = schedule.wake_at == due
    later = replace(schedule, wake_at=now + timedelta(seconds=wait_s))
    return _Outcome(later, [Firing(due, now, None, skipped)] if is_first else [])


async def _store(sql: TenantStatements, outcomes: Sequence[_Outcome]) -> None:
    after = [
        replace(one.schedule, firings=one.schedule.firings + len(one.firings)) for one in outcomes
    ]
    await sql.run(
        "UPDATE schedules s SET status = row.status, next_run_at = row.next_run_at,"
        " wake_at = row.wake_at, last_turn_id = row.last_turn_id, firings = row.firings,"
        " ended_at = CASE WHEN row.status = 'finished' THEN now() END"
        " FROM unnest(%(ids)s::text[], %(statuses)s::text[], %(next)s::timestamptz[],"
        " %(wake)s::timestamptz[], %(turns)s::text[], %(firings)s::int[])"
        " AS row(id, status, next_run_at, wake_at, last_turn_id, firings)"
        " WHERE s.organization_id = %(organization_id)s AND s.id = row.id",
        ids=[one.id for one in after],
        statuses=[one.status for one in after],
        next=[one.next_run_at for one in after],
        wake=[one.wake_at for one in after],
        turns=[one.last_turn_id for one in after],
        firings=[one.firings for one in after],
    )
    await changing.record(
        sql, [(one.schedule, firing) for one in outcomes for firing in one.firings]
    )
