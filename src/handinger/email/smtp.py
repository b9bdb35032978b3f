"""The SMTP listener (RFC 5321): what reaches `inbound`, and how much of it at a time.

It accepts mail for workers and relays nothing. A mail ends at CR LF . CR LF and nowhere else, so
that nobody can smuggle a second one in behind a relay that counts line ends differently.
"""

import asyncio
import contextlib
import logging
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from handinger import mailbox
from handinger.email.addresses import Recipient
from handinger.email.inbound import Inbound, Refusal
from handinger.email.provenance import Origin
from handinger.errors import ConfigurationError
from handinger.settings import Settings, split_host_port

logger = logging.getLogger(__name__)

# Beyond the standard's 1,000: some programs send a whole page of HTML as one line.
_MAX_LINE_BYTES = 1024 * 1024
# Of who sends no mail while others may want to: a few hosts must not hold all connections.
_SCARCE_TIMEOUT_S = 10.0
# Of one command in one connection; who tries more recipients than that is guessing.
_MAX_CALLS = 1000
_STOP_GRACE_S = 3.0
_SHUTTING_DOWN = "421 4.3.2 The server is shutting down; try again."


@dataclass
class Gate:
    """How many connections and mails there may be; relays that are trusted only count in all."""

    settings: Settings

    def __post_init__(self) -> None:
        self.draining = False
        self._open = Counter[str]()
        limit = self.settings.smtp_rate_limit
        self._item = RateLimitItemPerSecond(limit.requests, limit.window_s) if limit else None
        self._strategy = MovingWindowRateLimiter(MemoryStorage())
        self._relays = [
            ip_network(n, strict=False) for n in self.settings.email_trusted_relays or ()
        ]

    def enter(self, ip: str) -> bool:
        """Count a connection, if there is room for it."""
        if self.draining or self._open.total() >= self.settings.smtp_max_connections:
            return False
        if self._open[ip] >= self.settings.smtp_max_connections_per_ip and not self._is_relay(ip):
            return False
        self._open[ip] += 1
        return True

    def leave(self, ip: str) -> None:
        """It is closed."""
        self._open[ip] -= 1
        if self._open[ip] <= 0:
            del self._open[ip]

    def patience_s(self) -> float:
        """How long a connection may be silent."""
        scarce = 2 * self._open.total() > self.settings.smtp_max_connections
        timeout_s = self.settings.smtp_timeout_s
        return min(_SCARCE_TIMEOUT_S, timeout_s) if scarce else timeout_s

    async def may_send(self, ip: str) -> bool:
        """Count a mail."""
        if self._item is None or self._is_relay(ip):
            return True
        return await self._strategy.hit(self._item, ip)

    def _is_relay(self, ip: str) -> bool:
        try:
            address = ip_address(ip.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._relays)


