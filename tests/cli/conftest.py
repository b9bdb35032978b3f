from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handinger.cli.main import run
from handinger.sdk import exchange
from tests.sdk.faces import KEY
from tests.sdk.stub import Stub

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    server = Stub()
    # What the person who runs the tests has kept is none of their business.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.setattr(exchange, "_FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(exchange, "_LONGEST_DELAY_S", 0.01)
    monkeypatch.setenv("HANDINGER_API_KEY", KEY)
    monkeypatch.setenv("HANDINGER_BASE_URL", server.url)
    yield server
    server.close()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command here; gives its exit status, its output and what it said beside that."""

    def command(*arguments: str) -> tuple[int, str, str]:
        status = run(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command
