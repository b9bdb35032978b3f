"""Mail in, whichever way: attachments, the webhook, tenants, bounces, whose mail is taken."""

import re
import smtplib
import time

import pytest

from tests.email.world import ADA, MIXED, World, instructions, mail, text_of, with_files

# Attachments


def test_attachments_are_in_the_inbox(world: World):
    worker_id, address = world.new_address()
    body = with_files("Read it.", ("plan.txt", "the plan"), ("../../plan.txt", "another"))
    assert world.send(mail(body, headers=MIXED), address) == (250, "")
    worker = world.wait_until_idle(worker_id)
    (instruction,) = instructions(worker["messages"])
    assert text_of(instruction) == "Read it."
    urls = [part["url"] for part in instruction["parts"] if part["type"] == "file"]
    assert [url.rpartition("/files/")[2] for url in urls] == ["inbox/plan.txt", "inbox/plan-2.txt"]
    assert [world.api.get(url).text for url in urls] == ["the plan", "another"]
    assert worker["files"] == []  # what came in is not published


def test_a_later_attachment_takes_no_place_of_an_earlier_one(world: World):
    worker_id, address = world.new_address()
    for content in ("first", "second"):
        world.send(mail(with_files("Read.", ("a.txt", content)), headers=MIXED), address)
        world.wait_until_idle(worker_id)
    for name, content in (("a.txt", "first"), ("a-2.txt", "second")):
        assert world.api.get(f"/api/workers/{worker_id}/files/inbox/{name}").text == content


def test_the_subject_is_the_instruction_of_a_mail_without_text(world: World):
    worker_id, address = world.new_address()
    world.send(mail("", headers={"Subject": "Add 1 and 1"}), address)
    world.send(mail("", headers={}), address)
    assert world.inputs(worker_id) == ["Add 1 and 1", "(The mail has no text.)"]


def test_a_text_that_is_too_long_for_an_instruction_is_a_file_as_well(world: World):
    worker_id, address = world.new_address()
    text = "word " * 30_000
    assert world.send(mail(text), address) == (250, "")
    world.wait_until_idle(worker_id)
    (instruction,) = world.inputs(worker_id)
    assert len(instruction) <= 100_000
    assert instruction.endswith("message.txt in the inbox.]")
    found = world.api.get(f"/api/workers/{worker_id}/files/inbox/message.txt")
    assert found.text == text.strip()


def test_too_many_files_are_refused_and_not_forgotten(world: World):
    _, address = world.new_address()
    body = with_files("Many.", *((f"{n}.txt", "x") for n in range(150)))
    code, text = world.send(mail(body, headers=MIXED), address)
    assert (code, text[:5]) == (552, "5.3.4")


# The webhook


def test_a_signed_request_hands_a_mail_in(world: World):
    worker_id, address = world.new_address()
    raw = mail("By HTTP.").replace(b"\r\n", b"\n")  # as some providers send it
    answer = world.post(raw, address)
    assert answer.status_code == 200
    assert answer.json() == {
        "results": [{"recipient": address, "status": "stored", "reason": None}]
    }
    assert world.post(raw, address).status_code == 200
    assert world.inputs(worker_id) == ["By HTTP."]


def test_each_recipient_has_a_result(world: World):
    worker_id, address = world.new_address()
    nobody = "worker+nobody@workers.example.org"
    results = world.post(mail("For one."), nobody, address).json()["results"]
    assert {result["recipient"]: result["status"] for result in results} == {
        nobody: "refused",
        address: "stored",
    }
    assert world.inputs(worker_id) == ["For one."]


def test_the_proof_is_asked_for_there_as_well(world: World):
    worker_id, address = world.new_address()
    for ip in ("198.51.100.1", None, "nonsense"):
        (result,) = world.post(mail(), address, ip=ip).json()["results"]
        assert result["status"] == "refused"
        assert "550 5.7.26" in result["reason"]
    assert world.emails(worker_id) == []


def test_a_mail_that_cannot_be_checked_now_may_come_again_by_http(world: World):
    _, address = world.new_address()
    world.names.broken.add("down.trusted.example")
    sender = "ada@down.trusted.example"
    answer = world.post(mail(sender=sender), address, sender=sender)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "Retry-After" in answer.headers


