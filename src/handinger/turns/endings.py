"""How turns end: what is written into their rows, and added to their workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from psycopg.types.json import Json, Jsonb

from handinger import engine, live, story, workers
from handinger.budgets import Spending
from handinger.budgets.spending import ADD_TO_COLUMNS
from handinger.ids import TurnId, WorkerId
from handinger.storage.database import TenantStatements
from handinger.story import Entry, Event

ErrorCode = Literal["model_error", "timeout", "budget_too_small", "internal_error"]
IncompleteReason = Literal["budget_exhausted", "max_output_tokens", "cancelled"]

# The job that does what follows a turn; `jobs.py` binds it.
TURN_ENDED = "turn_ended"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended: well, cut short, or failed."""

    error_code: ErrorCode | None = None
    error_message: str = ""
    incomplete_reason: IncompleteReason | None = None

    def error_json(self) -> dict[str, str] | None:
        """The wire's `error`."""
        if self.error_code is None:
            return None
        return {"code": self.error_code, "message": self.error_message}

    @property
    def outcome(self) -> str:
        """One word for it."""
        return self.error_code or self.incomplete_reason or "completed"


COMPLETED = Ending()
CANCELLED = Ending(incomplete_reason="cancelled")


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """What has to be known of a turn to end it, executed or not."""

    id: TurnId
    worker_id: WorkerId
    source: str
    created_at: datetime
    started_at: datetime | None
    spending: Spending


@dataclass(frozen=True, slots=True)
class Completion:
    """What ending a turn writes into its row."""

    status: Literal["running", "completed"]
    ended_at: datetime | None = None
    duration_ms: int = 0
    credits: int = 0
    error: dict[str, str] | None = None
    reason: IncompleteReason | None = None
    retry: int = 0
    output: Sequence[Event] | None = None
    message: Event | None = None

    @classmethod
    def of(
        cls,
        turn: EndedTurn,
        ending: Ending,
        *,
        credits: int,
        entries: Sequence[Entry],
        retry: int,
    ) -> "Completion":
        """A turn that ends now, with this story."""
        now = datetime.now(UTC)
        duration_ms = 0
        if turn.started_at is not None:
            duration_ms = max(0, int((now - turn.started_at).total_seconds() * 1000))
        usage = turn.spending.usage_json(credits=credits, duration_ms=duration_ms)
        metadata = {
            **workers.message_metadata(turn.worker_id, turn.id, turn.source, turn.created_at),
            "usage": usage,
            "costs": turn.spending.costs_json(),
        }
        return cls(
            status="completed",
            ended_at=now,
            duration_ms=duration_ms,
            credits=credits,
            error=ending.error_json(),
            reason=ending.incomplete_reason,
            retry=retry,
            output=story.outputs(story.message_id(turn.id), entries),
            message=workers.assistant_message(turn.id, entries, metadata),
        )

    def columns(self) -> dict[str, object]:
        """By the names of the parameters that bring it to the turn's row."""
        return {
            "status": self.status,
            "ended_at": self.ended_at,
            "error": Jsonb(self.error) if self.error else None,
            "reason": self.reason,
            "retry": self.retry,
            "output": None if self.output is None else Json(self.output, dumps=workers.dump),
            "message": None if self.message is None else Json(self.message, dumps=workers.dump),
        }


NOT_COMPLETED = Completion(status="running")


async def book(sql: TenantStatements, turn: EndedTurn, completion: Completion) -> None:
    """Add an ended turn to its worker's sums, and announce its end when this transaction commits.

    Locks the worker's row. Who instructed by mail is answered by a job.
    """
    if turn.source == "email":
        await engine.enqueue(sql.connection, TURN_ENDED, lock=turn.id)
    await sql.run(
        "UPDATE workers SET credits = credits + %(credits)s,"
        " duration_ms = duration_ms + %(duration_ms)s, "
        + ADD_TO_COLUMNS
        + " WHERE organization_id = %(organization_id)s AND id = %(worker_id)s"
        " RETURNING pg_notify(%(channel)s, %(notice)s)",
        worker_id=turn.worker_id,
        credits=completion.credits,
        duration_ms=completion.duration_ms,
        channel=live.CHANNEL,
        notice=live.end_notice(turn.id),
        **turn.spending.columns(),
    )


async def end_waiting(sql: TenantStatements, turn: EndedTurn, ending: Ending) -> None:
    """Complete a turn that was never executed, in a transaction that holds its worker's row."""
    completion = Completion.of(turn, ending, credits=0, entries=[], retry=1)
    await book(sql, turn, completion)
    await sql.run(
        "UPDATE turns SET status = %(status)s, ended_at = %(ended_at)s, error = %(error)s,"
        " incomplete_reason = %(reason)s, retry = %(retry)s, output = %(output)s,"
        " assistant_message = %(message)s"
        " WHERE organization_id = %(organization_id)s AND id = %(id)s AND status = 'pending'",
        id=turn.id,
        **completion.columns(),
    )
