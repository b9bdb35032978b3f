"""Two servers that take mail and deliver it for the same workers: each mail once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.email.sink import Sink
from tests.email.world import World, mail, unique
from tests.support.dns_server import DnsServer
from tests.support.model_server import ModelServer
from tests.support.postgres import joined

pytestmark = pytest.mark.slow


class Doorway:
    """A mail server's port that lets nobody in before it is opened; then it leads to a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.knocked, self.opened = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        self.knocked.set()
        self.opened.wait()
        with client, socket.create_connection(("127.0.0.1", self._sink.port)) as inside:
            back = threading.Thread(target=_copy, args=(inside, client), daemon=True)
            back.start()
            _copy(client, inside)
            back.join(30)

    def close(self) -> None:
        self.opened.set()
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Pair:
    """Servers A and B on one database. A's mail goes out through a doorway."""

    def __init__(self, folder: Path, model: ModelServer, names: DnsServer, sink: Sink) -> None:
        self._postgres = joined(folder / "postgres")
        (folder / "blobs").mkdir()
        self.doorway = Doorway(sink)
        common = {
            "HANDINGER_DATABASE_URL": self._postgres.url,
            "HANDINGER_STORAGE_URL": (folder / "blobs").as_uri(),
        }
        self.a, self.b = (
            World(folder / name, model, names, {**common, "HANDINGER_SMTP_URL": url})
            for name, url in (
                ("a", f"smtp://127.0.0.1:{self.doorway.port}"),
                ("b", f"smtp://127.0.0.1:{sink.port}"),
            )
        )
        self.b.server.key = self.a.server.key
        del self.b.server.environment["HANDINGER_BOOTSTRAP_API_KEY"]
        self.a.start()
        self.b.start()

    def close(self) -> None:
        self.a.close()
        self.b.close()
        self.doorway.close()
        self._postgres.leave()


@pytest.fixture(scope="module")
def pair(
    model: ModelServer, names: DnsServer, sink: Sink, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"), model, names, sink)
    yield pair
    pair.close()


def test_one_outbox_of_two_servers_is_delivered_once(pair: Pair, sink: Sink):
    pair.doorway.opened.set()
    tasks = [(unique(f"ada{number}"), pair.a.new_address()) for number in range(16)]

    def send(number: int) -> tuple[int, str]:
        sender, (_, address) = tasks[number]
        raw = mail("Go.", sender=sender)
        # A copy at each server, at the same time.
        with ThreadPoolExecutor(2) as both:
            answers = both.map(
                lambda world: world.send(raw, address, sender=sender), (pair.a, pair.b)
            )
            return max(answers)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(send, range(len(tasks)))) == {(250, "")}
    for sender, (worker_id, _) in tasks:
        sink.wait_for(sender)
        (out,) = pair.a.wait_for_mails(worker_id, ["delivered"])
        assert out["attempts"] == 1
        assert pair.b.inputs(worker_id) == ["Go."]
    assert [len(sink.to(sender)) for sender, _ in tasks] == [1] * len(tasks)


@contextlib.contextmanager
def paused(world: World) -> Generator[None]:
    """The server does nothing within this block, and does not know it."""
    os.kill(world.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(world.server.pid, signal.SIGCONT)


def test_a_server_that_was_held_up_sends_nothing_that_another_has_sent(pair: Pair, sink: Sink):
    pair.doorway.opened.clear()
    pair.doorway.knocked.clear()
    sender = unique("ada")
    worker_id, address = pair.a.new_address()
    with paused(pair.b):
        assert pair.a.send(mail("Go.", sender=sender), address, sender=sender) == (250, "")
        assert pair.doorway.knocked.wait(30)
    with paused(pair.a):
        # It is taken for dead, and B does its work.
        sink.wait_for(sender, patience_s=60)
        (out,) = pair.b.wait_for_mails(worker_id, ["delivered"])
        assert out["attempts"] == 2
    pair.doorway.opened.set()
    # Behind what it was about to send A sends this.
    later = unique("bob")
    with paused(pair.b):
        assert pair.a.send(mail("Go.", sender=later), address, sender=later) == (250, "")
        sink.wait_for(later)
    assert "another server's by now" in pair.a.server.log_path.read_text()
    assert len(sink.to(sender)) == 1
