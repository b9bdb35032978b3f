"""Claiming a turn: from then on, this attempt of this process is the only one that writes it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, LiteralString, Protocol

from psycopg.types.json import Jsonb

from handinger import attachments
from handinger.attachments import Attachment
from handinger.budgets import Charge, Reservation, Spending, accounts, ledger
from handinger.budgets.spending import each_column
from handinger.errors import Superseded
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.settings import BudgetName, Settings
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
    has_account: bool = False  # whether its organization's means are limited


class Opening(Protocol):
    """How an attempt begins: with what it has to know before it may spend anything."""

    async def prepare(self, turn: ClaimedTurn, sql: TenantStatements) -> None:
        """Read it."""
        ...

    def reserve(self, spent: Spending, available_nano: int | None) -> Sequence[Reservation]:
        """What may be spent until the first record."""
        ...


class Claims:
    """Claims turns for this process."""

    def __init__(self, database: Database, settings: Settings, *, node: str) -> None:
        self.node = node
        self._database = database
        self._model = settings.model_id
        self._nano_per_credit = settings.nano_per_credit
        # Turns that this process claimed and could not go on with, mostly as the database was away.
        self.lost: set[TurnId] = set()
        # First turns, which were claimed as they were accepted.
        self._accepted: dict[WorkerId, ClaimedTurn] = {}

    def accepted(self, turn: ClaimedTurn) -> None:
        """The first turn of a worker was claimed as it was accepted, and its job begins now."""
        self._accepted[turn.worker_id] = turn

    async def claim(self, worker_id: WorkerId, *, opening: Opening) -> ClaimedTurn | None:
        """The worker's oldest turn that has not ended, now this process's; None if there is none.

        An attempt that neither ended nor released its turn has crashed, unless this process has
        `lost` it and could not release it. What a dead attempt had reserved is booked in full.
        Raises Superseded if another process takes the turn over meanwhile.
        """
        accepted = self._accepted.pop(worker_id, None)
        if accepted is not None:
            return await self._begin_accepted(accepted, opening)
        parameters: dict[str, object] = {
            "worker_id": worker_id,
            "node": self.node,
            "model": self._model,
            "lost": list(self.lost),
            "now": datetime.now(UTC),
        }
        async with self._database.system().transaction() as sql:
            row = await sql.first(_ClaimRow, _CLAIM, **parameters)
            if row is None:
                # A turn that was just being accepted, or was ended meanwhile, is not seen by a
                # statement that waited for the lock. To say that there is none, the look must come
                # after the lock.
                await sql.run(
                    "SELECT 1 FROM workers WHERE id = %(id)s FOR NO KEY UPDATE", id=worker_id
                )
                row = await sql.first(_ClaimRow, _CLAIM, **parameters)
            if row is None:
                return None
            tenant = TenantStatements(sql.connection, row.organization_id)
            attached = attachments.of_rows(row.attachments)
            if not all(file.delivered for file in attached):
                attached = await _deliver(tenant, row, attached)
            left_over = ledger.parse(row.reservations or ())
            dead = [held.in_full() for held in left_over if not held.is_kept]
            turn = row.turn(attached, booked=ledger.total(dead))
            await self._begin(tenant, turn, opening, dead=dead)
        return turn

    async def give_back(self, worker_id: WorkerId) -> None:
        """Release the turn that was claimed as it was accepted, if its job has not begun it."""
        turn = self._accepted.pop(worker_id, None)
        if turn is None:
            return
        self.lost.add(turn.id)
        await self._release_unbegun(turn)

    async def _release_unbegun(self, turn: ClaimedTurn) -> None:
        async with self._database.tenant(turn.organization_id).statements() as sql:
            await release(sql, turn, has_begun=False)

    async def _begin_accepted(self, turn: ClaimedTurn, opening: Opening) -> ClaimedTurn:
        tenant = self._database.tenant(turn.organization_id)
        try:
            async with tenant.transaction() if turn.has_account else tenant.statements() as sql:
                await self._begin(sql, turn, opening, dead=())
        except Superseded:
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._release_unbegun(turn))
            raise
        except Exception:
            self.lost.add(turn.id)
            raise
        return turn

    async def _begin(
        self,
        sql: TenantStatements,
        turn: ClaimedTurn,
        opening: Opening,
        *,
        dead: Sequence[Charge],
    ) -> None:
        """Prepare this attempt, book the dead one, and reserve. Raises Superseded."""
        await opening.prepare(turn, sql)
        reservations = opening.reserve(turn.spending, None)
        if not (dead or reservations or turn.has_account):
            return
        took_over = await ledger.take_over(
            sql,
            turn.id,
            turn.worker_id,
            attempt=turn.attempt,
            charges=dead,
            credits=turn.spending.credits(self._nano_per_credit),
            reservations=reservations,
        )
        if not took_over:
            raise Superseded(f"Turn {turn.id} was taken over before this attempt began.")
        if turn.has_account:
            await accounts.hold(
                sql,
                turn.id,
                spending=turn.spending,
                charged_nano=ledger.total(dead).cost_nano,
                reserve=opening.reserve,
                nano_per_credit=self._nano_per_credit,
            )


async def release(
    sql: TenantStatements,
    turn: ClaimedTurn,
    *,
    owed: Sequence[Reservation] = (),
    has_begun: bool = True,
) -> None:
    """Give a turn back as it is; whoever claims it next goes on, and books what is `owed`.

    Not a crash. The time of a turn that has not begun begins with the next claim.
    """
    await sql.run(
        "UPDATE turns SET released = true, reservations = %(reservations)s,"
        " reserved_nano = %(reserved_nano)s,"
        " started_at = CASE WHEN %(has_begun)s THEN started_at END"
        " WHERE organization_id = %(organization_id)s AND id = %(id)s"
        " AND attempt = %(attempt)s AND status = 'running'",
        id=turn.id,
        attempt=turn.attempt,
        has_begun=has_begun,
        **ledger.held(owed),
    )


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
        + (status = 'running' AND NOT released AND turns.id <> ALL(%(lost)s))::int,
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

    def turn(self, attached: tuple[Attachment, ...], *, booked: Spending) -> ClaimedTurn:
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
            spending=Spending(*self.spent) + booked,
            budget_overrides=self.budget_overrides or {},
            attachments=attached,
            email=self.email,
            has_account=self.has_account,
        )
