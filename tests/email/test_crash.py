"""A mail that was answered with 250 is never lost, whatever happens next."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.email.sink import Sink
from tests.email.world import World, ask, mail
from tests.support.dns_server import DnsServer
from tests.support.model_server import ModelServer, Step


@pytest.fixture(scope="module")
def mortal(
    model: ModelServer, names: DnsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A server that runs one turn at a time, and is to be killed."""
    folder: Path = tmp_path_factory.mktemp("mortal")
    with Sink() as sink:
        world = World(folder / "data", model, names, {
            "HANDINGER_MAX_CONCURRENT_TURNS": "1",
            "HANDINGER_SMTP_URL": f"smtp://127.0.0.1:{sink.port}",
        })  # fmt: skip
        world.sink = sink
        world.start()
        yield world
        world.close()


def test_a_mail_of_before_a_kill_has_its_turn(mortal: World):
    first, (second, address) = mortal.new_worker(), mortal.new_address()
    mortal.model.script("long", [Step(text="Done.", gate="long")])
    mortal.api.post(
        f"/api/workers/{first}",
        json={"input": "[[script:long]] Hold everybody up."},
        headers={"Prefer": "respond-async"},
    )
    mortal.model.wait_for_requests("long", 1, timeout_s=30)
    raw = mail("Do it.")
    assert mortal.send(raw, address) == (250, "")
    mortal.server.kill()
    mortal.model.open_gate("long")
    mortal.restart()
    mortal.wait_until_idle(second)
    (turn,) = mortal.turns(second)
    assert (turn["input"], turn["status"], turn["error"]) == ("Do it.", "completed", None)
    # Its sender may not have seen our answer, and sends it again.
    assert mortal.send(raw, address) == (250, "")
    assert len(mortal.turns(second)) == 1


def test_a_server_that_shuts_down_sends_mail_away_for_now(mortal: World):
    client = mortal.connect()
    client.ehlo()
    mortal.server.terminate()
    assert client.getreply()[0] == 421
    client.close()
    mortal.restart()


def test_an_answer_outlives_a_kill(mortal: World):
    sink = mortal.sink
    assert sink is not None
    sink.stop()
    worker_id, _, sender = ask(mortal, "Go.")
    mortal.wait_for_mails(worker_id, ["pending"], error="does not answer")
    mortal.server.kill()
    sink.start()
    mortal.restart()
    sink.wait_for(sender)
    mortal.wait_for_mails(worker_id, ["delivered"])
    assert len(sink.to(sender)) == 1


def test_a_kill_while_the_other_side_takes_an_answer_may_repeat_the_same_mail(mortal: World):
    sink = mortal.sink
    assert sink is not None
    sink.on_data = mortal.server.kill
    worker_id, _, sender = ask(mortal, "Go.")
    sink.wait_for(sender)
    sink.on_data = lambda: None
    mortal.restart()
    mortal.wait_for_mails(worker_id, ["delivered"])
    assert len({message["Message-ID"] for message in sink.to(sender)}) == 1
