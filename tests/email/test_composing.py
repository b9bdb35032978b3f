"""What a mail of ours looks like: headers that nobody breaks, text, files, a signature."""

import email
import email.policy
import re
import shutil
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import dkim  # pyright: ignore[reportMissingTypeStubs]
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from handinger.email import composing, threads
from handinger.email.composing import Selection
from handinger.email.outbox import AttachedFile, OutboundEmail, one_line
from handinger.errors import ConfigurationError
from handinger.settings import Settings
from tests.email.signing import new_key, pem
from tests.email.sink import body

DOCS = Path(__file__).parents[2] / "docs" / "email.md"


@pytest.mark.parametrize(
    ("markdown", "forbidden"),
    [
        ("<script>alert(1)</script>", "<script"),
        ("[x](javascript:alert(1))", 'javascript:alert(1)"'),
        ("![x](https://tracker.example/p.gif)", "<img"),
        ("<img src=x onerror=alert(1)>", "<img"),
        ("[x](data:text/html,x)", 'href="data:'),
        ("<a href='https://x.example' onclick='x'>x</a>", "<a href='"),
    ],
)
def test_html_of_an_answer_can_do_nothing(markdown: str, forbidden: str):
    assert forbidden not in composing.to_html(markdown)


@pytest.mark.parametrize(
    ("subject", "reply"),
    [
        ("A task", "Re: A task"),
        ("Re: A task", "Re: A task"),
        ("RE: re: AW: Re[2]: A task", "Re: A task"),
        ("Reason", "Re: Reason"),
        ("", "Re:"),
    ],
)
def test_re_stands_there_once(subject: str, reply: str):
    assert threads.reply_subject(subject) == reply


def test_a_long_thread_keeps_its_first_mail_and_the_last():
    parents = [f"<{number}@x>" for number in range(100)]
    kept = threads.references(parents, "<parent@x>")
    assert (kept[0], kept[-1], len(kept)) == ("<0@x>", "<parent@x>", 40)
    assert threads.references(["<a@x>"], "<a@x>") == ["<a@x>"]


def test_files_are_attached_as_far_as_they_fit():
    found = [AttachedFile(str(size), "", size, "text/plain") for size in (5, 20, 4)]
    selection = Selection.of(found, max_bytes=10)
    assert [file.size for file in selection.attached] == [5, 4]
    assert [file.size for file in selection.linked] == [20]


def test_no_header_can_be_broken():
    assert one_line("a\r\nBcc: b\0\u2028c\t d") == "a Bcc: b c d"


# An encoded word that is decoded once more, by whoever writes the header, would end it.
HIDDEN = "=?utf-8?q?Hi=0D=0ABcc:_eve=40evil.example=0D=0A=0D=0A<b>?="


def composed(settings: Settings | None = None, **more: Any) -> bytes:
    """A mail as it goes over the wire."""
    given: dict[str, Any] = {
        "id": "eml_1",
        "organization_id": "org_1",
        "worker_id": "wrk_1",
        "kind": "reply",
        "sender": "worker+t@localhost",
        "recipient": "ada@trusted.example",
        "subject": "Re: A task",
        "body": "Done.",
        "attachments": [],
        "message_id": "<eml_1@localhost>",
        "in_reply_to": None,
        "thread": [],
        "reply_token": "token",
        "status": "pending",
        "attempts": 0,
        "next_attempt_at": None,
        "is_early": False,
        "created_at": datetime.now(UTC),
    }
    mail = OutboundEmail(**(given | more))
    contents = [(file, b"content") for file in mail.files]
    return composing.compose(
        mail, settings or Settings(), links=[], contents=contents, now=datetime.now(UTC)
    )


