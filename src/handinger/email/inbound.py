"""Taking mail in: who may send it, whether it is what it claims, and the turn that it starts.

A mail is answered for only when it is stored with its turn, in one transaction; until then its
sender keeps it, and sends it again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dns.resolver
import psycopg
from obstore.exceptions import BaseError
from psycopg.types.json import Jsonb

from handinger import attachments, ids, mailbox, metrics
from handinger.attachments import Attachment, IncomingFile
from handinger.email import addresses, loops, provenance, reading
from handinger.email.addresses import Recipient
from handinger.email.loops import Disposition
from handinger.email.message import Headers, Mail, UnreadableMail
from handinger.email.provenance import Origin, Verdict
from handinger.email.reading import Content
from handinger.email.resolver import open_resolver
from handinger.errors import BodyTooLarge, NotFound, WorkerBusy
from handinger.mailbox import Mailbox
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, TenantStatements, is_connection_error
from handinger.turns import accept, taint
from handinger.turns.accept import MAX_INPUT_CHARACTERS, Instruction, NewTurn
from handinger.turns.taint import UntrustedText

logger = logging.getLogger(__name__)

_MAX_HOPS = 100
_CUT = "\n\n[The mail goes on; all of its text is in message.txt in the inbox.]"
_BOUNCED = Mailbox("", "")


class Refusal(Exception):
    """The answer to a mail that is not taken in: a code (RFC 5321, 3463) and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message

    @property
    def is_final(self) -> bool:
        """Whether sending the same again is of no use."""
        return self.code.startswith("5")


@dataclass(frozen=True, slots=True)
class _Examined:
    """A mail with all that was found out about it, before anything is stored."""

    mail: Mail
    origin: Origin
    disposition: Disposition
    verdict: Verdict | None
    content: Content

    def identity(self) -> str:
        """The same for each copy of this mail."""
        if self.verdict is not None and self.verdict.seal is not None:
            return f"dkim:{self.verdict.seal}"
        return self.mail.identity()


