"""A real server with a worker that has done something, for tests of whole commands."""

import contextlib
import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from handinger import Handinger, Worker
from handinger.cli.main import run
from tests.support.inbound_mail import hand_in
from tests.support.server import HandingerServer

ROOT = Path(__file__).parents[2]
# Named so that a list of servers does not depend on where this Python is.
ADD_NOTES = [
    *("mcp", "add", "notes", "python -m tests.support.mcp_server"),
    *("--env", f"PATH={Path(sys.executable).parent}", "--env", f"PYTHONPATH={ROOT}"),
]


_MAIL = {
    "HANDINGER_EMAIL_DOMAIN": "workers.example.org",
    "HANDINGER_EMAIL_ALLOW": "example.org",
    "HANDINGER_EMAIL_VERIFY": "false",
    "HANDINGER_INBOUND_EMAIL_SECRET": "secret-of-the-provider-" + "0" * 20,
}


@dataclass
class Scene:
    """The server, and a client of it."""

    server: HandingerServer
    client: Handinger
    worker: Worker

    def enter(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """What the person has set who types the commands."""
        for name in [name for name in os.environ if name.startswith("HANDINGER_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HANDINGER_API_KEY", self.server.key)
        monkeypatch.setenv("HANDINGER_BASE_URL", self.server.base_url)
        monkeypatch.setenv("HANDINGER_DATA_DIR", str(self.server.data_dir))
        monkeypatch.setenv("HANDINGER_EMAIL_DOMAIN", "workers.example.org")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TZ", "UTC")

    def spare(self) -> str:
        """Another worker, to be used up."""
        return self.client.workers.create(input="What is 1 + 1? Write it to result.txt.").id

    def schedule(self) -> str:
        """A schedule that never fires while the tests run."""
        schedules = self.client.workers.schedules
        when = {"type": "interval", "intervalSeconds": 86_400}
        return schedules.create(self.worker.id, input="Summarise what is new.", when=when).id

    def mail(self, worker_id: str) -> str:
        """A mail that came to a worker from a machine, so that it starts no turn."""
        raw = b"From: ada@example.org\r\nSubject: Away\r\nAuto-Submitted: auto-replied\r\n\r\nBye."
        hand_in(
            self.server.base_url,
            raw,
            [self.client.workers.retrieve_email(worker_id)],
            secret=_MAIL["HANDINGER_INBOUND_EMAIL_SECRET"],
            sender="ada@example.org",
        ).raise_for_status()
        return self.client.workers.emails.list(worker_id).emails[0].id


@contextlib.contextmanager
def opened(folder: Path) -> Generator[Scene]:
    """A scene for as long as the context lasts."""
    server = HandingerServer(folder / "data", environment=_MAIL)
    try:
        server.start()
        with Handinger(api_key=server.key, base_url=server.base_url) as client:
            worker = client.workers.create(input="What is 6 * 7? Write it to six.txt.")
            yield Scene(server, client, worker)
    finally:
        server.close()


def typed(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, *, text: str = "") -> int:
    """Run a command whose standard input is a pipe with this text."""
    read_end, write_end = os.pipe()
    os.write(write_end, text.encode())
    os.close(write_end)
    with os.fdopen(read_end) as piped:
        monkeypatch.setattr("sys.stdin", piped)
        return run(arguments)
