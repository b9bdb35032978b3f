"""Summaries, which take the place of earlier messages when a conversation is sent to a model."""

from dataclasses import dataclass

from handinger.ids import TurnId, WorkerId
from handinger.storage.database import TenantStatements


@dataclass(frozen=True, slots=True)
class Summary:
    """What a conversation goes on from; the latest `kept` messages of the journal follow it."""

    payload: str  # model messages, as JSON
    kept: int
    covered_responses: int  # of the turn that runs


async def store(
    sql: TenantStatements, summary: Summary, *, worker_id: WorkerId, turn_id: TurnId
) -> None:
    """Add a summary to the journal, in a transaction of the only turn that may write there now."""
    await sql.run(
        "INSERT INTO messages"
        " (organization_id, worker_id, turn_id, payload, covers_id, covered_responses)"
        " SELECT %(organization_id)s, %(worker_id)s, %(turn_id)s, %(payload)s, m.id, %(responses)s"
        " FROM messages m WHERE m.organization_id = %(organization_id)s"
        " AND m.worker_id = %(worker_id)s AND m.covers_id IS NULL"
        " ORDER BY m.id DESC OFFSET %(kept)s LIMIT 1",
        worker_id=worker_id,
        turn_id=turn_id,
        payload=summary.payload,
        kept=summary.kept,
        responses=summary.covered_responses,
    )
