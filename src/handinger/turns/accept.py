"""Accepting an instruction: one turn for it, in one transaction, however often it is sent."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, LiteralString

import psycopg
from psycopg.types.json import Json, Jsonb

from handinger import attachments, budgets, engine, ids, live, prices, workers
from handinger.attachments import Attachment
from handinger.budgets import Spending, accounts
from handinger.budgets.accounts import Funds
from handinger.errors import IdempotencyKeyReused, PriceUnknown, WorkerBusy
from handinger.ids import KeyId, OrganizationId, ScheduleId, TurnId, WorkerId
from handinger.settings import BudgetName, Settings
from handinger.storage.database import Database, TenantStatements
from handinger.turns.claiming import ClaimedTurn, Claims

# The job that drains a worker's waiting turns; `jobs.py` binds it to the agent. Its queue is the
# organization, so that none can take all the room.
RUN_WORKER = "run_worker"

MAX_INPUT_CHARACTERS = 100_000

Source = Literal["api", "schedule", "email", "agent"]


def trimmed_input(text: str) -> str:
    """An instruction's text as it is stored. Raises ValueError with what is wrong with it."""
    text = text.strip()
    if not text:
        raise ValueError("must not be empty")
    if len(text) > MAX_INPUT_CHARACTERS:
        raise ValueError(f"has {len(text)} characters; {MAX_INPUT_CHARACTERS} may be sent")
    require_storable(text)
    return text


def require_storable(text: str) -> None:
    """Raises ValueError for what PostgreSQL, or UTF-8, cannot hold."""
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must not contain lone surrogates") from error


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a turn is to do, and with how much."""

    input: str
    budget: BudgetName
    source: Source
    attachments: tuple[Attachment, ...] = ()
    email: Mapping[str, Any] | None = None  # the mail it came with, as the wire shows it


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn as it will be once its instruction is accepted."""

    id: TurnId
    worker_id: WorkerId
    created_at: datetime
    instruction: Instruction
    # What this process asks the others, should one of them execute it; see `live.Hub.asking`.
    asking: str | None = None

    @classmethod
    def of(cls, worker_id: WorkerId, instruction: Instruction) -> "NewTurn":
        """With a fresh id."""
        return cls(TurnId(ids.new("trn")), worker_id, datetime.now(UTC), instruction)


