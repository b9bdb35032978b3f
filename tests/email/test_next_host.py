"""The mail server that takes our mail wants STARTTLS and a login, as `HANDINGER_SMTP_URL` says."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.email.signing import new_key, pem
from tests.email.sink import Sink
from tests.email.world import World, ask, unique
from tests.support.certificates import self_signed
from tests.support.dns_server import DnsServer
from tests.support.model_server import ModelServer

# To the machine itself, which these addresses are too, nothing is encrypted.
HOST = "127.0.0.2"
PASSWORD = "p@ss/word:of the relay"


@dataclass
class Relay:
    """Hosts that stand at the same place one after the other, and what they were told."""

    folder: Path
    port: int
    logins: list[Any]

    def host(self, key: rsa.RSAPrivateKey | None) -> Sink:
        """One that encrypts with this key, or does not; either takes any login."""
        options: dict[str, Any] = {"auth_require_tls": False}
        if key is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate(self.folder, key))
            options = {"tls_context": context, "require_starttls": True, "auth_required": True}
        sink = Sink(host=HOST, authenticator=self._login, **options)
        sink.port = self.port
        return sink

    def _login(self, *given: Any) -> AuthResult:
        self.logins.append(given[-1])
        return AuthResult(success=True)


def certificate(folder: Path, key: rsa.RSAPrivateKey) -> Path:
    """One of the host, with its key."""
    path = folder / f"{key.key_size}.pem"
    path.write_bytes(pem(key) + self_signed(HOST, key))
    return path


@pytest.fixture
def relay(tmp_path: Path) -> Relay:
    try:
        port = Sink(host=HOST).port
    except OSError:
        pytest.skip(f"this machine has no {HOST}")
    return Relay(tmp_path, port, [])


@pytest.fixture
def client(relay: Relay, model: ModelServer, names: DnsServer, tmp_path: Path) -> Iterator[World]:
    """A server whose mail goes there, and that trusts one certificate."""
    world = World(tmp_path / "data", model, names, {
        "HANDINGER_SMTP_URL": f"smtp://mail%40us:p%40ss%2Fword%3Aof%20the%20relay@{HOST}:{relay.port}",
        "SSL_CERT_FILE": str(certificate(relay.folder, new_key())),
        "HANDINGER_EMAIL_RETRY_MAX_DELAY_S": "0.3",
    })  # fmt: skip
    world.start()
    yield world
    world.close()


def test_a_password_is_told_to_nobody_but_the_host_of_the_settings(relay: Relay, client: World):
    sender = unique("ada")
    with relay.host(None) as plain:
        worker_id, _, _ = ask(client, "Go.", sender)
        client.wait_for_mails(worker_id, ["pending"], error="STARTTLS")
    with relay.host(new_key(3072)) as false:
        client.wait_for_mails(worker_id, ["pending"], error="certificate verify failed")
    assert relay.logins == plain.taken == false.taken == []
    with relay.host(new_key()) as true:
        (answer,) = true.wait_for(sender)
        client.wait_for_mails(worker_id, ["delivered"])
    assert answer["Auto-Submitted"] == "auto-replied"
    (login,) = relay.logins
    assert (login.login, login.password) == (b"mail@us", PASSWORD.encode())
    told = client.server.log_path.read_text() + str(client.emails(worker_id))
    assert PASSWORD not in told
    assert "p%40ss" not in told