class _Connection(SMTP):
    """One conversation."""

    line_length_limit = _MAX_LINE_BYTES

    def __init__(
        self,
        handler: "_Handler",
        gate: Gate,
        settings: Settings,
        on_close: Callable[["_Connection"], None],
        **options: Any,
    ) -> None:
        super().__init__(
            handler,
            hostname=settings.mail_domain,
            ident="Handinger",
            data_size_limit=settings.email_max_bytes,
            enable_SMTPUTF8=True,
            timeout=settings.smtp_timeout_s,
            auth_exclude_mechanism=("LOGIN", "PLAIN"),
            command_call_limit={"*": _MAX_CALLS},
            **options,
        )
        self._gate = gate
        self._on_close = on_close
        self._ip: str | None = None  # while it is counted
        self._received = 0
        self._max_received = 2 * settings.email_max_bytes + _MAX_LINE_BYTES
        # Of the mail that is under way:
        self.recipients: list[Recipient] = []
        self._must_end_at: float | None = None  # while it arrives
        self.idle = asyncio.Event()  # no mail is being stored
        self.idle.set()

    async def push(self, status: str | bytes) -> None:
        """Answer; what the other side said may stand in it, and need not be text."""
        if isinstance(status, str):
            status = status.encode(errors="backslashreplace")
        await super().push(status)

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        try:
            return super()._getaddr(arg)
        except Exception:  # The library stumbles over some addresses.
            return None, None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Turn it away if there are too many."""
        if self._ip is None:
            ip = str((transport.get_extra_info("peername") or ("unknown",))[0])
            if not self._gate.enter(ip):
                refused = cast(asyncio.Transport, transport)
                refused.write(b"421 4.7.0 Too many connections; try again later.\r\n")
                refused.close()
                return
            self._ip = ip
        super().connection_made(transport)

    def _reset_timeout(self, duration: float | None = None) -> None:
        super()._reset_timeout(duration or self._gate.patience_s())

    async def smtp_DATA(self, arg: str) -> None:
        """Whoever may send a mail here has time for it while it comes; not so for commands."""
        self._must_end_at = self.loop.time() + self._gate.settings.smtp_mail_timeout_s
        self._wait_for_more()
        await super().smtp_DATA(arg)
        self.await_command()

    def _wait_for_more(self) -> None:
        assert self._must_end_at is not None
        left_s = self._must_end_at - self.loop.time()
        # Zero would mean the usual time.
        self._reset_timeout(max(min(self._gate.settings.smtp_timeout_s, left_s), 0.001))

    def await_nothing(self) -> None:
        """The mail is here in full; how long it takes to store it is not up to its sender."""
        self._must_end_at = None
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()

    def await_command(self) -> None:
        """It is the sender's turn again, also to take our answer."""
        self._must_end_at = None
        self._reset_timeout()

    def data_received(self, data: bytes) -> None:
        """Cut off who sends without end; a mail that is only somewhat too large is answered."""
        if self._ip is None:
            return
        self._received += len(data)
        if self._received > self._max_received:
            cast(asyncio.Transport, self.transport).abort()
            return
        if self._must_end_at is not None:
            self._wait_for_more()
        super().data_received(data)

    def eof_received(self) -> bool | None:
        """The other side has said all."""
        return super().eof_received() if self._ip is not None else None

    def connection_lost(self, error: Exception | None) -> None:
        """It is over."""
        self._on_close(self)
        if self._ip is None:
            return
        self._gate.leave(self._ip)
        self._ip = None
        super().connection_lost(error)

    def begin_mail(self) -> None:
        """The count of bytes is for one mail."""
        self._received = 0
        self.recipients = []

    async def hang_up(self) -> None:
        """Say that the server stops, and close."""
        if self._ip is not None and self.transport is not None:
            with contextlib.suppress(ConnectionError):
                await self.push(_SHUTTING_DOWN)
            self.transport.close()