class Inbound:
    """Takes in mail for the workers of every organization."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        settings: Settings,
        *,
        queue_is_full: Callable[[], bool] = lambda: False,
        resolver: dns.resolver.Resolver | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._settings = settings
        self._queue_is_full = queue_is_full
        self._resolver = resolver
        self._threads = ThreadPoolExecutor(settings.email_max_parallel, thread_name_prefix="mail")

    def close(self) -> None:
        """Let what is being read come to its end, and read no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def recipient(self, address: str, *, envelope_sender: str) -> Recipient:
        """Whom an address means, if this sender may write there. Raises Refusal.

        The null sender, which reports that a mail did not arrive, may write to the address that was
        made for that mail, and to no other.
        """
        with _counted(), _temporary_failures():
            found = await self._find(address)
            if not envelope_sender:
                await self._require_report(found)
            elif not _is_allowed(envelope_sender, found):
                raise _not_allowed(envelope_sender)
        return found

    async def _require_report(self, found: Recipient) -> None:
        """Who has a mail of ours may report on it, unproven, but not fill the disk."""
        if found.answers is None:
            raise Refusal("550 5.7.1", "This address has sent nothing that could bounce.")
        async with self._database.tenant(found.organization_id).statements() as sql:
            reports = await sql.value(
                "SELECT count(*) FROM inbound_emails WHERE organization_id = %(organization_id)s"
                " AND worker_id = %(worker_id)s AND recipient = %(recipient)s"
                " AND envelope_sender = ''",
                worker_id=found.worker_id,
                recipient=found.address,
            )
        if reports >= self._settings.email_max_reports:
            raise Refusal("550 5.7.1", "There are enough reports about this mail.")

    async def _find(self, address: str) -> Recipient:
        try:
            wanted = mailbox.parse(address)
        except ValueError as error:
            raise Refusal("553 5.1.3", "The recipient's address is malformed.") from error
        found = await addresses.find(self._database, self._settings, wanted)
        if found is None:
            raise Refusal("550 5.1.1", "There is no worker with this address.")
        return found

    async def take_in(self, raw: bytes, origin: Origin, recipients: Sequence[Recipient]) -> None:
        """Store a mail, and start a turn of each worker that it is for. Raises Refusal.

        The recipients are of one organization; either all of them get it, or none does. A copy of a
        mail that a worker has already changes nothing.
        """
        with _counted(len(recipients)):
            if len(raw) > self._settings.email_max_bytes:
                limit = self._settings.email_max_bytes
                raise Refusal("552 5.3.4", f"A mail may have {limit} bytes.")
            if self._queue_is_full():
                raise Refusal("451 4.3.2", "Too many instructions wait on this server; try again.")
            examined = await self._examine(raw, origin, recipients[0])
            with _temporary_failures():
                outcomes = await self._store(examined, recipients)
        for outcome in outcomes:
            metrics.emails_received.labels(outcome or "copy").inc()

    async def _in_thread(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    # Examining

    async def _examine(self, raw: bytes, origin: Origin, recipient: Recipient) -> _Examined:
        mail = await self._read(raw, is_bounce=not origin.envelope_sender)
        if len(mail.headers.all("received")) > _MAX_HOPS:
            raise Refusal("554 5.4.6", "This mail has been passed on too often; it is in a loop.")
        disposition = loops.reason_for_no_turn(
            mail, envelope_sender=origin.envelope_sender, settings=self._settings
        )
        verdict = None
        if origin.envelope_sender:
            if not mailbox.is_allowed(mail.sender, recipient.allow):
                raise _not_allowed(str(mail.sender))
            verdict = await self._verify(mail, origin)
        content: Content = await self._in_thread(reading.read, mail)
        return _Examined(mail, origin, disposition or Disposition.TURN, verdict, content)

    async def _read(self, raw: bytes, *, is_bounce: bool) -> Mail:
        try:
            return await self._in_thread(Mail.read, raw)
        except UnreadableMail as error:
            if is_bounce:
                # Old mail systems sign with all sorts of things; what they report is kept.
                with contextlib.suppress(UnreadableMail):
                    return Mail(raw, Headers.read(raw), _BOUNCED, "")
            raise Refusal("550 5.6.0", f"The mail is malformed: {error}.") from error

    async def _verify(self, mail: Mail, origin: Origin) -> Verdict | None:
        """What is proven of the sender; None if nobody asks for proof. Raises Refusal."""
        if not self._settings.email_verify:
            return None
        if self._resolver is None:
            self._resolver = open_resolver(self._settings)
        verdict: Verdict = await self._in_thread(
            provenance.examine,
            mail.raw,
            mail.headers,
            mail.sender,
            origin,
            resolver=self._resolver,
            timeout_s=self._settings.email_verify_timeout_s,
            trusted_relays=self._settings.email_trusted_relays or (),
        )
        if verdict.verified:
            return verdict
        if verdict.undecided:
            raise Refusal("451 4.7.5", "The sender cannot be checked at this moment; try again.")
        raise Refusal(
            "550 5.7.26",
            f"Nothing proves that this mail is from {mail.sender.domain}: neither DKIM nor SPF "
            "passes for that domain.",
        )

    # Storing

    async def _store(
        self, examined: _Examined, recipients: Sequence[Recipient]
    ) -> list[Disposition | None]:
        """What became of it at each recipient; None where it was known."""
        # In one order everywhere, so that no two mails wait for each other's workers.
        each = {recipient.worker_id: recipient for recipient in recipients}
        with _storage_failures():
            prepared = [await self._prepare(examined, each[key]) for key in sorted(each)]
        tenant = self._database.tenant(recipients[0].organization_id)
        try:
            async with tenant.transaction() as sql:
                return [await self._arrive(sql, arrival) for arrival in prepared]
        except WorkerBusy as error:
            raise Refusal("451 4.3.2", f"Too many instructions wait; try again. {error}") from error
        except BodyTooLarge as error:
            raise Refusal("552 5.2.2", error.message) from error
        except NotFound as error:
            raise Refusal("550 5.1.1", "There is no worker with this address.") from error

    async def _prepare(self, examined: _Examined, recipient: Recipient) -> "_Arrival":
        """Store the bytes; nothing is visible yet."""
        tenant = self._database.tenant(recipient.organization_id)
        stored = await self._blobs.put(tenant, recipient.worker_id, examined.mail.raw)
        attached: tuple[Attachment, ...] = ()
        if examined.disposition is Disposition.TURN:
            try:
                attached = await attachments.attach(
                    self._database,
                    self._blobs,
                    self._settings,
                    recipient.organization_id,
                    recipient.worker_id,
                    _files(examined.content),
                )
            except BodyTooLarge as error:
                raise Refusal("552 5.3.4", error.message) from error
        return _Arrival(ids.new("eml"), examined, recipient, stored.sha256, attached)

    async def _arrive(self, sql: TenantStatements, arrival: "_Arrival") -> Disposition | None:
        # Copies of a mail that arrive at the same time look one after the other.
        await accept.lock_worker(sql, arrival.recipient.worker_id)
        if await arrival.is_known(sql):
            return None
        disposition = arrival.examined.disposition
        turn: NewTurn | None = None
        if disposition is Disposition.TURN:
            if await self._is_one_too_many(sql, arrival):
                disposition = Disposition.TOO_MANY
            else:
                turn = arrival.new_turn()
                await accept.append(sql, self._settings, turn)
                if arrival.is_untrusted:
                    text = UntrustedText.read(turn.instruction.input, origin="instruction")
                    await taint.record(sql, turn.worker_id, turn.id, text)
        await arrival.insert(sql, disposition, turn, thread=await arrival.thread(sql))
        return disposition

    async def _is_one_too_many(self, sql: TenantStatements, arrival: "_Arrival") -> bool:
        recent = await sql.value(
            "SELECT count(*) FROM inbound_emails WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s AND sender = %(sender)s"
            " AND disposition = %(disposition)s AND created_at > %(since)s",
            worker_id=arrival.recipient.worker_id,
            sender=str(arrival.examined.mail.sender),
            disposition=Disposition.TURN,
            since=datetime.now(UTC) - timedelta(hours=1),
        )
        return recent >= self._settings.email_max_per_sender_per_hour


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A mail at one of its recipients."""

    id: str
    examined: _Examined
    recipient: Recipient
    sha256: str  # of the original
    attached: tuple[Attachment, ...]

    @property
    def sender(self) -> str:
        """As it is stored: nothing for a report that nobody signs."""
        sender = self.examined.mail.sender
        return "" if sender is _BOUNCED else str(sender)

    @property
    def is_untrusted(self) -> bool:
        """Whether it may say what its sender has not told this worker.

        Anybody may have written it where nothing is proven, or what is forwarded or quoted in it.
        And what was signed for others, anybody who got it may have handed in.
        """
        verdict = self.examined.verdict
        if verdict is None or self.examined.content.is_untrusted:
            return True
        return verdict.signed_for is not None and self.recipient.address not in verdict.signed_for

    async def is_known(self, sql: TenantStatements) -> bool:
        """Whether the worker has this mail already."""
        found = await sql.value(
            "SELECT 1 FROM inbound_emails WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s AND sender = %(sender)s AND identity = %(identity)s",
            worker_id=self.recipient.worker_id,
            sender=self.sender,
            identity=self.examined.identity(),
        )
        return found is not None

    async def thread(self, sql: TenantStatements) -> list[str]:
        """The mails above it; of an answer to a mail of ours also when its program forgot them."""
        own = self.examined.mail.references
        if own or self.recipient.answers is None:
            return own
        answered = await sql.first(
            _Answered,
            "SELECT thread, message_id FROM outbound_emails"
            " WHERE organization_id = %(organization_id)s AND id = %(id)s",
            id=self.recipient.answers,
        )
        return [*answered.thread, answered.message_id] if answered else []

    def new_turn(self) -> NewTurn:
        """The turn that it starts."""
        instruction = Instruction(
            input=_instruction(self.examined),
            budget="standard",
            source="email",
            attachments=self.attached,
            email=self._metadata(),
        )
        return NewTurn.of(self.recipient.worker_id, instruction)

    def _metadata(self) -> dict[str, Any]:
        mail, verdict = self.examined.mail, self.examined.verdict
        return {
            "id": self.id,
            "from": str(mail.sender),
            "fromName": mail.sender_name,
            "to": self.recipient.address,
            "subject": mail.subject,
            "messageId": mail.message_id,
            **({"verified": False} if verdict is None else verdict.row()),
        }

    async def insert(
        self,
        sql: TenantStatements,
        disposition: Disposition,
        turn: NewTurn | None,
        *,
        thread: list[str],
    ) -> None:
        """Note that it is here, and what became of it."""
        mail, verdict = self.examined.mail, self.examined.verdict
        await sql.run(
            "INSERT INTO inbound_emails (id, organization_id, worker_id, turn_id, disposition,"
            " envelope_sender, recipient, sender, sender_name, subject, identity, message_id,"
            " thread, verdict, sha256, size) VALUES (%(id)s, %(organization_id)s, %(worker_id)s,"
            " %(turn_id)s, %(disposition)s, %(envelope_sender)s, %(recipient)s, %(sender)s,"
            " %(sender_name)s, %(subject)s, %(identity)s, %(message_id)s, %(thread)s, %(verdict)s,"
            " %(sha256)s, %(size)s)",
            id=self.id,
            worker_id=self.recipient.worker_id,
            turn_id=turn.id if turn else None,
            disposition=disposition,
            envelope_sender=self.examined.origin.envelope_sender,
            recipient=self.recipient.address,
            sender=self.sender,
            sender_name=mail.sender_name,
            subject=mail.subject,
            identity=self.examined.identity(),
            message_id=mail.message_id,
            thread=Jsonb(thread),
            verdict=Jsonb(verdict.row()) if verdict else None,
            sha256=self.sha256,
            size=len(mail.raw),
        )


@dataclass(frozen=True, slots=True)
class _Answered:
    thread: list[str]
    message_id: str


def _instruction(examined: _Examined) -> str:
    """The text is the instruction; without one the subject is."""
    mail, content = examined.mail, examined.content
    text = content.text.strip() or mail.subject.strip() or "(The mail has no text.)"
    text = "\n\n".join([text, *content.notes])
    if len(text) > MAX_INPUT_CHARACTERS:
        text = text[: MAX_INPUT_CHARACTERS - len(_CUT)] + _CUT
    return text


def _files(content: Content) -> list[IncomingFile]:
    files = [IncomingFile(f.filename, f.media_type, f.content) for f in content.files]
    if len(content.text) > MAX_INPUT_CHARACTERS:
        files.append(IncomingFile("message.txt", "text/plain", content.text.encode()))
    return files


def _is_allowed(address: str, recipient: Recipient) -> bool:
    try:
        return mailbox.is_allowed(mailbox.parse(address), recipient.allow)
    except ValueError:
        return False


def _not_allowed(address: str) -> Refusal:
    return Refusal("550 5.7.1", f"{address[:200]} is not among the senders that are allowed here.")


@contextlib.contextmanager
def _counted(recipients: int = 1) -> Generator[None]:
    try:
        yield
    except Refusal as refusal:
        outcome = "refused" if refusal.is_final else "deferred"
        metrics.emails_received.labels(outcome).inc(recipients)
        raise


@contextlib.contextmanager
def _temporary_failures() -> Any:
    """What is wrong with this server at this moment is no reason to lose a mail."""
    try:
        yield
    except psycopg.Error as error:
        if not is_connection_error(error):
            logger.exception("A mail could not be stored")
        raise Refusal(
            "451 4.3.0", "The mail cannot be stored at this moment; try again."
        ) from error


@contextlib.contextmanager
def _storage_failures() -> Any:
    """A full disk, or an object store that does not answer."""
    try:
        yield
    except (OSError, BaseError) as error:
        logger.exception("A mail could not be stored")
        raise Refusal(
            "451 4.3.0", "The mail cannot be stored at this moment; try again."
        ) from error
