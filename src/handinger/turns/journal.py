"""The journal of a turn: each step in one fenced transaction.

Every write of an execution names the attempt that it belongs to. When another process has claimed
the turn since, nothing is written and Superseded is raised.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

from psycopg.types.json import Json

from handinger import metrics, story, workers
from handinger.budgets import Charge, Reservation, Reserve, Spending, accounts, ledger
from handinger.budgets.spending import ADD_TO_COLUMNS
from handinger.errors import Superseded
from handinger.ids import TurnId, WorkerId
from handinger.storage.database import Database, TenantStatements
from handinger.story import Entry, Story
from handinger.turns import claiming, endings, stories
from handinger.turns.claiming import ClaimedTurn
from handinger.turns.endings import NOT_COMPLETED, Completion, EndedTurn, Ending

Write = Callable[[TenantStatements], Awaitable[object]]
"""Statements of others that belong into a step's transaction."""


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
        completion = NOT_COMPLETED
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
                await endings.book(sql, turn, completion)
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
            stories.tell_ending(self.story, record.ending)

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

    async def release(self, *, owed: Sequence[Reservation]) -> None:
        """Give the turn back; see `claiming.release`."""
        async with self._tenant.statements() as sql:
            await claiming.release(sql, self.turn, owed=owed)

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
