"""A schedule as it is stored and seen, with its last firings and its next times."""

import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from handinger import workers
from handinger.errors import NotFound
from handinger.ids import OrganizationId, ScheduleId, TurnId, WorkerId
from handinger.schedules import when as timing
from handinger.schedules.clock import Clock
from handinger.schedules.when import Unreadable, When
from handinger.settings import BudgetName
from handinger.storage.database import Database, TenantStatements

Creator = Literal["api", "agent"]
Status = Literal["active", "paused", "finished", "cancelled"]
Skip = Literal[
    "missed",
    "paused",
    "previous_turn_unfinished",
    "queue_full",
    "out_of_credits",
    "monthly_cap_reached",
    "unreadable",
    "internal_error",
]

KEPT_FIRINGS = 50
SHOWN_TIMES = 10

_WHY_SKIPPED = {
    "missed": "No server fired it in time; what had come due was fired once.",
    "paused": "The schedule was paused.",
    "previous_turn_unfinished": "The turn of the firing before still ran or waited.",
    "queue_full": "As many turns waited for the worker as may.",
    "out_of_credits": "The organization was out of credits.",
    "monthly_cap_reached": "The organization had reached its cap for the month.",
    "unreadable": "Its `when` cannot be read, for the reason that its `error` gives.",
    "internal_error": "The server failed to fire it, and tries again.",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a worker gets which instruction by itself."""

    id: ScheduleId
    organization_id: OrganizationId
    worker_id: WorkerId
    created_by: Creator
    status: Status
    input: str
    budget: BudgetName
    when: When | Unreadable
    anchored_at: datetime  # from when its intervals count
    next_run_at: datetime
    wake_at: datetime | None  # when the alarm looks at it
    last_turn_id: TurnId | None
    firings: int
    created_at: datetime

    def following(self, after: datetime) -> datetime | None:
        """When it fires next after a moment; None if it fires once."""
        return self.when.following(after, anchor=self.anchored_at)

    def due_after(self, now: datetime) -> datetime:
        """When it fires, as far as is known: a paused one lets pass what comes due meanwhile."""
        if self.status == "paused" and self.next_run_at <= now:
            return self.following(now) or self.next_run_at
        return self.next_run_at

    def wire(self, now: datetime) -> dict[str, Any]:
        """The wire's `WorkerSchedule`."""
        return {
            "id": self.id,
            **timing.shown(self.when),
            "input": self.input,
            "budget": self.budget,
            "nextRunAt": workers.iso(self.due_after(now)),
            "paused": self.status == "paused",
            **self._error(),
        }

    def _error(self) -> dict[str, str]:
        if not isinstance(self.when, Unreadable):
            return {}
        why = self.when.problem
        return {"error": f"Its `when` cannot be read ({why}), so it waits for another one."}


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule's row."""

    id: ScheduleId
    organization_id: OrganizationId
    worker_id: WorkerId
    created_by: Creator
    status: Status
    input: str
    budget: BudgetName
    timing: Any
    anchored_at: datetime
    next_run_at: datetime
    wake_at: datetime | None
    last_turn_id: TurnId | None
    firings: int
    created_at: datetime

    def schedule(self) -> Schedule:
        """What it holds."""
        return Schedule(
            id=self.id,
            organization_id=self.organization_id,
            worker_id=self.worker_id,
            created_by=self.created_by,
            status=self.status,
            input=self.input,
            budget=self.budget,
            when=timing.read(self.timing),
            anchored_at=self.anchored_at,
            next_run_at=self.next_run_at,
            wake_at=self.wake_at,
            last_turn_id=self.last_turn_id,
            firings=self.firings,
            created_at=self.created_at,
        )


@dataclass(frozen=True, slots=True)
class Firing:
    """What came of one time at which a schedule was due, or of several in a row."""

    due_at: datetime
    fired_at: datetime
    turn_id: TurnId | None
    skipped: Skip | None
    times: int = 1

    def wire(self) -> dict[str, Any]:
        """As the wire has it: a turn's id, or the reason why there is none."""
        skipped = None
        if self.skipped is not None:
            skipped = {
                "reason": self.skipped,
                "message": _WHY_SKIPPED[self.skipped],
                "times": self.times,
            }
        return {
            "dueAt": workers.iso(self.due_at),
            "firedAt": workers.iso(self.fired_at),
            "turnId": self.turn_id,
            "skipped": skipped,
        }


SELECT = (
    "SELECT id, organization_id, worker_id, created_by, status, input, budget, timing,"
    " anchored_at, next_run_at, wake_at, last_turn_id, firings, created_at FROM schedules"
    " WHERE organization_id = %(organization_id)s"
)


async def pending(
    database: Database, clock: Clock, organization_id: OrganizationId, worker_id: WorkerId
) -> list[dict[str, Any]]:
    """The worker's schedules that have something to do yet, soonest first. Raises NotFound."""
    async with database.tenant(organization_id).statements() as sql:
        await workers.require(sql, worker_id)
        return await told(sql, clock, worker_id)


async def told(sql: TenantStatements, clock: Clock, worker_id: WorkerId) -> list[dict[str, Any]]:
    """As `pending`, for a caller that knows that there is such a worker."""
    now = await clock(sql)
    rows = await sql.all(
        Row, SELECT + " AND worker_id = %(worker_id)s AND ended_at IS NULL", worker_id=worker_id
    )
    schedules = [row.schedule() for row in rows]
    schedules.sort(key=lambda schedule: (schedule.due_after(now), schedule.id))
    return [schedule.wire(now) for schedule in schedules]


async def view(
    database: Database,
    clock: Clock,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    schedule_id: ScheduleId,
) -> dict[str, Any]:
    """One schedule with its last firings, newest first, and its next times.

    One that fired for good is still there for a while. Raises NotFound.
    """
    async with database.tenant(organization_id).snapshot() as sql:
        row = await sql.first(
            Row,
            SELECT + " AND worker_id = %(worker_id)s AND id = %(id)s AND status <> 'cancelled'",
            worker_id=worker_id,
            id=schedule_id,
        )
        if row is None:
            await workers.require(sql, worker_id)
            raise not_found(schedule_id)
        firings = await sql.all(
            Firing,
            "SELECT due_at, fired_at, turn_id, skipped, times FROM firings"
            " WHERE organization_id = %(organization_id)s AND schedule_id = %(id)s"
            " ORDER BY number DESC LIMIT %(limit)s",
            id=schedule_id,
            limit=KEPT_FIRINGS,
        )
        now = await clock(sql)
    schedule = row.schedule()
    return {
        **schedule.wire(now),
        **({"nextRunAt": None} if schedule.status == "finished" else {}),
        "createdAt": workers.iso(schedule.created_at),
        "createdBy": schedule.created_by,
        "firings": [firing.wire() for firing in firings],
        "nextRuns": [workers.iso(moment) for moment in _next_times(schedule, now)],
    }


def _next_times(schedule: Schedule, now: datetime) -> list[datetime]:
    if schedule.status == "finished" or isinstance(schedule.when, Unreadable):
        return []
    first = schedule.due_after(now)
    later = timing.times(schedule.when, max(first, now), anchor=schedule.anchored_at)
    return [first, *itertools.islice(later, SHOWN_TIMES - 1)]


def not_found(schedule_id: str) -> NotFound:
    """The same words for one that never was, that has ended, and another organization's."""
    return NotFound(f"There is no schedule {schedule_id[:80]!r}.")
