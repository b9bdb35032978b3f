"""Mail in by SMTP: a real conversation with a real server."""

import contextlib
import re
import smtplib
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handinger.email import smtp
from handinger.settings import RateLimit, Settings
from tests.email.signing import Domain, certificate
from tests.email.world import ADA, DOMAIN, World, instructions, mail, text_of
from tests.support.dns_server import DnsServer
from tests.support.model_server import ModelServer, Step

ADDRESS = re.compile(rf"worker\+[a-z2-7]{{26}}@{re.escape(DOMAIN)}")


def test_a_worker_has_one_address_that_stays(world: World):
    worker_id, address = world.new_address()
    assert ADDRESS.fullmatch(address)
    assert world.address(worker_id) == address
    assert world.new_address()[1] != address


def test_mail_is_an_instruction(world: World):
    worker_id, address = world.new_address()
    raw = mail(
        "Please add 1 and 1.\n\nBest regards,\nAda\n\nOn Monday, Worker wrote:\n> Ready.",
        headers={"Subject": "=?utf-8?q?An_addition=2C_f=C3=BCr_dich?="},
        message_id="<addition@trusted.example>",
    )
    assert world.send(raw, address) == (250, "")
    worker = world.wait_until_idle(worker_id)
    (instruction,) = instructions(worker["messages"])
    assert text_of(instruction) == "Please add 1 and 1."
    email = instruction["metadata"]["email"]
    assert email["from"] == ADA
    assert email["fromName"] == "Ada"
    assert email["to"] == address
    assert email["subject"] == "An addition, für dich"
    assert email["messageId"] == "<addition@trusted.example>"
    assert (email["verified"], email["by"]) == (True, "spf")
    assert email["spf"] == {"result": "pass", "domain": "trusted.example", "aligned": True}
    (turn,) = world.turns(worker_id)
    assert (turn["status"], turn["error"]) == ("completed", None)


def test_the_original_is_kept_as_it_came(world: World):
    worker_id, address = world.new_address()
    raw = mail("Hello.\n\n> quoted", headers={"X-Odd": "\tyes"})
    world.send(raw, address)
    (email,) = world.emails(worker_id)
    original = world.api.get(f"/api/workers/{worker_id}/emails/{email['id']}")
    assert original.content == raw
    assert original.headers["content-type"] == "message/rfc822"
    assert "attachment" in original.headers["content-disposition"]
    assert email["size"] == len(raw)


def test_addresses_are_compared_without_case(world: World):
    worker_id, address = world.new_address()
    raw = mail(sender="ADA@Trusted.Example")
    assert world.send(raw, address.upper(), sender="Ada@TRUSTED.example")[0] == 250
    assert len(world.turns(worker_id)) == 1


@pytest.mark.parametrize(
    ("recipient", "code"),
    [
        (f"worker+{'a' * 26}@{DOMAIN}", 550),
        (f"worker@{DOMAIN}", 550),
        (f"postmaster@{DOMAIN}", 550),
        ("somebody@elsewhere.example", 550),  # no relay
        (f"worker+{'a' * 200}@{DOMAIN}", 553),
    ],
)
def test_unknown_recipients_are_refused_at_once(world: World, recipient: str, code: int):
    assert world.send(mail(), recipient)[0] == code


def test_a_sender_that_is_not_allowed_is_refused_at_once(world: World):
    worker_id, address = world.new_address()
    code, text = world.send(mail(sender="eve@evil.example"), address, sender="eve@evil.example")
    assert (code, text[:5]) == (550, "5.7.1")
    assert world.emails(worker_id) == []


def test_a_header_sender_that_is_not_allowed_is_refused(world: World):
    _, address = world.new_address()
    assert world.send(mail(sender="eve@evil.example"), address)[0] == 550


def test_an_envelope_sender_that_is_not_allowed_is_refused(world: World):
    _, address = world.new_address()
    assert world.send(mail(), address, sender="eve@evil.example")[0] == 550


@pytest.mark.parametrize(
    "sender",
    [
        '"ada@trusted.example" <eve@evil.example>',
        "ada@trusted.example <eve@evil.example>",
        "=?utf-8?q?ada=40trusted=2Eexample?= <eve@evil.example>",
        "eve@evil.example (ada@trusted.example)",
        "ada@trusted.example, eve@evil.example",
        "<ada@trusted.example> <eve@evil.example>",
        "ada@trusted.example <ada@trusted.example>",  # it is read in two ways
        "friends: ada@trusted.example, eve@evil.example;",
        "ada@trusted.example@evil.example",
        '"ada@trusted.example\\" <eve@evil.example>',
        "ada@trusted.example\0@evil.example",
        "",
    ],
)
def test_a_sender_that_can_be_misread_is_refused(world: World, sender: str):
    worker_id, address = world.new_address()
    assert world.send(mail(sender=sender), address)[0] == 550
    assert world.emails(worker_id) == []


