"""The mails of a worker as its owner sees them: what came in, and what went out."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from handinger import workers
from handinger.email.outbox import AttachedFile
from handinger.errors import NotFound
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.storage.database import Database


@dataclass(frozen=True, slots=True)
class EmailView:
    """One mail, in or out."""

    id: str
    direction: str
    status: str
    sender: str
    recipient: str
    subject: str
    message_id: str | None
    turn_id: TurnId | None
    size: int | None
    attempts: int | None
    error: str | None
    verdict: dict[str, Any] | None
    created_at: datetime
    delivered_at: datetime | None

    def wire(self) -> dict[str, Any]:
        """The wire's mail."""
        return {
            "id": self.id,
            "direction": self.direction,
            "status": self.status,
            "from": self.sender,
            "to": self.recipient,
            "subject": self.subject,
            "messageId": self.message_id,
            "turnId": self.turn_id,
            "size": self.size,
            "attempts": self.attempts,
            "error": self.error,
            "verdict": self.verdict,
            "createdAt": workers.iso(self.created_at),
            "deliveredAt": workers.iso(self.delivered_at) if self.delivered_at else None,
        }


async def page(
    database: Database,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    *,
    limit: int,
    before: str | None,
) -> list[EmailView]:
    """Mails of a worker, newest first; `before` is the last id of the page before.

    Raises NotFound if there is no such worker.
    """
    async with database.tenant(organization_id).snapshot() as sql:
        await workers.require(sql, worker_id)
        return await sql.all(
            EmailView,
            "SELECT id, 'in' AS direction, disposition AS status, sender, recipient, subject,"
            " message_id, turn_id, size, NULL::int AS attempts, NULL AS error, verdict,"
            " created_at, NULL::timestamptz AS delivered_at FROM inbound_emails"
            " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
            " AND (%(before)s::text IS NULL OR id < %(before)s)"
            " UNION ALL SELECT id, 'out', status, sender, recipient, subject, message_id, turn_id,"
            " NULL, attempts, error, NULL, created_at, delivered_at FROM outbound_emails"
            " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
            " AND (%(before)s::text IS NULL OR id < %(before)s)"
            " ORDER BY id DESC LIMIT %(limit)s",
            worker_id=worker_id,
            before=before,
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    worker_id: WorkerId
    attachments: list[dict[str, Any]]


async def sent_file(
    database: Database, reply_token: str, number: int
) -> tuple[WorkerId, AttachedFile]:
    """A file of a mail of ours, for whoever has the mail: its token is proof of that.

    Raises NotFound.
    """
    async with database.system().statements() as sql:
        sent = await sql.first(
            _Sent,
            "SELECT worker_id, attachments FROM outbound_emails WHERE reply_token = %(token)s",
            token=reply_token,
        )
    if sent is None or number >= len(sent.attachments):
        raise NotFound("There is no such file.")
    return sent.worker_id, AttachedFile(**sent.attachments[number])


@dataclass(frozen=True, slots=True)
class Original:
    """A mail as it came in; its bytes are a blob."""

    sha256: str
    size: int


async def original(
    database: Database, organization_id: OrganizationId, worker_id: WorkerId, email_id: str
) -> Original:
    """Where the bytes of a mail that came in are. Raises NotFound."""
    async with database.tenant(organization_id).statements() as sql:
        found = await sql.first(
            Original,
            "SELECT sha256, size FROM inbound_emails WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s AND id = %(id)s",
            worker_id=worker_id,
            id=email_id,
        )
    if found is None:
        raise NotFound(f"No mail {email_id[:80]!r} has come in for this worker.")
    return found