def parsed(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


@pytest.mark.parametrize("subject", [HIDDEN, f"Re: {HIDDEN} ä", "x" * 900, "Grüße" * 100])
def test_no_subject_begins_another_header(subject: str):
    raw = composed(subject=subject)
    message = parsed(raw)
    assert message["Subject"] == subject
    assert message["Bcc"] is None
    assert b"\r\nBcc" not in raw
    assert body(message).strip() == "Done."


def test_no_message_id_begins_another_header():
    raw = composed(in_reply_to=f"<{HIDDEN}>", thread=[f"<{HIDDEN}>", "<ü@x.example>"])
    assert b"\r\nBcc" not in raw
    assert parsed(raw)["Bcc"] is None


def test_long_ids_stay_ids():
    """Exchange's have 80 characters and more; a program that cannot read them loses the thread."""
    thread = [f"<{'A' * 70}{number}@{'B' * 60}.prod.outlook.example>" for number in range(40)]
    raw = composed(in_reply_to=thread[-1], thread=thread)
    assert f"\r\nIn-Reply-To: {thread[-1]}\r\n".encode() in raw
    assert ("\r\nReferences: " + "\r\n ".join(thread) + "\r\n").encode() in raw
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))


@pytest.mark.parametrize(
    "name",
    [
        HIDDEN,
        'a"; filename="b.exe',
        "a\\",
        "ä" * 120,
        "a b.txt",
        "x" * 250,
        "=?utf-8?b?YQ==?=",
        "%41",
    ],
)
def test_no_filename_begins_another_header(name: str):
    raw = composed(attachments=[asdict(AttachedFile(name, "", 7, "text/plain"))])
    message = parsed(raw)
    (part,) = message.iter_attachments()
    assert part.get_filename() == name.rpartition("/")[2]
    assert part.keys() == [
        "Content-Type", "MIME-Version", "Content-Transfer-Encoding", "Content-Disposition",
    ]  # fmt: skip
    assert part.get_payload(decode=True) == b"content"
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))


@pytest.mark.parametrize("media_type", ["message/rfc822", "multipart/mixed", "x", "text/a\r\nb: c"])
def test_no_media_type_is_more_than_one(media_type: str):
    message = parsed(composed(attachments=[asdict(AttachedFile("a", "", 7, media_type))]))
    (part,) = message.iter_attachments()
    assert part.get_content_type() == "application/octet-stream"


def test_every_line_of_a_mail_ends_as_smtp_asks():
    raw = composed(body="a\r.\rb\n.\n.\r\nc\x0b\x85 \u2028 ä", recipient="ü@trusted.example")
    assert re.search(rb"(?<!\r)\n|\r(?!\n)", raw) is None
    assert "ü@trusted.example".encode() in raw.split(b"\r\n\r\n")[0]


# Signing


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_key_that_is_made_as_documented_signs_what_its_record_proves(tmp_path: Path):
    (block,) = re.findall(
        r"   ```sh\n(   mkdir -p /etc/handinger\n.*?)   ```", DOCS.read_text(), re.S
    )
    commands = block.replace("/etc/handinger", str(tmp_path / "etc"))
    done = subprocess.run(
        ["bash", "-euc", commands], capture_output=True, text=True, check=True, timeout=60
    )
    key_file = tmp_path / "etc" / "dkim.pem"
    assert key_file.stat().st_mode & 0o077 == 0
    given = {"email_domain": "workers.example.org", "dkim_key_file": key_file}
    settings = Settings.model_validate(given)
    composing.require_key(settings)
    raw = composed(settings, subject="Grüße" * 100, body="a  b \n\n.\n c")

    def key_record(name: bytes, timeout: float = 5) -> bytes:
        del timeout
        assert name == b"handinger._domainkey.workers.example.org."
        return f"v=DKIM1; k=rsa; p={done.stdout}".encode()

    assert dkim.verify(raw, dnsfunc=key_record)
    assert not dkim.verify(raw.replace(b"a  b", b"a b"), dnsfunc=key_record)


def _of_another_kind() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public() -> bytes:
    return (
        new_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


@pytest.mark.parametrize(
    "content",
    [None, b"", b"nonsense", pem(new_key())[:500], _of_another_kind(), _public()],
    ids=["missing", "empty", "no key", "half a key", "not RSA", "the public half"],
)
def test_a_key_that_cannot_sign_is_told_before_any_mail(tmp_path: Path, content: bytes | None):
    key_file = tmp_path / "dkim.pem"
    if content is not None:
        key_file.write_bytes(content)
    settings = Settings.model_validate({"dkim_key_file": key_file})
    with pytest.raises(ConfigurationError, match=r"HANDINGER_DKIM_KEY_FILE.*openssl genrsa"):
        composing.require_key(settings)
