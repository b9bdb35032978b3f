"""The outside world's mail server: an SMTP sink that keeps what it takes, or refuses it as told."""

import email
import email.policy
import time
from collections.abc import Callable
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support.server import free_port


def body(message: EmailMessage, kind: str = "plain") -> str:
    """The text of a mail."""
    part = message.get_body((kind,))
    assert part is not None
    return part.get_content()


class Sink:
    """Listens on loopback within the `with` block; `stop` and `start` take it down and up again."""

    def __init__(self, *, host: str = "127.0.0.1", **options: Any) -> None:
        self.taken: list[tuple[Envelope, EmailMessage]] = []
        self.raw: list[bytes] = []
        # By recipient: answers to its next mails, first to last; afterwards all are taken.
        self.answers: dict[str, list[str]] = {}
        self.refused_recipients: dict[str, str] = {}
        self.attempts = 0
        self.on_data: Callable[[], None] = lambda: None
        self._host, self._options = host, options
        self.port = free_port(host)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._controller = Controller(self, hostname=self._host, port=self.port, **self._options)
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        del server, session, options
        if address in self.refused_recipients:
            self.attempts += 1
            return self.refused_recipients[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        del server, session
        self.attempts += 1
        self.on_data()
        answers = self.answers.get(envelope.rcpt_tos[0])
        if answers:
            return answers.pop(0)
        assert isinstance(envelope.content, bytes)
        self.raw.append(envelope.content)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.taken.append((envelope, message))
        return "250 OK"

    def to(self, address: str) -> list[EmailMessage]:
        """What was taken for an address, in order."""
        return [message for envelope, message in self.taken if address in envelope.rcpt_tos]

    def wait_for(
        self, address: str, count: int = 1, *, patience_s: float = 30
    ) -> list[EmailMessage]:
        """The mails for an address, once there are so many."""
        deadline = time.monotonic() + patience_s
        while len(found := self.to(address)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} mails for {address}"
            time.sleep(0.02)
        return found