@dataclass(frozen=True, slots=True)
class RequestIdentity:
    """What makes two requests the same one."""

    key_id: KeyId
    fingerprint: bytes  # SHA-256 over method, path and body
    idempotency_key: str | None = None
    is_retry: bool = False  # the client says that it sends this again
    made: "Accepted | None" = None  # by an earlier request, if that is known already

    @property
    def text(self) -> str:
        """What equal requests have in common, as far as this one says."""
        return self.idempotency_key or self.fingerprint.hex()

    @property
    def may_repeat(self) -> bool:
        """Whether there may have been one like this before; else there is nothing to look for."""
        return self.is_retry or self.idempotency_key is not None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The turn that an instruction became; `joined` if an earlier request had made it already."""

    worker_id: WorkerId
    turn_id: TurnId
    joined: bool = False


async def create_worker(
    database: Database,
    settings: Settings,
    organization_id: OrganizationId,
    turn: NewTurn,
    *,
    metadata: Mapping[str, Any],
    request: RequestIdentity | None = None,
    seat: engine.Seat | None = None,
    claims: Claims | None = None,
) -> Accepted:
    """A new worker with its first turn, which takes the seat if there is one.

    Then the turn is one of the claims as well, unless files come with it, which a claim delivers.

    Raises OutOfCredits, MonthlyCapReached, PriceUnknown, IdempotencyKeyReused, BodyTooLarge.
    """
    tenant = database.tenant(organization_id)
    # One statement is a transaction by itself, in a fifth of the round trips.
    looks_first = request is not None and request.may_repeat
    claimed: ClaimedTurn | None = None
    try:
        async with tenant.transaction() if looks_first else tenant.statements() as sql:
            earlier = await _joined(sql, request) if looks_first else None
            if earlier is not None:
                return earlier
            funds = await _require_funds(sql, settings, turn)
            attached = turn.instruction.attachments
            await attachments.require_room(sql, settings, turn.worker_id, attached)
            if seat is not None and claims is not None and funds is not None and not attached:
                claimed = _claimed(turn, organization_id, funds)
            job_id = await sql.value(
                _INSERT_WORKER,
                metadata=Json(dict(metadata), dumps=workers.dump),
                model=settings.model_id,
                task_id=ids.new("tsk"),
                node=claims.node if claims is not None and claimed is not None else None,
                **_columns(turn, request),
                **engine.new_job(RUN_WORKER, lock=turn.worker_id, queue=organization_id, seat=seat),
            )
    except (psycopg.Error, asyncio.CancelledError):
        if claims is not None and claimed is not None:
            claims.lost.add(turn.id)  # It may be there nevertheless.
        raise
    if seat is not None and job_id is not None:
        if claims is not None and claimed is not None:
            claims.accepted(claimed)
        seat.take(job_id, RUN_WORKER, lock=turn.worker_id)
    return Accepted(turn.worker_id, turn.id)


def _claimed(turn: NewTurn, organization_id: OrganizationId, funds: Funds) -> ClaimedTurn:
    """A first turn as a claim would find it."""
    return ClaimedTurn(
        id=turn.id,
        organization_id=organization_id,
        worker_id=turn.worker_id,
        input=turn.instruction.input,
        budget=turn.instruction.budget,
        source=turn.instruction.source,
        attempt=1,
        crashes=0,
        cancel_requested=False,
        created_at=turn.created_at,
        started_at=turn.created_at,
        has_history=False,
        spending=Spending(),
        budget_overrides=funds.overrides,
        has_account=funds.account is not None,
    )


async def continue_worker(
    database: Database,
    settings: Settings,
    organization_id: OrganizationId,
    turn: NewTurn,
    *,
    request: RequestIdentity | None = None,
) -> Accepted:
    """The next turn of a worker.

    Raises NotFound, WorkerBusy, IdempotencyKeyReused, BodyTooLarge.
    """
    async with database.tenant(organization_id).transaction() as sql:
        earlier = await _joined(sql, request)
        if earlier is not None:
            return earlier
        await append(sql, settings, turn, request=request)
    return Accepted(turn.worker_id, turn.id)


async def append(
    sql: TenantStatements,
    settings: Settings,
    turn: NewTurn,
    *,
    request: RequestIdentity | None = None,
) -> None:
    """Add a turn to its worker, with its job, in the caller's transaction.

    Locks the worker's row. Raises NotFound, WorkerBusy, BodyTooLarge, OutOfCredits,
    MonthlyCapReached, PriceUnknown; then nothing was added.
    """
    await lock_worker(sql, turn.worker_id)
    await _require_funds(sql, settings, turn)
    waiting = await sql.value(
        "SELECT count(*) FROM turns WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s AND status = 'pending'",
        worker_id=turn.worker_id,
    )
    limit = settings.max_waiting_turns_per_worker
    if waiting >= limit:
        raise WorkerBusy(
            f"{waiting} turns wait for this worker already, and {limit} may. "
            "Wait for one to end, or cancel."
        )
    await attachments.require_room(sql, settings, turn.worker_id, turn.instruction.attachments)
    await sql.run(
        "WITH task AS (SELECT id FROM tasks WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s), node AS (SELECT NULL AS id),"
        + _INSERT_TURN
        + " SELECT "
        + _LOCK_AND_ASK,
        model=None,
        **_columns(turn, request),
    )
    await engine.enqueue(sql.connection, RUN_WORKER, lock=turn.worker_id, queue=sql.organization_id)


async def count_waiting(
    sql: TenantStatements, worker_ids: Collection[WorkerId]
) -> Counter[WorkerId]:
    """How many turns wait for each of these workers."""
    rows = await sql.all(
        _Waiting,
        "SELECT worker_id, count(*)::int AS turns FROM turns"
        " WHERE organization_id = %(organization_id)s AND worker_id = ANY(%(ids)s)"
        " AND status = 'pending' GROUP BY worker_id",
        ids=list(worker_ids),
    )
    return Counter({row.worker_id: row.turns for row in rows})


@dataclass(frozen=True, slots=True)
class _Waiting:
    worker_id: WorkerId
    turns: int


async def append_all(sql: TenantStatements, turns: Sequence[NewTurn]) -> None:
    """Add turns to their workers, with their jobs, in the caller's transaction.

    The caller holds the rows of their workers, in the order of ids, and knows that there is room.
    """
    if not turns:
        return
    await sql.run(
        "INSERT INTO turns"
        " (id, organization_id, worker_id, task_id, status, source, input, budget, created_at)"
        " SELECT row.id, %(organization_id)s, row.worker_id, t.id, 'pending', row.source,"
        " row.input, row.budget, row.created_at FROM unnest(%(ids)s::text[],"
        " %(worker_ids)s::text[], %(sources)s::text[], %(inputs)s::text[], %(budgets)s::text[],"
        " %(created)s::timestamptz[]) WITH ORDINALITY"
        " AS row(id, worker_id, source, input, budget, created_at, n)"
        " JOIN tasks t ON t.organization_id = %(organization_id)s AND t.worker_id = row.worker_id"
        " ORDER BY row.n",
        ids=[turn.id for turn in turns],
        worker_ids=[turn.worker_id for turn in turns],
        sources=[turn.instruction.source for turn in turns],
        inputs=[turn.instruction.input for turn in turns],
        budgets=[turn.instruction.budget for turn in turns],
        created=[turn.created_at for turn in turns],
    )
    locks = sorted({turn.worker_id for turn in turns})
    await engine.enqueue_all(sql.connection, RUN_WORKER, locks=locks, queue=sql.organization_id)


async def _require_funds(sql: TenantStatements, settings: Settings, turn: NewTurn) -> Funds | None:
    """That the turn may spend something. Raises OutOfCredits, MonthlyCapReached, PriceUnknown.

    Whoever asks over HTTP is told at once. A schedule looks before it fires; the turn of a mail
    says it in its `error`.
    """
    if turn.instruction.source != "api":
        return None
    funds = await accounts.funds(sql)
    if funds.account is not None:
        funds.account.require()
    limits = budgets.limits_of(settings, turn.instruction.budget, funds.overrides)
    if (limits.usd is not None or funds.account is not None) and prices.of(settings) is None:
        raise PriceUnknown(prices.unknown(settings))
    return funds


async def lock_worker(sql: TenantStatements, worker_id: WorkerId) -> None:
    """Hold the worker's row until the transaction ends. Raises NotFound.

    Accepting, claiming and cancelling take this lock, so that a job which looks for the next turn
    cannot miss one that is just being accepted. It leaves the row's key alone: whoever journals a
    step holds the turn already when the foreign keys of what it inserts look at the worker.
    """
    found = await sql.value(
        "SELECT 1 FROM workers WHERE organization_id = %(organization_id)s AND id = %(id)s"
        " FOR NO KEY UPDATE",
        id=worker_id,
    )
    if found is None:
        raise workers.not_found(worker_id)


# Goes on from the CTEs `task` and `node`: the process that claims the turn, or null. A request's
# identity is kept with the turn that it made, and its lock is held until both are there, see
# `_joined`.
_INSERT_TURN: LiteralString = """
turn AS (
    INSERT INTO turns
        (id, organization_id, worker_id, task_id, status, attempt, released, node, model,
            started_at, source, input, budget, attachments, email, created_at)
    SELECT %(turn_id)s, %(organization_id)s, %(worker_id)s, task.id,
        CASE WHEN node.id IS NULL THEN 'pending' ELSE 'running' END, (node.id IS NOT NULL)::int,
        node.id IS NULL, node.id, CASE WHEN node.id IS NOT NULL THEN %(model)s END,
        CASE WHEN node.id IS NOT NULL THEN %(created_at)s END, %(source)s,
        %(input)s, %(budget)s, %(attachments)s, %(email)s, %(created_at)s
    FROM task, node
    RETURNING id
),
request AS (
    INSERT INTO requests (organization_id, key_id, idempotency_key, fingerprint, turn_id)
    SELECT %(organization_id)s, %(key_id)s, %(idempotency_key)s, %(fingerprint)s, id
    FROM turn WHERE %(key_id)s::text IS NOT NULL
)
"""
_LOCK_AND_ASK: LiteralString = """
    (SELECT pg_advisory_xact_lock(hashtextextended(%(organization_id)s || %(identity)s, 1))
        WHERE %(identity)s::text IS NOT NULL),
    (SELECT pg_notify(%(channel)s, %(asking)s) WHERE %(asking)s::text IS NOT NULL)
