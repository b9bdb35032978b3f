"""A worker as it is seen: its status, its latest output, its conversation, its files, its cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from handinger import attachments, engine, files, story
from handinger.attachments import Attachment
from handinger.budgets import Spending, ledger
from handinger.budgets.spending import each_column
from handinger.errors import NotFound
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.settings import Settings
from handinger.sources import Source
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, TenantStatements
from handinger.story import Entry, Event, Kind, Take

Status = Literal["pending", "running", "completed"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file that the worker shows."""

    path: str
    media_type: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class WorkerView:
    """Everything that the wire's `Worker` says, at one moment."""

    id: WorkerId
    turn_id: TurnId | None  # that `output`, `error` and `incomplete_reason` are of
    created_at: datetime
    status: Status
    metadata: dict[str, Any]
    error: dict[str, str] | None
    incomplete_reason: str | None
    output: Sequence[Event]
    messages: Sequence[str]  # UI messages as JSON texts, oldest first
    files: Sequence[PublishedFile]
    sources: Sequence[Source]
    spending: Spending
    credits: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class _WorkerRow:
    id: WorkerId
    created_at: datetime
    metadata: dict[str, Any]
    model: str
    credits: int
    duration_ms: int
    spending: list[int]
    live_spending: list[int]
    live_credits: int
    any_running: bool
    any_waiting: bool
    running_since: datetime | None
    turn_id: TurnId | None
    turn_status: Status | None
    error: dict[str, str] | None
    incomplete_reason: str | None
    output: list[Event] | None
    published: list[tuple[str, str, int]]
    used: list[tuple[str, str, str | None]]
    # Of each turn: id, status, source, input, assistant's message, microseconds of its acceptance,
    # the files that came with it, the mail that brought it.
    said: list[tuple[TurnId, Status, str, str, str | None, str, str, str | None]]


_SELECT = (
    """
SELECT w.id, w.created_at, w.metadata, w.model, w.credits, w.duration_ms,
    ARRAY["""
    + each_column("w.@")
    + """] AS spending,
    unended.*, latest.*,
    (SELECT coalesce(json_agg(json_build_array(f.path, f.media_type, f.size) ORDER BY f.path), '[]')
        FROM files f WHERE f.organization_id = %(organization_id)s AND f.worker_id = w.id
        AND f.published) AS published,
    (SELECT coalesce(json_agg(json_build_array(s.id, s.url, s.title)
            ORDER BY s.created_at, s.id), '[]')
        FROM sources s WHERE s.organization_id = %(organization_id)s AND s.worker_id = w.id
    ) AS used,
    CASE WHEN %(with_messages)s THEN ARRAY(
        SELECT ARRAY[t.id, t.status, t.source, t.input, t.assistant_message::text,
            (extract(epoch FROM t.created_at) * 1000000)::bigint::text, t.attachments::text,
            t.email::text]
        FROM turns t WHERE t.organization_id = %(organization_id)s AND t.worker_id = w.id
        ORDER BY t.position) ELSE '{}' END AS said
FROM workers w
CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(t.status = 'running'), false) AS any_running,
        coalesce(bool_or(t.status = 'pending'), false) AS any_waiting,
        min(t.started_at) AS running_since,
        ARRAY["""
    + each_column("coalesce(sum(t.@), 0)")
    + """]::bigint[] AS live_spending,
        coalesce(sum(t.credits), 0)::bigint AS live_credits
    FROM turns t
    WHERE t.organization_id = %(organization_id)s AND t.worker_id = w.id
        AND t.status <> 'completed'
) unended
LEFT JOIN LATERAL (
    SELECT t.id AS turn_id, t.status AS turn_status, t.error, t.incomplete_reason, t.output
    FROM turns t
    WHERE t.organization_id = %(organization_id)s AND t.worker_id = w.id
        AND CASE WHEN %(turn_id)s::text IS NULL THEN t.status <> 'pending'
            ELSE t.id = %(turn_id)s END
    ORDER BY t.status = 'running' DESC, t.ended_at DESC NULLS LAST, t.position DESC LIMIT 1
) latest ON true
"""
)


async def view(
    database: Database,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    *,
    turn_id: TurnId | None = None,
    with_messages: bool = True,
) -> WorkerView:
    """The worker as of now; with a turn's id, output and errors are that turn's.

    Raises NotFound.
    """
    tenant = database.tenant(organization_id)
    async with tenant.statements() as sql:
        row = await _row(sql, worker_id, turn_id, with_messages=with_messages)
        if not row.any_running:
            return await _complete(sql, row)
    # What the running turn has told must be of the same moment.
    async with tenant.snapshot() as sql:
        row = await _row(sql, worker_id, turn_id, with_messages=with_messages)
        return await _complete(sql, row)


