"""The outbox: a mail is written into it in the transaction of what it follows from, and then sent.

Light on purpose: whoever writes into it loads nothing of what sends.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb

from handinger import engine, ids
from handinger.email import addresses
from handinger.files import File
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.mailbox import Mailbox
from handinger.settings import Settings
from handinger.storage.database import TenantStatements

# The job that delivers one mail; its lock is the mail's id.
DELIVER_EMAIL = "deliver_email"

Kind = Literal["reply", "sent"]

_NOWHERE = "HANDINGER_SMTP_URL is not set, so no mail can go out."


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A file as it was when the mail was written; its bytes are a blob."""

    path: str
    sha256: str
    size: int  # bytes
    media_type: str

    @classmethod
    def of(cls, file: File) -> "AttachedFile":
        """A file of the workspace."""
        return cls(file.path, file.sha256, file.size, file.media_type)

    @property
    def filename(self) -> str:
        """The last part of its path, as it may stand in a header."""
        return one_line(self.path.rsplit("/", 1)[-1]) or "file"


@dataclass(frozen=True, slots=True)
class Draft:
    """A mail that is to go out."""

    kind: Kind
    recipient: Mailbox
    subject: str
    body: str  # Markdown
    attachments: Sequence[AttachedFile] = ()
    in_reply_to: str | None = None
    thread: Sequence[str] = ()  # the Message-IDs above it, oldest first


async def put(
    sql: TenantStatements, settings: Settings, worker_id: WorkerId, turn_id: TurnId, draft: Draft
) -> None:
    """Write a mail into the outbox, in the caller's transaction, with the job that delivers it.

    A turn has one reply; a second one changes nothing.
    """
    email_id = ids.new("eml")
    sender = await addresses.ensure(sql, settings, worker_id)
    goes_out = settings.smtp_url is not None
    put = await sql.value(
        "INSERT INTO outbound_emails (id, organization_id, worker_id, turn_id, kind, sender,"
        " recipient, subject, body, attachments, message_id, in_reply_to, thread, reply_token,"
        " status, error) VALUES (%(id)s, %(organization_id)s, %(worker_id)s, %(turn_id)s, %(kind)s,"
        " %(sender)s, %(recipient)s, %(subject)s, %(body)s, %(attachments)s, %(message_id)s,"
        " %(in_reply_to)s, %(thread)s, %(reply_token)s, %(status)s, %(error)s)"
        " ON CONFLICT (turn_id) WHERE kind = 'reply' DO NOTHING RETURNING id",
        id=email_id,
        worker_id=worker_id,
        turn_id=turn_id,
        kind=draft.kind,
        sender=str(sender),
        recipient=str(draft.recipient),
        subject=one_line(draft.subject),
        body=draft.body,
        attachments=Jsonb([asdict(file) for file in draft.attachments]),
        message_id=f"<{email_id}@{settings.mail_domain}>",
        in_reply_to=draft.in_reply_to,
        thread=Jsonb(list(draft.thread)),
        reply_token=addresses.new_token(),
        status="pending" if goes_out else "failed",
        error=None if goes_out else _NOWHERE,
    )
    if put is not None and goes_out:
        await engine.enqueue(sql.connection, DELIVER_EMAIL, lock=email_id)


async def count_sent(sql: TenantStatements, turn_id: TurnId) -> int:
    """How many mails of its own a turn has sent."""
    return await sql.value(
        "SELECT count(*) FROM outbound_emails WHERE organization_id = %(organization_id)s"
        " AND turn_id = %(turn_id)s AND kind = 'sent'",
        turn_id=turn_id,
    )


def one_line(text: str) -> str:
    """What may stand in a header: no line end can begin another one there."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:900]


@dataclass(frozen=True, slots=True)
class OutboundEmail:
    """A mail of the outbox."""

    id: str
    organization_id: OrganizationId
    worker_id: WorkerId
    kind: Kind
    sender: str
    recipient: str
    subject: str
    body: str
    attachments: list[dict[str, Any]]
    message_id: str
    in_reply_to: str | None
    thread: list[str]
    reply_token: str
    status: str
    attempts: int
    next_attempt_at: datetime | None
    is_early: bool  # for the next attempt
    created_at: datetime

    @property
    def files(self) -> list[AttachedFile]:
        """What it brings."""
        return [AttachedFile(**file) for file in self.attachments]
