"""Executing a turn durably: claim it, journal each step in one fenced transaction, end it.

Every write of an execution names the attempt that it belongs to. When another process has claimed
the turn since, nothing is written and Superseded is raised.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, LiteralString, Protocol
from urllib.parse import unquote

from psycopg.types.json import Json, Jsonb

from handinger import attachments, engine, live, metrics, story, workers
from handinger.attachments import Attachment
from handinger.budgets import Charge, Reservation, Reserve, Spending, accounts, ledger
from handinger.budgets.spending import ADD_TO_COLUMNS, each_column
from handinger.errors import Superseded
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.settings import BudgetName
from handinger.storage.database import Database, TenantStatements
from handinger.story import Entry, Event, Story

ErrorCode = Literal["model_error", "timeout", "budget_too_small", "internal_error"]
IncompleteReason = Literal["budget_exhausted", "max_output_tokens", "cancelled"]

# The job that does what follows a turn; `jobs.py` binds it.
TURN_ENDED = "turn_ended"

Write = Callable[[TenantStatements], Awaitable[object]]
"""Statements of others that belong into a step's transaction."""


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


@dataclass(frozen=True, slots=True)
class ToolRecord:
    """A tool call of this turn, as the journal has it."""

    step: int
    tool_call_id: str
    tool_name: str
    result: str | None  # JSON; None while it is not known to have finished


