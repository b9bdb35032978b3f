"""Senders that prove who they are: domains with an SPF record and a DKIM key."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import dkim  # pyright: ignore[reportMissingTypeStubs]
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dkim.crypto import parse_pem_private_key  # pyright: ignore[reportMissingTypeStubs]

from tests.support.certificates import self_signed
from tests.support.dns_server import DnsServer

SIGNED = ("from", "to", "subject", "date", "message-id", "content-type", "mime-version")


@cache
def new_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key for all: making them takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def record(key: rsa.RSAPrivateKey) -> str:
    """What a domain publishes of the key."""
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"


def certificate(folder: Path) -> dict[str, str]:
    """A certificate that a server made for itself, as its settings."""
    key = new_key()
    (folder / "cert.pem").write_bytes(self_signed("localhost", key))
    (folder / "key.pem").write_bytes(pem(key))
    return {
        "HANDINGER_SMTP_TLS_CERT_FILE": str(folder / "cert.pem"),
        "HANDINGER_SMTP_TLS_KEY_FILE": str(folder / "key.pem"),
    }


@dataclass(frozen=True)
class Domain:
    """A domain that signs what it sends."""

    name: str
    names: DnsServer
    key: rsa.RSAPrivateKey = field(default_factory=new_key)

    def publish(self, *, spf: str | None = None, dmarc: str | None = None) -> "Domain":
        self.names.add(f"s1._domainkey.{self.name}", "TXT", record(self.key))
        if spf is not None:
            self.names.add(self.name, "TXT", spf)
        if dmarc is not None:
            self.names.add(f"_dmarc.{self.name}", "TXT", dmarc)
        return self

    def sign(
        self,
        raw: bytes,
        *,
        algorithm: str = "rsa-sha256",
        length: bool = False,
        headers: Sequence[str] = SIGNED,
        body: str = "relaxed",
    ) -> bytes:
        """The mail with a signature on top."""
        present = {
            line.split(b":")[0].lower().decode()
            for line in raw.split(b"\r\n\r\n")[0].split(b"\r\n")
        }
        header = dkim.sign(
            raw,
            b"s1",
            self.name.encode(),
            pem(self.key),
            signature_algorithm=algorithm.encode(),
            include_headers=[name.encode() for name in headers if name in present],
            canonicalize=(b"relaxed", body.encode()),
            length=length,
        )
        return header + raw

    def sign_without_sender(self, raw: bytes) -> bytes:
        """A signature that is right and covers the subject alone; the library makes none itself."""
        signer = dkim.DKIM(raw)
        policy = dkim.CanonicalizationPolicy.from_c_value(b"relaxed/simple")
        body = hashlib.sha256(policy.canonicalize_body(signer.body)).digest()
        signer.hasher = hashlib.sha256
        fields = [
            (b"v", b"1"), (b"a", b"rsa-sha256"), (b"c", b"relaxed/simple"),
            (b"d", self.name.encode()), (b"s", b"s1"), (b"h", b"subject"),
            (b"bh", base64.b64encode(body)), (b"b", b"0" * 60),
        ]  # fmt: skip
        key = parse_pem_private_key(pem(self.key))
        return (
            b"DKIM-Signature: "
            + signer.gen_header(fields, (b"subject",), policy, b"DKIM-Signature", key)
            + raw
        )
