"""Turns and their stories as they are read: single ones, pages, and what a reader is told next."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from handinger import attachments, story, workers
from handinger.budgets import Spending
from handinger.budgets.spending import each_column
from handinger.errors import NotFound
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.storage.database import Database, TenantStatements
from handinger.story import Event, Story, Take
from handinger.turns import endings, stories
from handinger.turns.endings import Ending
from handinger.workers import EntryRow


@dataclass(frozen=True, slots=True)
class TurnView:
    """One turn, as the wire shows it."""

    id: TurnId
    worker_id: WorkerId
    status: workers.Status
    source: str
    input: str
    budget: str
    output: list[Event] | None
    error: dict[str, str] | None
    incomplete_reason: str | None
    spending: list[int]
    credits: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    attachments: list[dict[str, Any]]

    def wire(self) -> dict[str, Any]:
        """The wire's turn."""
        spending = Spending(*self.spending)
        reason = self.incomplete_reason
        duration_ms = 0
        if self.started_at:
            seconds = ((self.ended_at or datetime.now(UTC)) - self.started_at).total_seconds()
            duration_ms = max(0, int(seconds * 1000))
        return {
            "id": self.id,
            "workerId": self.worker_id,
            "status": self.status,
            "source": self.source,
            "input": self.input,
            "budget": self.budget,
            "output_text": story.output_text(self.output or []),
            "error": self.error,
            "incomplete_details": {"reason": reason} if reason else None,
            "costs": spending.costs_json(),
            "usage": spending.usage_json(credits=self.credits, duration_ms=duration_ms),
            "createdAt": workers.iso(self.created_at),
            "startedAt": workers.iso(self.started_at) if self.started_at else None,
            "endedAt": workers.iso(self.ended_at) if self.ended_at else None,
        }


_SELECT_VIEW = (
    """
SELECT id, worker_id, status, source, input, budget, output, error, incomplete_reason,
    ARRAY["""
    + each_column("@")
    + """] AS spending,
    credits, created_at, started_at, ended_at, attachments
FROM turns
WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s
"""
)


async def view(
    database: Database, organization_id: OrganizationId, worker_id: WorkerId, turn_id: TurnId
) -> TurnView:
    """One turn of a worker, with what it has said so far. Raises NotFound."""
    # What a running turn has told must be of the same moment.
    async with database.tenant(organization_id).snapshot() as sql:
        turn = await sql.first(
            TurnView, _SELECT_VIEW + " AND id = %(id)s", worker_id=worker_id, id=turn_id
        )
        if turn is None:
            raise not_found(turn_id)
        return await _with_output(sql, turn)


async def _with_output(sql: TenantStatements, turn: TurnView) -> TurnView:
    """An ended turn has its output; of a running one it is what is stored of its story."""
    if turn.status != "running":
        return turn
    entries = await workers.entries_of_running_turn(sql, turn.worker_id)
    return replace(turn, output=story.outputs(story.message_id(turn.id), entries))


async def page(
    database: Database,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    *,
    limit: int,
    before: str | None,
    status: workers.Status | None,
) -> list[TurnView]:
    """Turns of a worker, newest first; `before` is the last id of the page before.

    Raises NotFound if there is no such worker.
    """
    async with database.tenant(organization_id).snapshot() as sql:
        await workers.require(sql, worker_id)
        turns = await sql.all(
            TurnView,
            _SELECT_VIEW + " AND (%(status)s::text IS NULL OR status = %(status)s)"
            " AND (%(before)s::text IS NULL OR position < (SELECT position FROM turns"
            " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
            " AND id = %(before)s)) ORDER BY position DESC LIMIT %(limit)s",
            worker_id=worker_id,
            before=before,
            status=status,
            limit=limit,
        )
        return [await _with_output(sql, turn) for turn in turns]


def not_found(turn_id: str) -> NotFound:
    """The same words for a turn that never was and for another organization's."""
    return NotFound(f"There is no turn {turn_id[:80]!r} of this worker.")


