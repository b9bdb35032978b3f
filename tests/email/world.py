"""The world around a server that takes mail."""

import asyncio
import contextlib
import itertools
import smtplib
import ssl
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from handinger import keys
from handinger.settings import Settings
from handinger.storage.database import open_database
from handinger.storage.embedded import EmbeddedPostgres
from tests.email.sink import Sink
from tests.support import preloaded
from tests.support.dns_server import DnsServer
from tests.support.inbound_mail import hand_in
from tests.support.model_server import ModelServer
from tests.support.server import HandingerServer, free_port

DOMAIN = "workers.example.org"
SECRET = "a-shared-secret-of-tests"
# Whose SPF record names this machine.
ADA = "ada@trusted.example"
PATIENCE_S = 40

_numbers = itertools.count(1)


def mail(
    text: str = "Hello.",
    *,
    sender: str | None = f"Ada <{ADA}>",
    headers: Mapping[str, str] | None = None,
    message_id: str | None = "",
) -> bytes:
    """A mail as it is on the wire; its `Message-ID` is a fresh one, or the given one, or none."""
    lines: dict[str, str] = {}
    if sender is not None:
        lines["From"] = sender
    if message_id is not None:
        lines["Message-ID"] = message_id or f"<{next(_numbers)}.{time.time_ns()}@trusted.example>"
    lines |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return (head + "\r\n" + text.replace("\n", "\r\n") + "\r\n").encode()


MIXED = {"Content-Type": 'multipart/mixed; boundary="b"', "Subject": "Files"}


def with_files(text: str, *files: tuple[str, str]) -> str:
    """A multipart body, for a mail that says so in its headers."""
    parts = [f"--b\n\n{text}"]
    parts += [
        f'--b\nContent-Disposition: attachment; filename="{name}"\n\n{content}'
        for name, content in files
    ]
    return "\n".join([*parts, "--b--"])