def test_a_mail_with_two_senders_or_none_is_refused(world: World):
    _, address = world.new_address()
    twice = mail(headers={"from": "eve@evil.example"})
    assert world.send(twice, address)[0] == 550
    assert world.send(mail(sender=None), address)[0] == 550


def test_a_header_line_that_hides_another_is_refused(world: World):
    _, address = world.new_address()
    for line_end in ("\n", "\r"):
        raw = b"X-Note: a" + line_end.encode() + b"From: eve@evil.example\r\n" + mail()
        with world.connect() as client:
            client.ehlo()
            client.mail(ADA)
            client.rcpt(address)
            client.putcmd("data")
            client.getreply()
            client.send(raw + b".\r\n")
            assert client.getreply()[0] == 550


def test_nothing_but_a_proof_counts(world: World, names: DnsServer):
    names.add("unproven.trusted.example", "TXT", "v=spf1 ip4:192.0.2.1 -all")
    worker_id, address = world.new_address()
    sender = "ada@unproven.trusted.example"
    claims = {"Authentication-Results": f"{DOMAIN}; dmarc=pass; spf=pass; dkim=pass"}
    code, text = world.send(mail(sender=sender, headers=claims), address, sender=sender)
    assert (code, text[:6]) == (550, "5.7.26")
    assert world.emails(worker_id) == []


def test_a_signature_is_proof_enough(world: World, names: DnsServer):
    domain = Domain("signed.trusted.example", names).publish(spf="v=spf1 -all")
    worker_id, address = world.new_address()
    sender = "ada@signed.trusted.example"
    raw = domain.sign(mail(sender=sender, headers={"Subject": "Signed"}))
    assert world.send(raw, address, sender=sender) == (250, "")
    worker = world.wait_until_idle(worker_id)
    email = instructions(worker["messages"])[0]["metadata"]["email"]
    assert (email["verified"], email["by"]) == (True, "dkim")
    assert email["spf"]["result"] == "fail"
    (signature,) = email["dkim"]
    assert (signature["result"], signature["aligned"]) == ("pass", True)


def test_a_sender_that_cannot_be_checked_now_may_come_again(world: World, names: DnsServer):
    worker_id, address = world.new_address()
    sender = "ada@later.trusted.example"
    raw = mail(sender=sender)
    names.broken.add("later.trusted.example")
    assert world.send(raw, address, sender=sender)[0] == 451
    names.broken.remove("later.trusted.example")
    names.add("later.trusted.example", "TXT", "v=spf1 ip4:127.0.0.1 -all")
    assert world.send(raw, address, sender=sender)[0] == 250
    assert len(world.turns(worker_id)) == 1


def test_a_copy_starts_no_second_turn(world: World):
    worker_id, address = world.new_address()
    raw = mail("Once.")
    for _ in range(3):
        assert world.send(raw, address)[0] == 250
    assert world.inputs(worker_id) == ["Once."]


