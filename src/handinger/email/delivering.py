"""Delivers the mails of the outbox by SMTP, each once.

What a mail server takes and our note of that cannot be one transaction. If this process ends in the
moment between them, or is held up or cut off so long that others take it for dead, the mail is sent
again with the same `Message-ID`, by which mail programs know it; there is no other way to send it
twice.
"""

import asyncio
import logging
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlsplit

import aiosmtplib

from handinger import engine, metrics
from handinger.email import addresses, composing
from handinger.email.composing import Selection
from handinger.email.outbox import DELIVER_EMAIL, OutboundEmail
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, Tenant, is_connection_error

logger = logging.getLogger(__name__)

# A host that has the whole mail may look at it for long before it says that it takes it. Whoever
# does not wait for that sends it twice (RFC 5321, 4.5.3.2.6).
_TAKING_TIMEOUT_S = 600.0
_NOTE_AGAIN_S = 1.0


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
            # By the clock that the queue goes by, else a job could find itself early without end.
            " next_attempt_at, coalesce(next_attempt_at > clock_timestamp(), false) AS is_early,"
            " created_at FROM outbound_emails WHERE id = %(id)s",
            id=email_id,
        )
    if email is None or email.status != "pending":
        return
    tenant = database.tenant(email.organization_id)
    if email.is_early:
        async with tenant.transaction() as sql:
            at = email.next_attempt_at
            await engine.enqueue(sql.connection, DELIVER_EMAIL, lock=email.id, at=at)
        return
    try:
        email = await _claim(tenant, email)
        outcome = await _Attempt(tenant, email, blobs, settings).make()
    except _TakenOver:
        logger.warning("The mail %s is gone, or another server's by now", email_id)
        return
    noting = asyncio.create_task(_note_surely(tenant, email, outcome, settings))
    try:
        await asyncio.shield(noting)
    except asyncio.CancelledError:
        await noting  # Of which little is left to do.
        raise


class _TakenOver(Exception):
    """Another server makes an attempt at this mail, or its worker is gone."""