@dataclass(frozen=True, slots=True)
class Record:
    """What one step adds to the journal; all of it is stored, or nothing.

    What was reserved before is let go: `charges` take its place, and `reserve` says what may be
    spent next.
    """

    messages: Sequence[str] = ()  # model messages, as JSON
    started_tools: Sequence[ToolRecord] = ()
    finished_tools: Sequence[ToolRecord] = ()
    writes: Sequence[Write] = ()  # in order, after all else
    charges: Sequence[Charge] = ()
    reserve: Reserve | None = None
    ending: Ending | None = None


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


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One model message of the conversation."""

    id: int
    turn_id: TurnId
    payload: str
    covers_id: int | None  # of the last message that this one is a summary of
    covered_responses: int


async def load_messages(
    sql: TenantStatements, worker_id: WorkerId, *, after: int
) -> list[StoredMessage]:
    """The conversation from a message on, oldest first; nothing that the latest summary covers."""
    return await sql.all(
        StoredMessage,
        "SELECT id, turn_id, payload, covers_id, covered_responses FROM messages"
        " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
        " AND id > greatest(%(after)s, (SELECT m.covers_id FROM messages m"
        " WHERE m.organization_id = %(organization_id)s AND m.worker_id = %(worker_id)s"
        " AND m.covers_id IS NOT NULL ORDER BY m.id DESC LIMIT 1)) ORDER BY id",
        worker_id=worker_id,
        after=after,
    )


async def load_tools(sql: TenantStatements, turn_id: TurnId) -> list[ToolRecord]:
    """Every tool call that this turn has started."""
    return await sql.all(
        ToolRecord,
        "SELECT step, tool_call_id, tool_name, result FROM tool_calls"
        " WHERE organization_id = %(organization_id)s AND turn_id = %(turn_id)s",
        turn_id=turn_id,
    )


@dataclass(frozen=True, slots=True)
class _Advanced:
    cancel_requested: bool
    last_message_id: int | None
    others_wait: bool
    has_account: bool


class Journal:
    """The only writer of one attempt at one turn."""

    def __init__(
        self, database: Database, turn: ClaimedTurn, told: Story, *, nano_per_credit: int
    ) -> None:
        self.turn = turn
        self.story = told
        self.spending = turn.spending
        self.cancel_requested = turn.cancel_requested
        self.last_message_id = 0
        # Whether a turn waited behind this one when it ended; known once it has.
        self.others_wait = True
        self._nano_per_credit = nano_per_credit
        self._tenant = database.tenant(turn.organization_id)

    async def write(self, record: Record) -> None:
        """Store a step, with all that the story told of it. Raises Superseded."""
        charged = ledger.total(record.charges)
        spending = self.spending + charged
        entries = self.story.uncommitted()
        first = self.story.committed
        completion = _NOT_COMPLETED
        async with self._tenant.transaction() as sql:
            if record.ending is not None:
                turn = self._ended(spending)
                completion = Completion.of(
                    turn,
                    record.ending,
                    credits=spending.credits(self._nano_per_credit),
                    entries=self.story.entries,
                    retry=self.story.take.retry + 1,
                )
                # First, so that every transaction locks a worker before its turns.
                await book(sql, turn, completion)
            advanced = await self._advance(sql, record, spending, first, entries, completion)
            if record.started_tools:
                await self._insert_tools(sql, record.started_tools)
            for tool in record.finished_tools:
                await self._finish_tool(sql, tool)
            for write in record.writes:
                await write(sql)
            if record.ending is not None and self.turn.source == "email":
                await self._keep_published(sql)
            if advanced.has_account:
                await accounts.hold(
                    sql,
                    self.turn.id,
                    spending=spending,
                    charged_nano=charged.cost_nano,
                    reserve=None if record.ending else record.reserve,
                    nano_per_credit=self._nano_per_credit,
                )
        self.spending = spending
        self.story.commit(first + len(entries))
        _count(self.turn, charged, record.ending)
        if record.ending is not None:
            tell_ending(self.story, record.ending)

    def _ended(self, spending: Spending) -> "EndedTurn":
        turn = self.turn
        return EndedTurn(
            id=turn.id,
            worker_id=turn.worker_id,
            source=turn.source,
            created_at=turn.created_at,
            started_at=turn.started_at,
            spending=spending,
        )

    async def release(self, *, under_way: Sequence[Reservation] = ()) -> None:
        """Give the turn back as it is; whoever claims it next goes on. Not a crash.

        What is reserved for calls that are `under_way` stays, and is booked by the next claim.
        """
        async with self._tenant.statements() as sql:
            await sql.run(
                "UPDATE turns SET released = true, reservations = %(reservations)s,"
                " reserved_nano = %(reserved_nano)s WHERE organization_id = %(organization_id)s"
                " AND id = %(id)s AND attempt = %(attempt)s AND status = 'running'",
                id=self.turn.id,
                attempt=self.turn.attempt,
                **ledger.held(under_way),
            )

    async def _advance(
        self,
        sql: TenantStatements,
        record: Record,
        spending: Spending,
        first: int,
        entries: Sequence[Entry],
        completion: "Completion",
    ) -> _Advanced:
        """The fence, the sums, the ledger, the entries and the messages in one statement.

        Raises Superseded.

        This is the hot path: every statement costs about as much as the work that it does.
        """
        reservations: Sequence[Reservation] = ()
        if record.reserve is not None and record.ending is None:
            reservations = record.reserve(spending, None)
        advanced = await sql.first(
            _Advanced,
            "WITH fenced AS (UPDATE turns SET status = %(status)s, ended_at = %(ended_at)s,"
            " error = %(error)s, incomplete_reason = %(reason)s, retry = %(retry)s,"
            " output = %(output)s, assistant_message = %(message)s,"
            " reservations = %(reservations)s, reserved_nano = %(reserved_nano)s,"
            " credits = %(credits)s, "
            + ADD_TO_COLUMNS
            + " WHERE organization_id = %(organization_id)s AND id = %(id)s"
            " AND attempt = %(attempt)s AND status = 'running' RETURNING id, cancel_requested),"
            " booked AS (" + ledger.INSERT + "),"
            " told AS (INSERT INTO entries"
            " (organization_id, turn_id, number, attempt, retry, kind, text, data)"
            " SELECT %(organization_id)s, fenced.id, row.* FROM fenced,"
            " unnest(%(numbers)s::int[], %(attempts)s::int[], %(retries)s::int[],"
            " %(kinds)s::text[], %(texts)s::text[], %(data)s::json[]) row),"
            " said AS (INSERT INTO messages (organization_id, worker_id, turn_id, payload)"
            " SELECT %(organization_id)s, %(worker_id)s, fenced.id, payload FROM fenced,"
            " unnest(%(payloads)s::text[]) WITH ORDINALITY AS row(payload, n) ORDER BY n"
            " RETURNING id)"
            " SELECT cancel_requested, (SELECT max(id) FROM said) AS last_message_id,"
            " EXISTS (SELECT 1 FROM turns WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s AND status = 'pending') AS others_wait,"
            " EXISTS (SELECT 1 FROM accounts WHERE organization_id = %(organization_id)s)"
            " AS has_account FROM fenced",
            id=self.turn.id,
            worker_id=self.turn.worker_id,
            attempt=self.turn.attempt,
            numbers=list(range(first, first + len(entries))),
            attempts=[entry.take.attempt for entry in entries],
            retries=[entry.take.retry for entry in entries],
            kinds=[entry.kind.value for entry in entries],
            texts=[entry.text for entry in entries],
            data=[Json(entry.data, dumps=workers.dump) for entry in entries],
            payloads=list(record.messages),
            credits=spending.credits(self._nano_per_credit),
            **completion.columns(),
            **ledger.held(reservations),
            **ledger.columns(record.charges),
            **ledger.total(record.charges).columns(),
        )
        if advanced is None:
            raise Superseded(f"Turn {self.turn.id} is no longer executed by this attempt.")
        self.cancel_requested = self.cancel_requested or advanced.cancel_requested
        self.last_message_id = advanced.last_message_id or self.last_message_id
        self.others_wait = advanced.others_wait
        return advanced

    async def _keep_published(self, sql: TenantStatements) -> None:
        """Keep which files the turn published, for its answer: the next turn may change them."""
        folder = f"/workers/{self.turn.worker_id}/files/"
        urls = [entry.data["url"] for entry in self.story.entries if entry.kind is story.Kind.FILE]
        await sql.run(
            "UPDATE turns SET published = (SELECT coalesce(jsonb_agg(jsonb_build_object("
            "'path', path, 'sha256', sha256, 'size', size, 'media_type', media_type)"
            " ORDER BY path), '[]') FROM files WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s AND path = ANY(%(paths)s) AND published)"
            " WHERE organization_id = %(organization_id)s AND id = %(id)s",
            worker_id=self.turn.worker_id,
            id=self.turn.id,
            paths=[unquote(url.partition(folder)[2]) for url in urls],
        )

    async def _insert_tools(self, sql: TenantStatements, tools: Sequence[ToolRecord]) -> None:
        await sql.run(
            "INSERT INTO tool_calls (organization_id, turn_id, step, tool_call_id, tool_name)"
            " SELECT %(organization_id)s, %(turn_id)s, row.*"
            " FROM unnest(%(steps)s::int[], %(calls)s::text[], %(names)s::text[]) row",
            turn_id=self.turn.id,
            steps=[tool.step for tool in tools],
            calls=[tool.tool_call_id for tool in tools],
            names=[tool.tool_name for tool in tools],
        )

    async def _finish_tool(self, sql: TenantStatements, tool: ToolRecord) -> None:
        await sql.run(
            "UPDATE tool_calls SET ended_at = now(), result = %(result)s"
            " WHERE organization_id = %(organization_id)s AND turn_id = %(turn_id)s"
            " AND step = %(step)s AND tool_call_id = %(call)s",
            turn_id=self.turn.id,
            step=tool.step,
            call=tool.tool_call_id,
            result=tool.result,
        )


def _count(turn: ClaimedTurn, charged: Spending, ending: Ending | None) -> None:
    """Add a step that is stored to the metrics."""
    metrics.steps.inc(charged.steps)
    metrics.tokens.labels("input").inc(charged.input_tokens)
    metrics.tokens.labels("output").inc(charged.output_tokens)
    for kind, nano in charged.costs_nano.items():
        metrics.cost_usd.labels(kind).inc(nano / 1e9)
    if ending is not None:
        metrics.count_ending(
            source=turn.source,
            outcome=ending.outcome,
            seconds=max(0.0, (datetime.now(UTC) - turn.created_at).total_seconds()),
        )


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


_NOT_COMPLETED = Completion(status="running")


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


def tell_ending(told: Story, ending: Ending) -> None:
    """Add the story's last two entries; they are implied by the ended turn, never stored."""
    told.begin(story.Take(told.take.attempt, told.take.retry + 1))
    told.tell(story.Kind.WORKER)
    told.tell(story.Kind.END, data=_terminal_event(ending))
    told.commit()
    told.ended = True


def _terminal_event(ending: Ending) -> Event:
    if ending.error_code is not None:
        return {"type": "error", "errorText": ending.error_message}
    if ending.incomplete_reason == "cancelled":
        return {"type": "abort"}
    return {"type": "finish"}


def new_story(
    turn_id: TurnId,
    worker_id: WorkerId,
    *,
    input: str,
    source: str,
    created_at: datetime,
    attached: Sequence[Attachment] = (),
    email: Mapping[str, Any] | None = None,
) -> Story:
    """A story with the two entries that every one begins with; the accepted turn implies them."""
    metadata: dict[str, Any] = workers.message_metadata(
        worker_id, turn_id, source, created_at, email=email
    )
    message = workers.user_message(turn_id, input, metadata, attached)
    start = {
        "messageId": story.message_id(turn_id),
        "messageMetadata": {"workerId": worker_id, "turnId": turn_id},
    }
    entries = [
        Entry(story.Kind.USER, story.BEFORE_ANY_TAKE, data=message),
        Entry(story.Kind.START, story.BEFORE_ANY_TAKE, data=start),
    ]
    return Story(turn_id, story.message_id(turn_id), entries)