def test_copies_at_the_same_time_start_one_turn(world: World):
    worker_id, address = world.new_address()
    raw = mail("Once.")
    threads = [threading.Thread(target=world.send, args=(raw, address)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.inputs(worker_id) == ["Once."]


def test_a_copy_without_a_message_id_is_known_by_what_it_says(world: World):
    worker_id, address = world.new_address()
    raw = mail("No id.", message_id=None)
    world.send(raw, address)
    world.send(b"Received: from elsewhere by here; today\r\n" + raw, address)
    assert world.inputs(worker_id) == ["No id."]


def test_one_mail_may_be_for_several_workers(world: World):
    first, second = world.new_address(), world.new_address()
    assert world.send(mail("For both."), first[1], second[1]) == (250, "")
    assert world.inputs(first[0]) == world.inputs(second[0]) == ["For both."]


_COMMANDS = st.sampled_from(
    [
        b"EHLO x", b"HELO x", b"HELO \xff", b"MAIL FROM:<ada@trusted.example>", b"MAIL FROM:<>",
        b"MAIL FROM:<ada@trusted.example> SIZE=99999999999999999999 BODY=8BITMIME",
        b"MAIL FROM:<\xc3\xbc@trusted.example> SMTPUTF8", b"MAIL FROM:<\xff@x> SMTPUTF8",
        b"RCPT TO:<worker+x@workers.example.org>", b"RCPT TO:<@a,@b:ada@x>", b'RCPT TO:<"a b"@x>',
        b"DATA", b"RSET", b"NOOP", b"VRFY x", b"HELP", b"EXPN x", b"AUTH PLAIN AAAA", b"STARTTLS",
        b".", b"", b"From: ada@trusted.example", b"\0", b"A" * 2000, b"BDAT 5 LAST",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2", b"GET / HTTP/1.1",
    ]
)  # fmt: skip


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    command = bytearray(draw(_COMMANDS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(command)))
        command[at:at] = draw(st.binary(max_size=3))
    return bytes(command)


@given(st.lists(_COMMANDS | _damaged(), max_size=12))
@example([b"EHLO x", b"VRFY a@"])
@example([b"EHLO x", b"VRFY <\x88"])
@example([b"EHLO x", b"MAIL FROM:<a@>"])
@settings(max_examples=60, deadline=None)
def test_no_command_is_too_odd(world: World, commands: list[bytes]):
    """It is refused, and is no failure of the server; the shared one logs no traceback either."""
    said = b"\r\n".join([*commands, b".", b"QUIT", b""])
    answers = b""
    with (
        socket.create_connection(("127.0.0.1", world.smtp_port), timeout=20) as client,
        contextlib.suppress(ConnectionError),  # After too many that are none, it hangs up.
    ):
        client.sendall(said)
        while answer := client.recv(65536):
            answers += answer
    assert answers.startswith(b"220")
    assert b"451 4.3.0" not in answers


def test_what_strangers_say_is_not_in_the_log(world: World):
    with socket.create_connection(("127.0.0.1", world.smtp_port), timeout=20) as client:
        client.sendall(b"Nothing2say\r\nVRFY forged-2026 INFO line\r\nQUIT\r\n")
        while client.recv(65536):
            pass
    log = world.server.log_path.read_text(errors="replace")
    assert "Nothing2say".lower() not in log.lower()
    assert "forged-2026" not in log


def test_bare_line_ends_do_not_end_a_mail(world: World):
    """SMTP smuggling: what comes after LF . LF must not become a mail of its own."""
    worker_id, address = world.new_address()
    smuggled = f"MAIL FROM:<{ADA}>\r\nRCPT TO:<{address}>\r\nDATA\r\n".encode() + mail("Smuggled.")
    for end in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r"):
        with world.connect() as client:
            client.ehlo()
            client.mail(ADA)
            client.rcpt(address)
            client.putcmd("data")
            assert client.getreply()[0] == 354
            client.send(mail("Honest.") + end + smuggled + b"\r\n.\r\n")
            assert client.getreply()[0] == 250
            client.putcmd("noop")
            assert client.getreply()[0] == 250
    assert len(world.turns(worker_id)) == 5
    assert all(text.startswith("Honest.") for text in world.inputs(worker_id))


def test_the_size_is_announced_and_kept(model: ModelServer, names: DnsServer, tmp_path: Path):
    small = World(tmp_path / "data", model, names, {
        **certificate(tmp_path),
        "HANDINGER_EMAIL_MAX_BYTES": "10000",
        "HANDINGER_EMAIL_MAX_RECIPIENTS": "2",
        "HANDINGER_SMTP_MAX_CONNECTIONS_PER_IP": "3",
        "HANDINGER_SMTP_RATE_LIMIT": "8/3600",
        "HANDINGER_SMTP_TIMEOUT_S": "3",
        "HANDINGER_SMTP_MAIL_TIMEOUT_S": "8",
        "HANDINGER_MAX_WAITING_TURNS_PER_WORKER": "1",
        "HANDINGER_EMAIL_MAX_PER_SENDER_PER_HOUR": "3",
    })  # fmt: skip
    small.start()
    try:
        _encryption(small, tmp_path)
        _sizes(small)
        _too_many_recipients(small)
        _full_queue(small)
        _too_many_of_one_sender(small)
        _too_many_connections(small)
        _too_slow(small)
        _, address = small.new_address()
        assert [small.send(mail(), address)[0] for _ in range(3)] == [250, 250, 451]
    finally:
        small.close()


def _encryption(small: World, folder: Path) -> None:
    with small.connect(tls=True) as client:
        assert client.ehlo()[0] == 250
        assert "starttls" not in client.esmtp_features
        assert "auth" not in client.esmtp_features
        worker_id, address = small.new_address()
        client.sendmail(ADA, [address], mail("Encrypted."))
    assert small.inputs(worker_id) == ["Encrypted."]
    with small.connect() as client:
        # What is sent with STARTTLS in one piece must not count as sent behind it (CVE-2021-33515).
        client.ehlo()
        client.send(f"STARTTLS\r\nEHLO x\r\nMAIL FROM:<{ADA}>\r\nRCPT TO:<{address}>\r\n")
        assert client.getreply()[0] == 220
        assert client.sock is not None
        client.file = None
        client.sock = _unchecked().wrap_socket(client.sock)
        client.send("NOOP\r\n")
        assert client.getreply()[0] == 250
        assert client.docmd("RCPT", f"TO:<{address}>")[0] == 503
    with small.connect(tls=True) as client:
        before = small.peer_certificate()
        (folder / "cert.pem").write_bytes(b"half of it")
        assert small.peer_certificate() == before
        certificate(folder)
        assert small.peer_certificate() != before
        assert client.noop()[0] == 250  # A conversation goes on as it began.


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _sizes(small: World) -> None:
    _, address = small.new_address()
    with small.connect() as client:
        client.ehlo()
        assert client.esmtp_features["size"] == "10000"
        assert client.mail(ADA, ["size=10001"])[0] == 552
    with small.connect() as client:
        client.helo()
        client.mail(ADA)
        client.rcpt(address)
        client.putcmd("data")
        client.getreply()
        client.send(mail("x" * 10_001) + b".\r\n")
        assert client.getreply()[0] == 552
    response = small.post(mail("x" * 10_001), address)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert "HANDINGER_EMAIL_MAX_BYTES" in response.json()["error"]


def _too_many_recipients(small: World) -> None:
    """Who gets it with the first lot, gets it; the others with the next."""
    workers = [small.new_address() for _ in range(3)]
    addresses = [address for _, address in workers]
    raw = mail("For all.")
    with small.connect() as client:
        refused = client.sendmail(ADA, addresses, raw)
        assert {to: answer[0] for to, answer in refused.items()} == {addresses[2]: 452}
    assert [small.inputs(worker_id) for worker_id, _ in workers] == [["For all."]] * 2 + [[]]
    answer = small.post(raw, *addresses)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert "HANDINGER_EMAIL_MAX_RECIPIENTS" in answer.json()["error"]


def _full_queue(small: World) -> None:
    worker_id, address = small.new_address()
    small.model.script("held", [Step(text="Done.", gate="held")])
    for text in ("[[script:held]] Run.", "Wait."):
        small.api.post(
            f"/api/workers/{worker_id}", json={"input": text}, headers={"Prefer": "respond-async"}
        )
        small.model.wait_for_requests("held", 1)
    assert small.send(mail("One too many."), address)[0] == 451
    assert small.emails(worker_id) == []
    small.model.open_gate("held")
    small.wait_until_idle(worker_id)


def _too_many_of_one_sender(small: World) -> None:
    worker_id, address = small.new_address()
    for number in range(5):
        assert small.post(mail(f"{number}"), address).json()["results"][0]["status"] == "stored"
        small.wait_until_idle(worker_id)
    assert small.statuses(worker_id) == ["turn"] * 3 + ["too_many"] * 2
    assert small.inputs(worker_id) == ["0", "1", "2"]


def _too_many_connections(small: World) -> None:
    clients = [small.connect() for _ in range(3)]
    with socket.create_connection(("127.0.0.1", small.smtp_port), timeout=10) as one_more:
        assert one_more.recv(100).startswith(b"421")
    for client in clients:
        client.quit()


def _too_slow(small: World) -> None:
    """Who says nothing, or sends a mail byte by byte, is cut off; a slow but steady sender is not.

    Nor is one whose mail takes long to be stored.
    """
    worker_id, address = small.new_address()
    with small.connect() as silent, small.connect() as slow, small.connect() as steady:
        for client in (slow, steady):
            client.ehlo()
            client.mail(ADA)
            client.rcpt(address)
            client.putcmd("data")
            assert client.getreply()[0] == 354
        begun = time.monotonic()
        steady.send(mail("Steady."))
        with small.database() as database:
            database.execute("LOCK TABLE inbound_emails IN ACCESS EXCLUSIVE MODE")
            is_whole = False
            with contextlib.suppress(OSError, smtplib.SMTPServerDisconnected):
                while (passed := time.monotonic() - begun) < 60:
                    slow.send("x")
                    if passed < 4:
                        steady.send("More.\r\n")
                    elif not is_whole:
                        steady.send(".\r\n")
                        is_whole = True
                    time.sleep(0.2)
            assert time.monotonic() - begun < 60
        assert steady.getreply()[0] == 250
        assert silent.sock is not None
        silent.sock.settimeout(60)
        assert silent.sock.recv(100) == b""
    (text,) = small.inputs(worker_id)
    assert text.startswith("Steady.\nMore.\nMore.")


def test_few_hosts_cannot_hold_all_connections():
    gate = smtp.Gate(Settings(smtp_max_connections=4, smtp_timeout_s=300))
    assert all(gate.enter(f"192.0.2.{number}") for number in range(2))
    assert gate.patience_s() == 300
    assert gate.enter("192.0.2.3")
    assert gate.patience_s() == 10
    gate.leave("192.0.2.3")
    assert gate.patience_s() == 300
    assert Settings().smtp_rate_limit == RateLimit(requests=60, window_s=60)
