"""After a turn that a mail started: its answer goes back by mail, however the turn ended."""

from dataclasses import dataclass
from typing import Any

from handinger import mailbox, story
from handinger.email import outbox, threads
from handinger.email.outbox import AttachedFile, Draft
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.settings import Settings
from handinger.storage.database import Database

_NOTES = {
    "cancelled": "This task was stopped before it was finished.",
    "budget_exhausted": "The budget of this task was used up before it was finished. "
    "Reply to this mail to go on.",
    "max_output_tokens": "The answer became too long and is cut off. Reply to this mail to go on.",
}
_FAILED = (
    "Sorry, this task could not be finished: {reason} Nothing of the conversation is lost. "
    "Reply to this mail to try again."
)
_NOTHING = "The task is done. There is no more to say about it."


@dataclass(frozen=True, slots=True)
class _EndedTurn:
    id: TurnId
    organization_id: OrganizationId
    worker_id: WorkerId
    output: list[dict[str, Any]] | None
    error: dict[str, str] | None
    incomplete_reason: str | None
    published: list[dict[str, Any]] | None
    sender: str
    subject: str
    message_id: str | None
    thread: list[str]


async def answer(database: Database, settings: Settings, turn_id: TurnId) -> None:
    """Write the answer of an ended turn into the outbox, once; the job of a turn's end."""
    async with database.system().statements() as sql:
        turn = await sql.first(
            _EndedTurn,
            "SELECT t.id, t.organization_id, t.worker_id, t.output, t.error, t.incomplete_reason,"
            " t.published, e.sender, e.subject, e.message_id, e.thread"
            " FROM turns t JOIN inbound_emails e ON e.turn_id = t.id"
            " WHERE t.id = %(id)s AND t.status = 'completed'",
            id=turn_id,
        )
    if turn is None:
        return  # Its worker is gone.
    async with database.tenant(turn.organization_id).transaction() as sql:
        draft = Draft(
            kind="reply",
            recipient=mailbox.parse(turn.sender),
            subject=threads.reply_subject(turn.subject or "Your task"),
            body=_body(turn),
            attachments=[AttachedFile(**file) for file in turn.published or ()],
            in_reply_to=turn.message_id,
            thread=threads.references(turn.thread, turn.message_id),
        )
        await outbox.put(sql, settings, turn.worker_id, turn.id, draft)
        # From now on the mail names them.
        await sql.run(
            "UPDATE turns SET published = NULL"
            " WHERE organization_id = %(organization_id)s AND id = %(id)s",
            id=turn.id,
        )


def _body(turn: _EndedTurn) -> str:
    text = story.output_text(turn.output or [])
    if turn.error is not None:
        note = _FAILED.format(reason=turn.error["message"])
    else:
        note = _NOTES.get(turn.incomplete_reason or "", "" if text.strip() else _NOTHING)
    return "\n\n".join(
        part for part in (text, f"*{note}*" if text.strip() and note else note) if part
    )