async def _claim(tenant: Tenant, email: OutboundEmail) -> OutboundEmail:
    """Begin an attempt, which ends any that was begun before. Raises _TakenOver."""
    async with tenant.statements() as sql:
        claimed = await sql.run(
            "UPDATE outbound_emails SET attempts = attempts + 1"
            " WHERE organization_id = %(organization_id)s AND id = %(id)s"
            " AND status = 'pending' AND attempts = %(attempts)s",
            id=email.id,
            attempts=email.attempts,
        )
    if not claimed:
        raise _TakenOver
    return replace(email, attempts=email.attempts + 1)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt at a mail. Each step raises _TakenOver once there is a later one."""

    tenant: Tenant
    email: OutboundEmail
    blobs: Blobs
    settings: Settings

    async def make(self) -> _Outcome:
        """With its files, or with links to them if they make it too large."""
        outcome = await self._try(max_bytes=self.settings.email_max_attached_bytes)
        if outcome.is_too_large and self.email.attachments:
            outcome = await self._try(max_bytes=0)
        return outcome

    async def _try(self, *, max_bytes: int) -> _Outcome:
        try:
            raw = await self._compose(max_bytes=max_bytes)
        except Exception as error:
            # Whatever it is, it is tried again for a while, and not for ever.
            logger.exception("The mail %s cannot be composed", self.email.id)
            return _Outcome(f"The mail cannot be composed: {error}", is_final=False)
        try:
            await self._send(raw)
        except aiosmtplib.SMTPException as error:
            return _refused(error)
        except OSError as error:
            return _Outcome(f"The mail server does not answer: {error}", is_final=False)
        return _Outcome()

    async def _compose(self, *, max_bytes: int) -> bytes:
        email, settings = self.email, self.settings
        selection = Selection.of(email.files, max_bytes=max_bytes)
        contents = [
            (file, await self.blobs.read(email.worker_id, file.sha256))
            for file in selection.attached
        ]
        links = [composing.file_link(settings, email, file) for file in selection.linked]
        return await asyncio.to_thread(
            composing.compose,
            email,
            settings,
            links=links,
            contents=contents,
            now=datetime.now(UTC),
        )

    async def _send(self, raw: bytes) -> None:
        """Hand the mail to the server of the settings. Raises SMTPException, OSError."""
        sender = str(addresses.with_token(self.settings, self.email.reply_token))
        recipient = self.email.recipient
        options = ["SMTPUTF8"] if not recipient.isascii() else []
        async with _next_host(self.settings) as client:
            # To come so far may have taken long.
            await self._require_mine()
            await client.sendmail(
                sender,
                [recipient],
                raw,
                mail_options=options,
                timeout=max(_TAKING_TIMEOUT_S, self.settings.smtp_send_timeout_s),
            )

    async def _require_mine(self) -> None:
        async with self.tenant.statements() as sql:
            mine = await sql.value(
                "SELECT 1 FROM outbound_emails WHERE organization_id = %(organization_id)s"
                " AND id = %(id)s AND status = 'pending' AND attempts = %(attempts)s",
                id=self.email.id,
                attempts=self.email.attempts,
            )
        if mine is None:
            raise _TakenOver


def _next_host(settings: Settings) -> aiosmtplib.SMTP:
    """The server that the settings name, not connected yet."""
    assert settings.smtp_url is not None
    url = urlsplit(settings.smtp_url.get_secret_value())
    encrypted = url.scheme == "smtps"
    # Without a password encryption is used where it is offered; with one it must be there. To this
    # machine itself nothing is encrypted: nobody has a certificate for that.
    start_tls = False if _is_local(url.hostname) else (True if url.username else None)
    return aiosmtplib.SMTP(
        hostname=url.hostname,
        port=url.port or (465 if encrypted else 25),
        use_tls=encrypted,
        start_tls=False if encrypted else start_tls,
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        local_hostname=settings.mail_domain,
        timeout=settings.smtp_send_timeout_s,
    )


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


async def _note_surely(
    tenant: Tenant, email: OutboundEmail, outcome: _Outcome, settings: Settings
) -> None:
    """A mail that was taken must not be sent again because the database was away for a while."""
    while True:
        try:
            return await _note(tenant, email, outcome, settings)
        except Exception as error:
            if outcome.error is not None or not is_connection_error(error):
                raise
        await asyncio.sleep(_NOTE_AGAIN_S)


async def _note(
    tenant: Tenant, email: OutboundEmail, outcome: _Outcome, settings: Settings
) -> None:
    status, delay = "delivered", None
    error = outcome.error
    if error is not None:
        status = "failed"
        given_up = datetime.now(UTC) - email.created_at > timedelta(
            seconds=settings.email_retry_for_s
        )
        if not outcome.is_final and not given_up:
            status, delay = "pending", timedelta(seconds=_delay_s(email.attempts, settings))
        logger.warning("The mail %s was not delivered (%s): %s", email.id, status, error)
    async with tenant.transaction() as sql:
        next_at = await sql.value(
            "UPDATE outbound_emails SET status = %(status)s, error = %(error)s,"
            " next_attempt_at = clock_timestamp() + %(delay)s::interval,"
            " delivered_at = CASE WHEN %(status)s = 'delivered' THEN clock_timestamp() END"
            " WHERE organization_id = %(organization_id)s AND id = %(id)s AND status = 'pending'"
            # What is there is there, whoever else is about to send it.
            " AND (attempts = %(attempts)s OR %(status)s = 'delivered') RETURNING next_attempt_at",
            id=email.id,
            status=status,
            error=error,
            delay=delay,
            attempts=email.attempts,
        )
        if next_at is not None:
            await engine.enqueue(sql.connection, DELIVER_EMAIL, lock=email.id, at=next_at)
    metrics.emails_sent.labels("deferred" if status == "pending" else status).inc()


def _delay_s(attempts: int, settings: Settings) -> float:
    jitter = random.uniform(0.8, 1.2)  # noqa: S311 # Nobody gains by guessing it.
    doubled_s = settings.email_retry_delay_s * 2.0 ** min(attempts - 1, 100)
    return min(settings.email_retry_max_delay_s, doubled_s) * jitter
