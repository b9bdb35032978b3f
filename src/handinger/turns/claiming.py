"""Claiming a turn: from then on, this attempt of this process is the only one that writes it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, LiteralString, Protocol

from psycopg.types.json import Jsonb

from handinger import attachments
from handinger.attachments import Attachment
from handinger.budgets import Reservation, Spending, accounts, ledger
from handinger.budgets.spending import each_column
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.settings import BudgetName
from handinger.storage.database import Database, TenantStatements


@dataclass(frozen=True, slots=True)
class ClaimedTurn:
    """A turn that this process executes, as it stood when it was claimed."""

    id: TurnId
    organization_id: OrganizationId
    worker_id: WorkerId
    input: str
    budget: BudgetName
    source: str
    attempt: int
    crashes: int  # attempts that died with their process
    cancel_requested: bool
    created_at: datetime
    started_at: datetime  # of the first attempt
    has_history: bool  # whether the conversation has a message yet
    spending: Spending
    budget_overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attachments: tuple[Attachment, ...] = ()
    email: dict[str, Any] | None = None  # the mail that started it


class Opening(Protocol):
    """How an attempt begins: with what it has to know before it may spend anything."""

    async def prepare(self, turn: ClaimedTurn, sql: TenantStatements) -> None:
        """Read it."""
        ...

    def reserve(self, spent: Spending, available_nano: int | None) -> Sequence[Reservation]:
        """What may be spent until the first record."""
        ...


async def claim(
    database: Database,
    worker_id: WorkerId,
    *,
    node: str,
    model: str,
    nano_per_credit: int,
    forgiven: Collection[TurnId],
    opening: Opening,
) -> ClaimedTurn | None:
    """The worker's oldest turn that has not ended, now this process's; None if there is none.

    An attempt that neither ended nor released its turn has crashed, unless it is `forgiven`: this
    process lost it to the database's absence, and could not release it. What a dead attempt had
    reserved is booked in full.
    """
    parameters: dict[str, object] = {
        "worker_id": worker_id,
        "node": node,
        "model": model,
        "forgiven": list(forgiven),
        "now": datetime.now(UTC),
    }
    async with database.system().transaction() as sql:
        row = await sql.first(_ClaimRow, _CLAIM, **parameters)
        if row is None:
            # A turn that was just being accepted, or was ended meanwhile, is not seen by a
            # statement that waited for the lock. To say that there is none, the look must come
            # after the lock.
            await sql.run("SELECT 1 FROM workers WHERE id = %(id)s FOR NO KEY UPDATE", id=worker_id)
            row = await sql.first(_ClaimRow, _CLAIM, **parameters)
        if row is None:
            return None
        tenant = TenantStatements(sql.connection, row.organization_id)
        left_over = ledger.parse(row.reservations or ())
        dead = [held.in_full() for held in left_over if not held.is_kept]
        attached = attachments.of_rows(row.attachments)
        if not all(file.delivered for file in attached):
            attached = await _deliver(tenant, row, attached)
        turn = row.turn(attached)
        turn = replace(turn, spending=turn.spending + ledger.total(dead))
        await opening.prepare(turn, tenant)
        reservations = opening.reserve(turn.spending, None)
        if dead or reservations:
            await ledger.take_over(
                tenant,
                turn.id,
                worker_id,
                charges=dead,
                credits=turn.spending.credits(nano_per_credit),
                reservations=reservations,
            )
        if row.has_account:
            await accounts.hold(
                tenant,
                turn.id,
                spending=turn.spending,
                charged_nano=ledger.total(dead).cost_nano,
                reserve=opening.reserve,
                nano_per_credit=nano_per_credit,
            )
    return turn


async def _deliver(
    sql: TenantStatements, row: "_ClaimRow", attached: Sequence[Attachment]
) -> tuple[Attachment, ...]:
    """Put the files of a turn that starts into the workspace, once; the caller holds its row."""
    delivered = await attachments.deliver(sql, row.worker_id, attached)
    await sql.run(
        "UPDATE turns SET attachments = %(attachments)s"
        " WHERE organization_id = %(organization_id)s AND id = %(id)s",
        id=row.id,
        attachments=Jsonb([file.row() for file in delivered]),
    )
    return delivered


# Holds the worker's row as `accept.lock_worker` does, so that nobody cancels the turn meanwhile.
_CLAIM: LiteralString = (
    """
WITH worker AS (SELECT id FROM workers WHERE id = %(worker_id)s FOR NO KEY UPDATE)
UPDATE turns SET status = 'running', attempt = attempt + 1, model = %(model)s,
    crashes = crashes
        + (status = 'running' AND NOT released AND turns.id <> ALL(%(forgiven)s))::int,
    released = false, node = %(node)s, started_at = coalesce(started_at, %(now)s)
FROM worker
WHERE status <> 'completed' AND turns.id = (SELECT t.id FROM turns t WHERE t.worker_id = worker.id
    AND t.status <> 'completed' ORDER BY t.position LIMIT 1)
RETURNING turns.id, organization_id, worker_id, input, budget, source, attempt, crashes,
    cancel_requested, created_at, started_at, attachments, reservations, email,
    EXISTS (SELECT 1 FROM accounts a WHERE a.organization_id = turns.organization_id)
        AS has_account,
    (SELECT o.budgets FROM organizations o WHERE o.id = turns.organization_id) AS budget_overrides,
    EXISTS (SELECT 1 FROM messages m WHERE m.worker_id = turns.worker_id) AS has_history,
    ARRAY["""
    + each_column("@")
    + "] AS spent"
)


@dataclass(frozen=True, slots=True)
class _ClaimRow:
    id: TurnId
    organization_id: OrganizationId
    worker_id: WorkerId
    input: str
    budget: BudgetName
    source: str
    attempt: int
    crashes: int
    cancel_requested: bool
    created_at: datetime
    started_at: datetime
    has_history: bool
    attachments: list[dict[str, Any]]
    reservations: list[dict[str, Any]] | None
    email: dict[str, Any] | None
    has_account: bool
    budget_overrides: dict[str, Any] | None
    spent: list[int]

    def turn(self, attached: tuple[Attachment, ...]) -> ClaimedTurn:
        return ClaimedTurn(
            id=self.id,
            organization_id=self.organization_id,
            worker_id=self.worker_id,
            input=self.input,
            budget=self.budget,
            source=self.source,
            attempt=self.attempt,
            crashes=self.crashes,
            cancel_requested=self.cancel_requested,
            created_at=self.created_at,
            started_at=self.started_at,
            has_history=self.has_history,
            spending=Spending(*self.spent),
            budget_overrides=self.budget_overrides or {},
            attachments=attached,
            email=self.email,
        )
