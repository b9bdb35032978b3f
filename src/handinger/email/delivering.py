"""Delivers the mails of the outbox by SMTP, each once.

What a mail server takes and our note of that cannot be one transaction. If this process dies in the
moment between them, the mail is sent again with the same `Message-ID`, by which mail programs know
it; there is no other way to send it twice.
"""

import asyncio
import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast
from urllib.parse import unquote, urlsplit

import aiosmtplib

from handinger import engine
from handinger.email import addresses, composing
from handinger.email.composing import Selection
from handinger.email.outbox import DELIVER_EMAIL, OutboundEmail
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, Tenant

logger = logging.getLogger(__name__)

_TIMEOUT_S = 60.0
_MAX_DELAY_S = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one attempt."""

    error: str | None = None  # None: the next host has taken it
    is_final: bool = True

    @property
    def is_too_large(self) -> bool:
        """Whether the mail would be taken without its files."""
        return self.is_final and (self.error or "").startswith("552")


async def deliver(database: Database, blobs: Blobs, settings: Settings, email_id: str) -> None:
    """Make one attempt at a mail, if one is due; the job of that mail."""
    async with database.system().statements() as sql:
        email = await sql.first(
            OutboundEmail,
            "SELECT id, organization_id, worker_id, kind, sender, recipient, subject, body,"
            " attachments, message_id, in_reply_to, thread, reply_token, status, attempts,"
            " next_attempt_at, created_at FROM outbound_emails WHERE id = %(id)s",
            id=email_id,
        )
    if email is None or email.status != "pending":
        return
    tenant = database.tenant(email.organization_id)
    now = datetime.now(UTC)
    if email.next_attempt_at is not None and email.next_attempt_at > now:
        async with tenant.transaction() as sql:
            at = cast(datetime, email.next_attempt_at)
            await engine.enqueue(sql.connection, DELIVER_EMAIL, lock=email.id, at=at)
        return
    outcome = await _attempt(email, blobs, settings)
    await _note(tenant, email, outcome, settings)


async def _attempt(email: OutboundEmail, blobs: Blobs, settings: Settings) -> _Outcome:
    outcome = await _try(email, blobs, settings, max_bytes=settings.email_max_attached_bytes)
    if outcome.is_too_large and email.attachments:
        outcome = await _try(email, blobs, settings, max_bytes=0)  # with links instead of files
    return outcome


async def _try(
    email: OutboundEmail, blobs: Blobs, settings: Settings, *, max_bytes: int
) -> _Outcome:
    try:
        raw = await _compose(email, blobs, settings, max_bytes=max_bytes)
    except Exception as error:
        # Whatever it is, it is tried again for a while, and not for ever.
        logger.exception("The mail %s cannot be composed", email.id)
        return _Outcome(f"The mail cannot be composed: {error}", is_final=False)
    sender = str(addresses.with_token(settings, email.reply_token))
    try:
        await _send(raw, sender, email.recipient, settings)
    except aiosmtplib.SMTPException as error:
        return _refused(error)
    except OSError as error:
        return _Outcome(f"The mail server does not answer: {error}", is_final=False)
    return _Outcome()


async def _compose(
    email: OutboundEmail, blobs: Blobs, settings: Settings, *, max_bytes: int
) -> bytes:
    selection = Selection.of(email.files, max_bytes=max_bytes)
    contents = [
        (file, await blobs.read(email.worker_id, file.sha256)) for file in selection.attached
    ]
    links = [composing.file_link(settings, email, file) for file in selection.linked]
    return await asyncio.to_thread(
        composing.compose, email, settings, links=links, contents=contents, now=datetime.now(UTC)
    )


async def _send(raw: bytes, sender: str, recipient: str, settings: Settings) -> None:
    """Hand the mail to the server that the settings name. Raises SMTPException, OSError."""
    assert settings.smtp_url is not None
    url = urlsplit(settings.smtp_url.get_secret_value())
    encrypted = url.scheme == "smtps"
    # Without a password encryption is used where it is offered; with one it must be there. To this
    # machine itself nothing is encrypted: nobody has a certificate for that.
    start_tls = False if _is_local(url.hostname) else (True if url.username else None)
    client = aiosmtplib.SMTP(
        hostname=url.hostname,
        port=url.port or (465 if encrypted else 25),
        use_tls=encrypted,
        start_tls=False if encrypted else start_tls,
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        local_hostname=settings.mail_domain,
        timeout=_TIMEOUT_S,
    )
    async with client:
        options = ["SMTPUTF8"] if not recipient.isascii() else []
        await client.sendmail(sender, [recipient], raw, mail_options=options)


def _is_local(host: str | None) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


def _refused(error: aiosmtplib.SMTPException) -> _Outcome:
    """Of an answer of the server; 5xx about the mail is final, all else may pass."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        error = error.recipients[0]
    about_the_mail = isinstance(
        error,
        aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPSenderRefused | aiosmtplib.SMTPDataError,
    )
    if isinstance(error, aiosmtplib.SMTPResponseException):
        text = " ".join(str(error.message).split())
        return _Outcome(f"{error.code} {text}"[:500], is_final=about_the_mail and error.code >= 500)
    if isinstance(error, aiosmtplib.SMTPNotSupported):
        return _Outcome(f"The mail server cannot take it: {error}"[:500], is_final=False)
    return _Outcome(f"The mail server does not answer: {error}"[:500], is_final=False)


async def _note(
    tenant: Tenant, email: OutboundEmail, outcome: _Outcome, settings: Settings
) -> None:
    now = datetime.now(UTC)
    status, next_at = "delivered", None
    error = outcome.error
    if error is not None:
        status = "failed"
        given_up = now - cast(datetime, email.created_at) > timedelta(
            seconds=settings.email_retry_for_s
        )
        if not outcome.is_final and not given_up:
            status, next_at = "pending", now + timedelta(seconds=_delay_s(email.attempts, settings))
        logger.warning("The mail %s was not delivered (%s): %s", email.id, status, error)
    async with tenant.transaction() as sql:
        noted = await sql.run(
            "UPDATE outbound_emails SET status = %(status)s, attempts = attempts + 1,"
            " error = %(error)s, next_attempt_at = %(next_at)s,"
            " delivered_at = CASE WHEN %(status)s = 'delivered' THEN %(now)s END"
            " WHERE organization_id = %(organization_id)s AND id = %(id)s AND status = 'pending'",
            id=email.id,
            status=status,
            error=error,
            next_at=next_at,
            now=now,
        )
        if noted and next_at is not None:
            await engine.enqueue(sql.connection, DELIVER_EMAIL, lock=email.id, at=next_at)


def _delay_s(attempts: int, settings: Settings) -> float:
    jitter = random.uniform(0.8, 1.2)  # noqa: S311 # Nobody gains by guessing it.
    return min(_MAX_DELAY_S, settings.email_retry_delay_s * 2.0**attempts) * jitter