"""

_INSERT_WORKER: LiteralString = (
    "WITH worker AS (INSERT INTO workers (id, organization_id, metadata, model)"
    " VALUES (%(worker_id)s, %(organization_id)s, %(metadata)s, %(model)s)),"
    " task AS (INSERT INTO tasks (id, organization_id, worker_id)"
    " VALUES (%(task_id)s, %(organization_id)s, %(worker_id)s) RETURNING id), "
    + engine.SEAT_NEW
    # Without its seat, the turn is for whoever takes the job.
    + ", node AS (SELECT (SELECT %(node)s::text FROM seated) AS id),"
    + _INSERT_TURN
    + " SELECT (SELECT id FROM seated), "
    + _LOCK_AND_ASK
    + ", "
    + engine.ENQUEUE_NEW
)


def _columns(turn: NewTurn, request: RequestIdentity | None) -> dict[str, object]:
    return {
        "turn_id": turn.id,
        "worker_id": turn.worker_id,
        "source": turn.instruction.source,
        "input": turn.instruction.input,
        "budget": turn.instruction.budget,
        "attachments": Jsonb([file.row() for file in turn.instruction.attachments]),
        "email": None if turn.instruction.email is None else Jsonb(dict(turn.instruction.email)),
        "created_at": turn.created_at,
        "key_id": request.key_id if request else None,
        "idempotency_key": request.idempotency_key if request else None,
        "fingerprint": request.fingerprint if request else None,
        "identity": request.text if request else None,
        "channel": live.CHANNEL,
        "asking": turn.asking,
    }


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier request made: a turn of a worker, or a schedule."""

    fingerprint: bytes
    turn_id: TurnId | None
    worker_id: WorkerId | None
    schedule_id: ScheduleId | None


