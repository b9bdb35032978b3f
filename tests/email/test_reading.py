"""What a mail says: a corpus of mails in the wild, and what a fuzzer makes of them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handinger.email import loops, quoting, reading
from handinger.email.loops import Disposition
from handinger.email.message import Headers, Mail, UnreadableMail, decoded
from handinger.settings import Settings
from tests.email.corpus import CASES, Case
from tests.email.world import mail


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mail_is_read_as_its_sender_meant_it(case: Case):
    content = reading.read(Mail.read(case.raw))
    assert (content.text, content.is_untrusted) == (case.text, case.is_untrusted)
    assert {file.filename: file.content for file in content.files} == case.files


def test_the_corpus_is_large():
    assert len({case.name for case in CASES}) == len(CASES) >= 40


# No crash, no lost mail

_RAW = st.sampled_from([case.raw for case in CASES if len(case.raw) < 10_000])
_LINES = [
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Type: text/html; charset=\xff\r\n",
    b"Content-Disposition: attachment; filename*0*=utf-8''%ff; filename*1=\"\r\n",
    b"Subject: =?utf-8?b?//8=?= =?x?q?=ZZ?=\r\n",
    b"--b\r\n",
    b"--b--\r\n",
    b"\r\n",
    b"\0\x80\xff",
]


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    raw = bytearray(draw(_RAW))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(["cut", "insert", "line", "repeat"])):
            case "cut":
                del raw[at : at + draw(st.integers(1, 40))]
            case "insert":
                raw[at:at] = draw(st.binary(max_size=8))
            case "line":
                raw[at:at] = draw(st.sampled_from(_LINES))
            case _:
                raw[at:at] = raw[at : at + 200]
    return bytes(raw)


def _read_in_full(raw: bytes) -> None:
    try:
        read = Mail.read(raw)
    except UnreadableMail:
        return  # It is refused, so its sender learns of it.
    content = reading.read(read)
    for text in (content.text, content.whole_text, read.subject, read.sender_name, read.identity()):
        assert "\0" not in text
        text.encode()
    for file in content.files:
        (file.filename or "").encode()
    loops.reason_for_no_turn(read, envelope_sender="a@b.example", settings=Settings())


@given(_damaged())
@settings(max_examples=60, deadline=None)
def test_no_damaged_mail_is_too_odd(raw: bytes):
    _read_in_full(raw)


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_no_bytes_are_too_odd(raw: bytes):
    _read_in_full(b"From: ada@example.com\r\n" + raw)


@given(st.text(max_size=200))
@settings(max_examples=40, deadline=None)
def test_no_header_is_too_odd(text: str):
    decoded(text)
    Headers(items=(("subject", text),)).text("subject").encode(errors="surrogatepass")


@pytest.mark.slow
@given(_damaged())
@settings(max_examples=2000, deadline=None)
def test_no_damaged_mail_is_too_odd_at_length(raw: bytes):
    _read_in_full(raw)


# What would take too long

BOMBS = {
    "nested multiparts": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i)
        for i in range(3000)
    ),
    "nested mails": b"Content-Type: message/rfc822\r\n\r\n" * 3000,
    "very many parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    + b"--b\r\n\r\nx\r\n" * 50_000,
    "very many headers": b"X-A: b\r\n" * 20_000 + b"\r\ntext",
    "a deep page": b"Content-Type: text/html\r\n\r\n" + b"<b>" * 200_000 + b"deep",
    "tags that never end": b"Content-Type: text/html\r\n\r\n" + b"<a " * 19_000,
    "ends that never end": b"Content-Type: text/html\r\n\r\n" + b"</" * 19_000 + b"a" * 900_000,
    "quotes that never end": b"Content-Type: text/html\r\n\r\n" + b"<a x='" * 19_000,
    "comments that never end": b"Content-Type: text/html\r\n\r\n" + b"<!--" * 19_000,
    "a page of blanks": b"Content-Type: text/html\r\n\r\n<p>" + b" " * 900_000 + b"x",
    "blank lines": b"\r\nx\r\n" + b" \r\n" * 300_000 + b"x",
    "quotes": b"\r\n" + b"On " + b"a " * 100_000 + b"\r\n" + b"On x\r\n" * 20_000,
    "from lines": b"\r\n" + b"From: x\r\nSent: y\r\n" * 50_000,
    "an encoded word": b"Subject: " + b"=?utf-8?q?" + b"=41" * 60_000 + b"?=\r\n\r\n",
    "a parameter in pieces": b"Content-Type: text/plain;"
    + b"".join(b' name*%d="a";' % i for i in range(9_000))
    + b"\r\n\r\n",
    "a parameter that never ends": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    b'Content-Disposition: attachment; filename="' + b";" * 1_000_000 + b"\r\n\r\nx\r\n--b--\r\n",
    "many lines in many parts": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i)
        for i in range(90)
    ) + b"\r\n" + b"-\r\n" * 4_000_000,
    "a charset of Python": b"Content-Type: text/plain; charset=punycode\r\n\r\n"
    + b"a" * 1_000_000 + b"-" + b"b" * 1_000_000,
    "a subject in a charset of Python": b"Subject: =?punycode?q?" + b"a-" + b"b" * 250_000
    + b"?=\r\n\r\ntext",
}  # fmt: skip


@pytest.mark.parametrize("bomb", list(BOMBS))
def test_a_bomb_does_not_stop_the_server(bomb: str):
    begun = time.process_time()
    read = Mail.read(b"From: ada@example.com\r\n" + BOMBS[bomb])
    content = reading.read(read)
    assert len(read.subject) < 1000
    says_nothing = ("an encoded word", "a parameter in pieces")
    assert content.text or content.files or bomb in says_nothing or "never end" in bomb
    # Generous, as it is for machines that are slow: what is without bounds takes minutes.
    assert time.process_time() - begun < 20


@pytest.mark.parametrize(
    "sender",
    ['"' + '\\"' * 100_000 + " <ada@example.com>", "(" * 1500 + " <ada@example.com>"],
)
def test_a_sender_that_would_take_too_long_is_refused(sender: str):
    with pytest.raises(UnreadableMail):
        Mail.read(mail(sender=sender))


def test_what_cannot_be_taken_apart_is_kept_whole():
    raw = b"From: ada@example.com\r\n" + BOMBS["nested multiparts"]
    content = reading.read(Mail.read(raw))
    (file,) = content.files
    assert (file.filename, file.content) == ("message.eml", raw)
    assert "kept as a file" in content.notes[0]


# Threads, and who never gets a turn

REPORT = "multipart/report; report-type"


def test_the_thread_of_a_mail():
    read = Mail.read(
        mail(
            headers={
                "References": "<a@x> <b@x>\r\n\t<c@x> junk <not an id>",
                "In-Reply-To": "Message of <c@x>",
            },
            message_id="<d@x>",
        )
    )
    assert read.references == ["<a@x>", "<b@x>", "<c@x>"]
    assert (read.in_reply_to, read.message_id) == ("<c@x>", "<d@x>")
    without = Mail.read(mail(headers={"In-Reply-To": "<c@x>"}))
    assert without.references == ["<c@x>"]


@pytest.mark.parametrize(
    ("headers", "envelope_sender", "disposition"),
    [
        ({}, "ada@example.com", None),
        ({"Auto-Submitted": "no"}, "ada@example.com", None),
        ({"X-Auto-Response-Suppress": "All"}, "ada@example.com", None),  # people's, in Exchange
        ({"Precedence": "first-class"}, "ada@example.com", None),
        ({"Auto-Submitted": "auto-replied"}, "ada@example.com", Disposition.AUTO_REPLY),
        ({"Auto-Submitted": "Auto-Generated; x=y"}, "ada@example.com", Disposition.AUTO_REPLY),
        ({"X-Autoreply": "yes"}, "ada@example.com", Disposition.AUTO_REPLY),
        ({"Precedence": "auto_reply"}, "ada@example.com", Disposition.AUTO_REPLY),
        ({"Precedence": "Bulk"}, "ada@example.com", Disposition.LIST),
        ({"List-Id": "<x.example.com>"}, "ada@example.com", Disposition.LIST),
        ({"List-Unsubscribe": "<mailto:x@y>"}, "ada@example.com", Disposition.LIST),
        ({"From": "MAILER-DAEMON@example.net"}, "", Disposition.BOUNCE),
        ({}, "", Disposition.AUTO_REPLY),
        ({"Content-Type": f"{REPORT}=delivery-status"}, "a@b.c", Disposition.BOUNCE),
        ({"Content-Type": f"{REPORT}=disposition-notification"}, "a@b.c", Disposition.AUTO_REPLY),
        ({"From": "worker+abc@localhost"}, "ada@example.com", Disposition.LOOP),
        ({}, "worker@localhost", Disposition.LOOP),
        ({"From": "workers@localhost"}, "ada@example.com", None),  # somebody of the same domain
    ],
)  # fmt: skip
def test_who_never_starts_a_turn(
    headers: dict[str, str], envelope_sender: str, disposition: Disposition | None
):
    headers = {"From": "ada@example.com", **headers}
    read = Mail.read(mail(sender=None, headers=headers))
    found = loops.reason_for_no_turn(read, envelope_sender=envelope_sender, settings=Settings())
    assert found is disposition


def test_a_forward_is_known_by_its_subject_or_its_line():
    assert quoting.is_forward("Fwd: x", "")
    assert quoting.is_forward("WG: x", "")
    assert quoting.is_forward("x", "Look:\n\nBegin forwarded message:\n\n> From: bob")
    assert not quoting.is_forward("Re: Fw", "no")