@dataclass(frozen=True, slots=True)
class Telling:
    """What is needed to tell one turn to a reader of its worker."""

    id: TurnId
    worker_id: WorkerId
    status: workers.Status
    source: str
    input: str
    created_at: datetime
    attempt: int
    retry: int
    error: dict[str, str] | None
    incomplete_reason: str | None
    assistant_message: str | None
    entry_count: int  # how many entries of its story are stored
    attachments: list[dict[str, Any]]
    email: dict[str, Any] | None

    def story(self) -> Story:
        """Its story as far as the turn alone implies it."""
        return stories.new_story(
            self.id,
            self.worker_id,
            input=self.input,
            source=self.source,
            created_at=self.created_at,
            attached=attachments.of_rows(self.attachments),
            email=self.email,
        )


async def tellings(
    database: Database, organization_id: OrganizationId, worker_id: WorkerId
) -> list[Telling]:
    """Every turn of a worker, in order. Raises NotFound if there is no such worker."""
    async with database.tenant(organization_id).statements() as sql:
        turns = await sql.all(
            Telling,
            "SELECT id, worker_id, status, source, input, created_at, attempt, retry, error,"
            " incomplete_reason, assistant_message::text, attachments, email,"
            " (SELECT count(*) FROM entries WHERE turn_id = turns.id) AS entry_count FROM turns"
            " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
            " ORDER BY position",
            worker_id=worker_id,
        )
    if not turns:
        raise workers.not_found(worker_id)
    return turns


@dataclass(frozen=True, slots=True)
class _Progress:
    status: workers.Status
    attempt: int
    retry: int
    error: dict[str, str] | None
    incomplete_reason: str | None


async def load_entries(database: Database, turn_id: TurnId, *, first: int) -> Sequence[EntryRow]:
    """The stored entries of a story from a number on."""
    async with database.system().statements() as sql:
        return await sql.all(
            EntryRow,
            "SELECT number, attempt, retry, kind, text, data FROM entries"
            " WHERE turn_id = %(turn_id)s AND number >= %(first)s ORDER BY number",
            turn_id=turn_id,
            first=first,
        )


async def refresh(database: Database, told: Story) -> None:
    """Bring a story up to what is stored of it. A turn that is gone has ended."""
    if told.ended:
        return
    async with database.system().statements() as sql:
        progress = await sql.first(
            _Progress,
            "SELECT status, attempt, retry, error, incomplete_reason FROM turns WHERE id = %(id)s",
            id=told.turn_id,
        )
    # Read after the turn, so that the entries of an ended turn are complete.
    rows = await load_entries(database, told.turn_id, first=told.committed)
    if told.ended:
        return
    for row in rows:
        told.store(row.number, row.entry())
    if progress is None:
        stories.tell_ending(told, endings.CANCELLED)
        return
    if progress.status == "completed":
        told.begin(Take(progress.attempt, progress.retry - 1))
        stories.tell_ending(told, _ending(progress))
    elif progress.attempt > told.take.attempt:
        told.begin(Take(progress.attempt, 0))


async def moved(database: Database, stories: Sequence[Story]) -> set[TurnId]:
    """Which of these turns have ended, are gone, were claimed anew, or have more entries stored."""
    async with database.system().statements() as sql:
        rows = await sql.all(
            _Position,
            "SELECT id, attempt, status = 'completed' AS ended,"
            " (SELECT count(*) FROM entries WHERE turn_id = turns.id) AS entry_count"
            " FROM turns WHERE id = ANY(%(ids)s)",
            ids=[told.turn_id for told in stories],
        )
    known = {row.id: row for row in rows}
    return {told.turn_id for told in stories if _has_moved(told, known.get(told.turn_id))}


@dataclass(frozen=True, slots=True)
class _Position:
    id: TurnId
    attempt: int
    ended: bool
    entry_count: int


def _has_moved(told: Story, position: _Position | None) -> bool:
    if told.ended:
        return False
    if position is None or position.ended:
        return True
    opening = sum(entry.kind in (story.Kind.USER, story.Kind.START) for entry in told.entries)
    stored = opening + position.entry_count
    return position.attempt > told.take.attempt or stored > told.committed


def _ending(progress: _Progress) -> Ending:
    if progress.error is not None:
        return Ending(
            error_code=progress.error["code"],  # pyright: ignore[reportArgumentType] # Written by Ending.
            error_message=progress.error["message"],
        )
    return Ending(incomplete_reason=progress.incomplete_reason)  # pyright: ignore[reportArgumentType] # Written by Ending.