@pytest.mark.parametrize(
    "forged",
    [
        {"secret": "another"},
        {"age_s": 400},
        {"age_s": -400},
        {"signature": ""},
        {"signature": "t=1,v1=00"},
        {"signature": "v1=" + "0" * 64},
        {"signature": "t=99999999999999999999,v1=" + "0" * 64},
    ],
)
def test_an_unsigned_or_old_request_is_refused(world: World, forged: dict[str, object]):
    worker_id, address = world.new_address()
    answer = world.post(mail(), address, **forged)  # pyright: ignore[reportArgumentType]
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert world.emails(worker_id) == []


def test_the_signature_covers_the_envelope_and_the_mail(world: World):
    worker_id, address = world.new_address()
    other_id, other = world.new_address()
    raw = mail()
    request = world.post(raw, address).request
    moved = str(request.url).replace(address.replace("+", "%2B").replace("@", "%40"), other)
    assert moved != str(request.url)
    answer = world.api.post(moved, content=raw, headers=dict(request.headers))
    assert answer.status_code == 401
    assert world.emails(other_id) == []
    changed = raw.replace(b"Hello.", b"Pay it")
    answer = world.api.post(str(request.url), content=changed, headers=dict(request.headers))
    assert answer.status_code == 401
    assert world.api.post(str(request.url), content=raw, headers=dict(request.headers)).is_success
    assert len(world.emails(worker_id, "in")) == 1  # The same once more changes nothing.


# Tenants


def test_one_mail_is_for_one_organization_at_a_time(world: World):
    """Whose mail is taken differs from one to the other, and so may the answer to a mail."""
    worker_id, address = world.new_address()
    with world.other_organization() as other:
        other.put("/api/email-settings", json={"allow": ["trusted.example"]})
        other_id = other.post("/api/workers", json={"input": "Be ready."}).json()["id"]
        other_address = other.get(f"/api/workers/{other_id}/email").json()
        raw = mail("For both.")
        with world.connect() as client:
            refused = client.sendmail(ADA, [address, other_address], raw)
            assert refused[other_address][0] == 452
            assert client.sendmail(ADA, [other_address], raw) == {}
        assert world.inputs(worker_id) == ["For both."]
        (email,) = world.emails(worker_id, "in")
        for owner in (worker_id, other_id):
            foreign = other.get(f"/api/workers/{owner}/emails/{email['id']}")
            assert foreign.status_code == 404
        turns = other.get(f"/api/workers/{other_id}/turns").json()["turns"]
        assert [turn["input"] for turn in turns if turn["source"] == "email"] == ["For both."]
        by_http = world.post(mail("By HTTP."), address, other_address).json()["results"]
        assert [result["status"] for result in by_http] == ["stored", "stored"]


def test_each_organization_says_whose_mail_it_takes(world: World):
    assert world.api.get("/api/email-settings").json() == {
        "allow": ["trusted.example", "*.trusted.example"],
        "isDefault": True,
    }
    with world.other_organization() as other:
        other_id = other.post("/api/workers", json={"input": "Be ready."}).json()["id"]
        address = other.get(f"/api/workers/{other_id}/email").json()
        answer = other.put("/api/email-settings", json={"allow": ["Bob@Elsewhere.example"]})
        assert answer.json() == {"allow": ["bob@elsewhere.example"], "isDefault": False}
        assert world.send(mail(), address)[0] == 550
        assert other.put("/api/email-settings", json={"allow": []}).json()["allow"] == []
        assert world.send(mail(), address)[0] == 550
        assert other.put("/api/email-settings", json={"allow": None}).json()["isDefault"] is True
        assert world.send(mail(), address)[0] == 250