async def _row(
    sql: TenantStatements, worker_id: WorkerId, turn_id: TurnId | None, *, with_messages: bool
) -> _WorkerRow:
    row = await sql.first(
        _WorkerRow,
        _SELECT + " WHERE w.organization_id = %(organization_id)s AND w.id = %(worker_id)s",
        worker_id=worker_id,
        turn_id=turn_id,
        with_messages=with_messages,
    )
    if row is None:
        raise not_found(worker_id)
    return row


async def require(sql: TenantStatements, worker_id: WorkerId) -> None:
    """Raises NotFound for what is no worker of this organization."""
    found = await sql.value(
        "SELECT 1 FROM workers WHERE organization_id = %(organization_id)s AND id = %(id)s",
        id=worker_id,
    )
    if found is None:
        raise not_found(worker_id)


async def page(
    database: Database,
    organization_id: OrganizationId,
    *,
    limit: int,
    before: str | None,
    status: Status | None,
) -> list[WorkerView]:
    """Workers without their messages, newest first; `before` is the last id of the page before."""
    async with database.tenant(organization_id).snapshot() as sql:
        rows = await sql.all(
            _WorkerRow,
            _SELECT + " WHERE w.organization_id = %(organization_id)s"
            " AND (%(before)s::text IS NULL OR w.id < %(before)s)"
            " AND (%(status)s::text IS NULL OR %(status)s = CASE WHEN unended.any_running"
            " THEN 'running' WHEN unended.any_waiting THEN 'pending' ELSE 'completed' END)"
            " ORDER BY w.id DESC LIMIT %(limit)s",
            turn_id=None,
            with_messages=False,
            before=before,
            status=status,
            limit=limit,
        )
        return [await _complete(sql, row) for row in rows]


async def _complete(sql: TenantStatements, row: _WorkerRow) -> WorkerView:
    running_entries: list[Entry] = []
    if row.any_running:
        running_entries = await entries_of_running_turn(sql, row.id)
    output = row.output or []
    if row.turn_id and row.turn_status == "running":
        output = story.outputs(story.message_id(row.turn_id), running_entries)
    live_ms = 0
    if row.running_since is not None:
        live_ms = max(0, int((datetime.now(UTC) - row.running_since).total_seconds() * 1000))
    live = Spending(*row.live_spending)
    return WorkerView(
        id=row.id,
        turn_id=row.turn_id,
        created_at=row.created_at,
        status="running" if row.any_running else "pending" if row.any_waiting else "completed",
        metadata={**row.metadata, "model": row.model},
        error=row.error,
        incomplete_reason=row.incomplete_reason,
        output=output,
        messages=_messages(row, running_entries),
        files=[PublishedFile(*file) for file in row.published],
        sources=[Source(*source) for source in row.used],
        spending=Spending(*row.spending) + live,
        credits=row.credits + row.live_credits,
        duration_ms=row.duration_ms + live_ms,
    )