_SELECT_EARLIER = (
    "SELECT r.fingerprint, r.turn_id, t.worker_id, r.schedule_id FROM requests r"
    " LEFT JOIN turns t ON t.id = r.turn_id"
    " WHERE r.organization_id = %(organization_id)s"
)


async def find_joined(
    database: Database, organization_id: OrganizationId, request: RequestIdentity
) -> Accepted | None:
    """The turn that this request has made already. Raises IdempotencyKeyReused."""
    if not request.may_repeat:
        return None
    async with database.tenant(organization_id).transaction() as sql:
        return await _joined(sql, request)


async def _joined(sql: TenantStatements, request: RequestIdentity | None) -> Accepted | None:
    """The turn of an earlier request that this one repeats."""
    if request is not None and request.made is not None:
        return request.made
    earlier = await find_earlier(sql, request)
    if earlier is None or earlier.turn_id is None or earlier.worker_id is None:
        return None
    return Accepted(earlier.worker_id, earlier.turn_id, joined=True)


async def find_earlier(sql: TenantStatements, request: RequestIdentity | None) -> Earlier | None:
    """What the request that this one repeats has made. Raises IdempotencyKeyReused.

    Until the transaction ends, nobody else looks for the same.
    """
    if request is None:
        return None
    # The same request may arrive twice at the same time; the second must see what the first made.
    await sql.run(
        "SELECT pg_advisory_xact_lock(hashtextextended(%(organization_id)s || %(identity)s, 1))",
        identity=request.text,
    )
    if request.idempotency_key is not None:
        return await _find_by_key(sql, request)
    if not request.is_retry:
        return None
    return await sql.first(
        Earlier,
        _SELECT_EARLIER + " AND r.fingerprint = %(fingerprint)s"
        " AND r.idempotency_key IS NULL AND r.delivered_at IS NULL"
        " AND r.created_at > now() - interval '10 minutes'"
        " ORDER BY r.id DESC LIMIT 1",
        fingerprint=request.fingerprint,
    )


async def remember(
    sql: TenantStatements,
    request: RequestIdentity,
    *,
    turn_id: TurnId | None = None,
    schedule_id: ScheduleId | None = None,
) -> None:
    """Keep the identity of a request that made no turn, with what it was about."""
    await sql.run(
        "INSERT INTO requests"
        " (organization_id, key_id, idempotency_key, fingerprint, turn_id, schedule_id)"
        " VALUES (%(organization_id)s, %(key_id)s, %(key)s, %(fingerprint)s, %(turn_id)s,"
        " %(schedule_id)s)",
        key_id=request.key_id,
        key=request.idempotency_key,
        fingerprint=request.fingerprint,
        turn_id=turn_id,
        schedule_id=schedule_id,
    )


async def _find_by_key(sql: TenantStatements, request: RequestIdentity) -> Earlier | None:
    await sql.run(
        "DELETE FROM requests WHERE organization_id = %(organization_id)s"
        " AND idempotency_key = %(key)s AND created_at <= now() - interval '24 hours'",
        key=request.idempotency_key,
    )
    earlier = await sql.first(
        Earlier,
        _SELECT_EARLIER + " AND r.idempotency_key = %(key)s",
        key=request.idempotency_key,
    )
    if earlier is not None and earlier.fingerprint != request.fingerprint:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used with another request in the last 24 hours; "
            "send a new key with a new request."
        )
    return earlier