@pytest.mark.parametrize(
    "body",
    [{}, {"allow": "x"}, {"allow": ["not an address"]}, {"allow": ["a@b@c"]}, {"allow": [1]}],
)
def test_a_list_that_is_none_is_refused(world: World, body: dict[str, object]):
    answer = world.api.put("/api/email-settings", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert world.api.get("/api/email-settings").json()["isDefault"] is True


# Kept and shown, without a turn


def test_what_machines_send_is_kept_and_starts_no_turn(world: World):
    worker_id, address = world.new_address()
    for headers in (
        {"Auto-Submitted": "auto-replied"},
        {"Precedence": "list"},
        {"Content-Type": "multipart/report; report-type=delivery-status; boundary=b"},
    ):
        assert world.send(mail(headers=headers), address)[0] == 250
    assert world.statuses(worker_id) == ["auto_reply", "list", "bounce"]
    assert world.turns(worker_id) == []
    assert all(email["verdict"]["verified"] for email in world.emails(worker_id))


def test_a_null_sender_may_not_write_to_a_worker(world: World):
    _, address = world.new_address()
    assert world.send(mail(), address, sender="")[0] == 550


def test_a_mail_in_a_loop_is_refused(world: World):
    _, address = world.new_address()
    raw = b"Received: from a by b; today\r\n" * 101 + mail()
    assert world.send(raw, address)[0] == 554


def test_mails_are_listed_in_pages(world: World):
    worker_id, address = world.new_address()
    for number in range(3):
        world.send(
            mail(headers={"Auto-Submitted": "auto-replied", "Subject": str(number)}), address
        )
    first = world.api.get(f"/api/workers/{worker_id}/emails?limit=2").json()
    assert [email["subject"] for email in first["emails"]] == ["2", "1"]
    rest = world.api.get(
        f"/api/workers/{worker_id}/emails", params={"limit": 2, "cursor": first["nextCursor"]}
    ).json()
    assert [email["subject"] for email in rest["emails"]] == ["0"]
    assert rest["nextCursor"] is None


def test_a_deleted_worker_takes_no_mail(world: World):
    worker_id, address = world.new_address()
    world.send(mail(), address)
    world.wait_until_idle(worker_id)
    assert world.api.delete(f"/api/workers/{worker_id}").json() == {"deleted": True}
    assert world.send(mail(), address)[0] == 550
    assert world.api.get(f"/api/workers/{worker_id}/email").status_code == 404


def test_a_worker_that_goes_while_its_mail_comes_is_no_failure(world: World):
    worker_id, address = world.new_address()
    with world.connect() as client:
        client.ehlo()
        client.mail(ADA)
        client.rcpt(address)
        world.api.delete(f"/api/workers/{worker_id}")
        assert client.data(mail())[0] == 550


def test_mails_are_counted_by_what_became_of_them(world: World):
    before = _counts(world)
    worker_id, address = world.new_address()
    raw = mail("Count.")
    for _ in range(2):
        world.send(raw, address)
    world.send(mail(headers={"Precedence": "bulk"}), address)
    world.send(mail(), address, sender="eve@evil.example")
    world.send(mail(sender="eve@evil.example"), address)
    world.names.broken.add("gone.trusted.example")
    sender = "ada@gone.trusted.example"
    world.send(mail(sender=sender), address, sender=sender)
    world.wait_for_mails(worker_id, ["delivered"])
    grown = {name: count - before.get(name, 0) for name, count in _counts(world).items()}
    received = {name: grown[f"received {name}"] for name in ("turn", "copy", "list", "deferred")}
    assert received == {"turn": 1, "copy": 1, "list": 1, "deferred": 1}
    assert grown["received refused"] == 2
    assert grown["sent delivered"] >= 1


def _counts(world: World) -> dict[str, float]:
    counts = re.findall(
        r'^handinger_emails_(\w+)_total\{outcome="(\w+)"\} (\S+)$',
        world.api.get("/metrics").text,
        re.MULTILINE,
    )
    return {f"{direction} {outcome}": float(count) for direction, outcome, count in counts}


@pytest.mark.slow
def test_two_hundred_mails_at_the_same_time(world: World):
    from concurrent.futures import ThreadPoolExecutor

    workers = [world.new_address() for _ in range(20)]
    jobs = [(worker_id, address, n) for n in range(10) for worker_id, address in workers]

    def send(job: tuple[str, str, int]) -> None:
        _, address, number = job
        deadline = time.monotonic() + 120
        while True:  # A sender that is told to come again does.
            try:
                code, _ = world.send(mail(f"{number}"), address)
            except (smtplib.SMTPException, ConnectionError):
                code = 421
            if code == 250:
                return
            assert code in (421, 451)
            assert time.monotonic() < deadline
            time.sleep(0.1)

    with ThreadPoolExecutor(40) as threads:
        list(threads.map(send, jobs))
    for worker_id, _ in workers:
        world.wait_until_idle(worker_id)
        assert sorted(world.inputs(worker_id), key=int) == [str(n) for n in range(10)]