class World:
    """One server, and what it meets."""

    def __init__(
        self,
        data_dir: Path,
        model: ModelServer,
        names: DnsServer,
        environment: Mapping[str, str] | None = None,
        *,
        prepare: Callable[[], None] = preloaded.nothing,
    ) -> None:
        self.model = model
        self.names = names
        self.sink: Sink | None = None
        self.smtp_port = free_port()
        names.add("trusted.example", "TXT", "v=spf1 ip4:127.0.0.1 -all")
        self.server = HandingerServer(
            data_dir,
            model_url=model.base_url,
            environment={
                "HANDINGER_SHUTDOWN_GRACE_S": "1",
                "HANDINGER_SMTP_LISTEN": f"127.0.0.1:{self.smtp_port}",
                "HANDINGER_EMAIL_DOMAIN": DOMAIN,
                "HANDINGER_EMAIL_ALLOW": "trusted.example, *.trusted.example",
                "HANDINGER_EMAIL_RESOLVER": names.address,
                "HANDINGER_INBOUND_EMAIL_SECRET": SECRET,
                "HANDINGER_EMAIL_RETRY_DELAY_S": "0.2",
                "HANDINGER_SMTP_RATE_LIMIT": "",
                **(environment or {}),
            },
            prepare=prepare,
        )

    def start(self) -> None:
        self.server.start()
        self.api = httpx2.Client(
            base_url=self.server.base_url, headers=self.server.headers, timeout=60
        )

    def restart(self) -> None:
        """After a kill or a stop."""
        self.api.close()
        self.start()

    def close(self) -> None:
        self.api.close()
        self.server.close()

    def new_worker(self, input: str = "Be ready.") -> str:
        """A worker with one ended turn."""
        answer = self.api.post("/api/workers", json={"input": input})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def address(self, worker_id: str) -> str:
        return self.api.get(f"/api/workers/{worker_id}/email").json()

    def new_address(self) -> tuple[str, str]:
        """A new worker and its address."""
        worker_id = self.new_worker()
        return worker_id, self.address(worker_id)

    def peer_certificate(self) -> bytes:
        """What a new connection is shown."""
        with self.connect(tls=True) as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            return client.sock.getpeercert(binary_form=True) or b""

    def connect(self, *, tls: bool = False) -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=30)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            client.starttls(context=context)
        return client

    def send(self, raw: bytes, *to: str, sender: str = ADA) -> tuple[int, str]:
        """Send a mail; what the server said to its first refused command, or to the mail itself."""
        with self.connect() as client:
            try:
                refused = client.sendmail(sender, list(to), raw)
            except smtplib.SMTPRecipientsRefused as error:
                code, text = next(iter(error.recipients.values()))
                return code, text.decode()
            except smtplib.SMTPResponseException as error:
                text = error.smtp_error
                return error.smtp_code, text.decode() if isinstance(text, bytes) else text
            if refused:
                code, text = next(iter(refused.values()))
                return code, text.decode()
        return 250, ""

    def post(
        self,
        raw: bytes,
        *to: str,
        sender: str = ADA,
        ip: str | None = "127.0.0.1",
        secret: str = SECRET,
        age_s: float = 0,
        signature: str | None = None,
    ) -> httpx2.Response:
        """Hand a mail in by HTTP, signed."""
        return hand_in(
            self.server.base_url,
            raw,
            to,
            secret=secret,
            sender=sender,
            ip=ip,
            age_s=age_s,
            signature=signature,
        )

    def other_organization(self) -> httpx2.Client:
        """A client of a new organization."""
        secret = asyncio.run(self._new_key())
        return httpx2.Client(
            base_url=self.server.base_url, headers={"Authorization": f"Bearer {secret}"}, timeout=60
        )

    async def _new_key(self) -> str:
        postgres = await asyncio.to_thread(EmbeddedPostgres.join, self.server.data_dir)
        try:
            given = {"data_dir": self.server.data_dir, "database_url": postgres.url}
            async with open_database(Settings.model_validate(given)) as database:
                organization = await keys.create_organization(database, "other")
                return (await keys.create_key(database, organization.id, name="test")).secret
        finally:
            await asyncio.to_thread(postgres.leave)

    @contextlib.contextmanager
    def database(self) -> Generator[psycopg.Connection]:
        """A transaction in the server's database, which is rolled back."""
        postgres = EmbeddedPostgres.join(self.server.data_dir)
        try:
            with psycopg.connect(postgres.url) as connection:
                yield connection
                connection.rollback()
        finally:
            postgres.leave()

    def turns(self, worker_id: str) -> list[dict[str, Any]]:
        """The worker's turns by mail, oldest first."""
        found = self.api.get(f"/api/workers/{worker_id}/turns?limit=100").json()["turns"]
        return [turn for turn in reversed(found) if turn["source"] == "email"]

    def inputs(self, worker_id: str) -> list[str]:
        return [turn["input"] for turn in self.turns(worker_id)]

    def emails(self, worker_id: str, direction: str | None = None) -> list[dict[str, Any]]:
        """The worker's mails, oldest first."""
        found = self.api.get(f"/api/workers/{worker_id}/emails?limit=100").json()["emails"]
        return [e for e in reversed(found) if direction in (None, e["direction"])]

    def statuses(self, worker_id: str, direction: str = "in") -> list[str]:
        return [email["status"] for email in self.emails(worker_id, direction)]

    def wait_for_mails(
        self, worker_id: str, statuses: list[str], *, error: str = ""
    ) -> list[dict[str, Any]]:
        """The mails that went out, once they are in these states, with these words as the error."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = self.emails(worker_id, "out")
            if [e["status"] for e in found] == statuses and all(
                error in (e["error"] or "") for e in found
            ):
                return found
            time.sleep(0.05)
        raise AssertionError(f"the mails are {self.emails(worker_id, 'out')}")

    def wait_until_idle(self, worker_id: str) -> dict[str, Any]:
        """The worker once nothing is left to do."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            worker = self.api.get(f"/api/workers/{worker_id}").json()
            if not worker["running"]:
                return worker
            time.sleep(0.05)
        raise AssertionError("the worker does not come to rest")


def text_of(message: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def instructions(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was instructed by mail."""
    return [
        message
        for message in messages
        if message["role"] == "user" and message["metadata"]["source"] == "email"
    ]


def unique(name: str) -> str:
    """A sender of the trusted domain whom no other test uses."""
    return f"{name}.{time.time_ns()}@trusted.example"


def ask(world: World, text: str, sender: str | None = None, **headers: str) -> tuple[str, str, str]:
    """A mail of a new sender to a new worker: the worker, its address, the sender."""
    sender = sender or unique("ada")
    worker_id, address = world.new_address()
    raw = mail(text, sender=f"Ada <{sender}>", headers={"Subject": "A task", **headers})
    assert world.send(raw, address, sender=sender) == (250, "")
    return worker_id, address, sender