class _Handler:
    """Answers the commands of every conversation."""

    def __init__(self, inbound: Inbound, gate: Gate) -> None:
        self._inbound = inbound
        self._gate = gate

    async def handle_EHLO(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        """Nobody logs in here."""
        del server, envelope
        session.host_name = hostname
        return [line for line in responses if not line.startswith("250-AUTH")]

    async def handle_MAIL(
        self,
        server: _Connection,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        """Who sends it."""
        if self._gate.draining:
            return _SHUTTING_DOWN
        if not await self._gate.may_send(_peer(session)):
            return "451 4.7.1 Too many mails from your address; try again later."
        if address != "<>":
            try:
                mailbox.parse(address)
            except ValueError:
                return "553 5.1.7 The sender's address is malformed."
        server.begin_mail()
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(
        self,
        server: _Connection,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        """Whom it is for. All recipients of one mail are workers of one organization."""
        del session, options
        known = server.recipients
        if len(known) >= self._gate.settings.email_max_recipients:
            return "452 4.5.3 Too many recipients; send the mail to the others once more."
        try:
            found = await self._inbound.recipient(address, envelope_sender=_sender(envelope))
        except Refusal as refusal:
            return str(refusal)
        if known and known[0].organization_id != found.organization_id:
            return "452 4.5.3 One mail at a time; send it to this recipient once more."
        known.append(found)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: _Connection, session: Session, envelope: Envelope) -> str:
        """Answered with 250 when the mail is stored, and not before."""
        if self._gate.draining:
            return _SHUTTING_DOWN
        assert isinstance(envelope.content, bytes)
        origin = Origin(
            ip=_peer(session), helo=session.host_name or "", envelope_sender=_sender(envelope)
        )
        server.idle.clear()
        server.await_nothing()
        try:
            await self._inbound.take_in(envelope.content, origin, server.recipients)
        except Refusal as refusal:
            logger.info("A mail from %s is refused: %s", origin.envelope_sender, refusal)
            return str(refusal)
        finally:
            server.await_command()
            server.idle.set()
        return "250 2.6.0 Stored"

    async def handle_exception(self, error: Exception) -> str:
        """A failure of ours is no reason to lose a mail."""
        logger.error("An SMTP conversation failed", exc_info=error)
        return "451 4.3.0 The server failed; try again."


def _peer(session: Session) -> str:
    return str((session.peer or ("unknown",))[0])


def _sender(envelope: Envelope) -> str:
    return "" if envelope.mail_from in (None, "<>") else str(envelope.mail_from)


@contextlib.asynccontextmanager
async def listening(settings: Settings, inbound: Inbound) -> AsyncGenerator[None]:
    """Listen within this block.

    At the end, mails that are being stored are answered, and other conversations are closed. Raises
    ConfigurationError.
    """
    assert settings.smtp_listen is not None
    gate = Gate(settings)
    handler = _Handler(inbound, gate)
    certificate: _Certificate | None = None
    if settings.smtp_tls_cert_file is not None:
        certificate = _Certificate(settings.smtp_tls_cert_file, settings.smtp_tls_key_file)
    loop = asyncio.get_running_loop()
    connections: set[_Connection] = set()

    def connect() -> _Connection:
        tls = certificate.context() if certificate else None
        connection = _Connection(
            handler, gate, settings, connections.discard, tls_context=tls, loop=loop
        )
        connections.add(connection)
        return connection

    host, port = split_host_port(settings.smtp_listen)
    try:
        server = await loop.create_server(connect, host, port)
    except OSError as error:
        raise ConfigurationError(
            f"HANDINGER_SMTP_LISTEN: cannot listen on {settings.smtp_listen}: {error.strerror}."
        ) from error
    bound = server.sockets[0].getsockname()
    logger.info("Taking mail for %s on %s:%s", settings.mail_domain, bound[0], bound[1])

    try:
        yield
    finally:
        gate.draining = True
        server.close()
        await _close(connections)


async def _close(connections: set[_Connection]) -> None:
    busy = [asyncio.create_task(connection.idle.wait()) for connection in connections]
    if busy:
        await asyncio.wait(busy, timeout=_STOP_GRACE_S)
    for wait in busy:
        wait.cancel()
    await asyncio.gather(*(connection.hang_up() for connection in list(connections)))


class _Certificate:
    """The certificate of the settings, read again once its files have changed.

    Conversations go on with the one that they began with. Files that do not fit together, such as
    in the middle of a renewal, change nothing.
    """

    def __init__(self, cert_file: Path, key_file: Path | None) -> None:
        self._cert_file, self._key_file = cert_file, key_file
        self._seen = self._stamp()
        try:
            self._context = self._load()
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"HANDINGER_SMTP_TLS_CERT_FILE cannot be used: {error}."
            ) from error

    def context(self) -> ssl.SSLContext:
        """For a new connection."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._context = self._load()
                logger.info("The certificate %s is read again", self._cert_file)
            except (OSError, ssl.SSLError) as error:
                logger.warning("The new %s cannot be used: %s", self._cert_file, error)
        return self._context

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._cert_file, self._key_file)
        return context

    def _stamp(self) -> list[tuple[int, int, int]]:
        """Differs once another file is there, also behind a symbolic link."""
        try:
            found = [file.stat() for file in (self._cert_file, self._key_file) if file]
        except OSError:
            return []
        return [(one.st_mtime_ns, one.st_ino, one.st_size) for one in found]
