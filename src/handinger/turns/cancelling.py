"""Stopping turns: those that wait are ended at once, the one that runs is asked to stop."""

from dataclasses import dataclass
from datetime import datetime

from handinger import live
from handinger.budgets import Spending
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.storage.database import Database, TenantStatements
from handinger.turns import accept, endings, reading
from handinger.turns.accept import RequestIdentity
from handinger.turns.endings import EndedTurn


@dataclass(frozen=True, slots=True)
class _Unended:
    id: TurnId
    status: str
    source: str
    input: str
    created_at: datetime
    attempt: int


async def cancel(
    database: Database,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    *,
    turn_id: TurnId | None = None,
    request: RequestIdentity | None = None,
) -> TurnId | None:
    """End the waiting turns and ask the running one to stop; with `turn_id` only that one.

    A `request` that is repeated stops nothing that began since. Returns the turn that has to stop,
    if one ran. Raises NotFound, IdempotencyKeyReused.
    """
    async with database.tenant(organization_id).transaction() as sql:
        earlier = await accept.find_earlier(sql, request)
        if earlier is not None:
            return earlier.turn_id
        await accept.lock_worker(sql, worker_id)
        if turn_id is not None:
            await _require_turn(sql, worker_id, turn_id)
        turns = await sql.all(
            _Unended,
            "SELECT id, status, source, input, created_at, attempt FROM turns"
            " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
            " AND status <> 'completed' AND (%(turn_id)s::text IS NULL OR id = %(turn_id)s)"
            " ORDER BY position",
            worker_id=worker_id,
            turn_id=turn_id,
        )
        stopping: TurnId | None = None
        for turn in turns:
            if turn.status == "running":
                stopping = turn.id
                await _ask_to_stop(sql, turn.id)
            else:
                await _end_waiting(sql, worker_id, turn)
        if request is not None:
            await accept.remember(sql, request, turn_id=stopping)
    return stopping


async def _require_turn(sql: TenantStatements, worker_id: WorkerId, turn_id: TurnId) -> None:
    found = await sql.value(
        "SELECT 1 FROM turns WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s AND id = %(id)s",
        worker_id=worker_id,
        id=turn_id,
    )
    if found is None:
        raise reading.not_found(turn_id)


async def _ask_to_stop(sql: TenantStatements, turn_id: TurnId) -> None:
    await sql.run(
        "UPDATE turns SET cancel_requested = true"
        " WHERE organization_id = %(organization_id)s AND id = %(id)s",
        id=turn_id,
    )
    await live.announce_cancel(sql.connection, turn_id)


async def _end_waiting(sql: TenantStatements, worker_id: WorkerId, turn: _Unended) -> None:
    ended = EndedTurn(
        id=turn.id,
        worker_id=worker_id,
        source=turn.source,
        created_at=turn.created_at,
        started_at=None,
        spending=Spending(),
    )
    await endings.end_waiting(sql, ended, endings.CANCELLED)