def _messages(row: _WorkerRow, running_entries: Sequence[Entry]) -> list[str]:
    messages: list[str] = []
    for turn_id, status, source, text, answer, microseconds, attached, email in row.said:
        created_at = _EPOCH + timedelta(microseconds=int(microseconds))
        metadata = message_metadata(row.id, turn_id, source, created_at)
        of_mail = json.loads(email) if email else None
        told = message_metadata(row.id, turn_id, source, created_at, email=of_mail)
        came_with = attachments.of_rows(json.loads(attached))
        messages.append(dump(user_message(turn_id, text, told, came_with)))
        if answer is not None:
            messages.append(answer)
        elif status == "running":
            so_far = assistant_message(turn_id, running_entries, metadata)
            messages += [dump(so_far)] if so_far else []
    return messages


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A stored entry of a story."""

    number: int
    attempt: int
    retry: int
    kind: str
    text: str
    data: dict[str, Any]

    def entry(self) -> Entry:
        """The entry it holds."""
        return Entry(
            Kind(self.kind), Take(self.attempt, self.retry), text=self.text, data=self.data
        )


async def entries_of_running_turn(sql: TenantStatements, worker_id: WorkerId) -> list[Entry]:
    """What is stored of the story of the turn that runs."""
    rows = await sql.all(
        EntryRow,
        "SELECT e.number, e.attempt, e.retry, e.kind, e.text, e.data"
        " FROM turns t JOIN entries e ON e.turn_id = t.id"
        " WHERE t.organization_id = %(organization_id)s AND t.worker_id = %(worker_id)s"
        " AND t.status = 'running' ORDER BY e.number",
        worker_id=worker_id,
    )
    return [row.entry() for row in rows]


async def delete(
    database: Database, blobs: Blobs, organization_id: OrganizationId, worker_id: WorkerId
) -> bool:
    """Remove the worker's rows, jobs and bytes; False if a turn of it has not ended.

    Raises NotFound.
    """
    async with database.tenant(organization_id).transaction() as sql:
        # Locks out accepting and claiming; whoever journals a step is seen by the next look.
        await sql.run(
            "SELECT 1 FROM workers WHERE organization_id = %(organization_id)s AND id = %(id)s"
            " FOR UPDATE",
            id=worker_id,
        )
        unended = await sql.value(
            "SELECT 1 FROM turns WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(id)s AND status <> 'completed' LIMIT 1",
            id=worker_id,
        )
        if unended is not None:
            return False
        # Every table of a worker's hangs on this row.
        deleted = await sql.run(
            "DELETE FROM workers WHERE organization_id = %(organization_id)s AND id = %(id)s",
            id=worker_id,
        )
        if not deleted:
            raise not_found(worker_id)
        await ledger.forget(sql, worker_id)
        await engine.drop_waiting(sql.connection, lock=worker_id)
        # Should this process die before it has removed the bytes, they are garbage at once.
        await sql.run(
            "UPDATE blobs SET used_at = '-infinity' WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(id)s",
            id=worker_id,
        )
    await blobs.delete_worker(worker_id)
    async with database.tenant(organization_id).statements() as sql:
        # What was stored since is younger.
        await sql.run(
            "DELETE FROM blobs WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(id)s AND used_at = '-infinity'",
            id=worker_id,
        )
    return True


def not_found(worker_id: str) -> NotFound:
    """The same words for a worker that never was and for another organization's."""
    return NotFound(f"There is no worker {worker_id[:80]!r}.")


def user_message(
    turn_id: TurnId, text: str, metadata: Event, attached: Sequence[Attachment] = ()
) -> Event:
    """The instruction as a UI message, with the files that came with it."""
    attached_parts = [
        {
            "type": "file",
            "mediaType": file.media_type,
            "filename": file.filename,
            "url": file.url,
        }
        for file in attached
    ]
    return {
        "id": story.user_message_id(turn_id),
        "role": "user",
        "parts": [{"type": "text", "text": text}, *attached_parts],
        "metadata": metadata,
    }


def assistant_message(turn_id: TurnId, entries: Sequence[Entry], metadata: Event) -> Event | None:
    """What the agent did, as a UI message; None if it did nothing.

    A message without parts is none: the AI SDK refuses a conversation that has one.
    """
    parts = story.message_parts(entries)
    if not parts:
        return None
    return {
        "id": story.message_id(turn_id),
        "role": "assistant",
        "parts": parts,
        "metadata": metadata,
    }


def message_metadata(
    worker_id: WorkerId,
    turn_id: TurnId,
    source: str,
    created_at: datetime,
    *,
    email: Mapping[str, Any] | None = None,
) -> Event:
    """What every message of a turn says about it; the instruction's also of the mail it came by."""
    return {
        "workerId": worker_id,
        "turnId": turn_id,
        "source": source,
        "createdAt": iso(created_at),
        **({} if email is None else {"email": email}),
    }


def iso(moment: datetime) -> str:
    """The wire's times: ISO 8601, UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dump(value: object) -> str:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def wire(worker: WorkerView, settings: Settings) -> str:
    """The wire's `Worker` as JSON. Messages are spliced in as they are stored."""
    incomplete = {"reason": worker.incomplete_reason} if worker.incomplete_reason else None
    head = {
        "id": worker.id,
        "object": "worker",
        "created_at": int(worker.created_at.timestamp()),
        "status": worker.status,
        "running": worker.status != "completed",
        "error": worker.error,
        "incomplete_details": incomplete,
        "output": worker.output,
        "output_text": story.output_text(worker.output),
        "files": [
            {
                "filename": file.path,
                "mediaType": file.media_type,
                "url": files.url(settings, worker.id, file.path),
                "size": file.size,
            }
            for file in worker.files
        ],
        "sources": [
            {"id": source.id, "type": "url", "url": source.url, "title": source.title}
            for source in worker.sources
        ],
        "metadata": worker.metadata,
        "costs": worker.spending.costs_json(),
        "usage": worker.spending.usage_json(credits=worker.credits, duration_ms=worker.duration_ms),
        "url": f"{settings.base_url}/workers/{worker.id}",
    }
    return f'{dump(head)[:-1]},"messages":[{",".join(worker.messages)}]}}'
