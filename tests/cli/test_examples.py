"""Help that teaches: the example of each command runs as it stands, and near misses are named."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from cyclopts import App

from handinger.cli.examples import PREFIX
from handinger.cli.main import app as command_line
from handinger.cli.main import run
from tests.cli.conftest import Cli
from tests.cli.scene import ADD_NOTES, Scene, opened, typed
from tests.support.server import START_TIMEOUT_S, free_port


def all_commands(app: App = command_line, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, by the words that call it."""
    for name in app:
        if not name.startswith("-"):
            yield from list(all_commands(app[name], (*above, name))) or [(*above, name)]


def example_of(cli: Cli, command: tuple[str, ...]) -> str:
    """What its help shows."""
    status, out, _ = cli(*command, "--help")
    assert status == 0
    # A long example goes on in the next line.
    _, found, rest = out.partition(PREFIX)
    assert found, f"{command} has no example"
    example = " ".join(rest.split("\n\n")[0].split())
    assert f"handinger {' '.join(command)}" in example
    return example


ALL = list(all_commands())
# What must be so before the example, and what takes back what it did.
BEFORE = {
    "email disallow": ["email", "allow", "example.org"],
    "logout": ["login"],
    "mcp check": ADD_NOTES,
    "mcp remove": ADD_NOTES,
}
AFTER = {
    "credits grant": ["credits", "unlimited"],
    "budgets set": ["budgets", "reset", "low"],
    "budgets cap": ["budgets", "cap", "none"],
    "email allow": ["email", "reset"],
    "email disallow": ["email", "reset"],
    "mcp add": ["mcp", "remove", "notes"],
    "mcp check": ["mcp", "remove", "notes"],
}
# Without them, what is missing is told first.
REQUIRED: dict[tuple[str, ...], list[str]] = {
    ("workers", "create"): ["--input", "a"],
    ("keys", "create"): ["--name", "a"],
    ("orgs", "create"): ["--name", "a"],
    ("credits", "grant"): ["1"],
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with opened(tmp_path_factory.mktemp("examples")) as scene:
        yield scene


@pytest.fixture
def environment(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene.enter(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "command",
    [
        # Loading the agent takes seconds; the command itself is in the default run elsewhere.
        pytest.param(each, marks=[pytest.mark.slow] * (each == ("mcp", "check")))
        for each in ALL
        if each != ("serve",)
    ],
    ids=" ".join,
)
def test_the_example_in_the_help_of_each_command_runs(
    command: tuple[str, ...],
    cli: Cli,
    commands: Path,
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
):
    example = example_of(cli, command)
    words = {"TOKEN": "secret"}
    if "$WORKER" in example:
        words["WORKER"] = scene.spare()
    if "$SCHEDULE" in example:
        words |= {"WORKER": scene.worker.id, "SCHEDULE": scene.schedule()}
    if "$EMAIL" in example:
        words["EMAIL"] = scene.mail(words["WORKER"])
    if "$KEY_ID" in example:
        cli("keys", "create", "--name", "spare", "--quiet")
        words["KEY_ID"] = cli("keys", "list", "--transform", "#.id", "-r")[1].split('"')[-2]
    name = " ".join(command)
    if name in BEFORE:
        assert typed(BEFORE[name], monkeypatch, text=scene.server.key) == 0
    for word, value in words.items():
        monkeypatch.setenv(word, value)
    status, err = _run_example(example, cli, commands)
    if name in AFTER:
        assert run(AFTER[name]) == 0
    # What a host cannot do is told by the status.
    assert status in ((0, 1) if name == "doctor" else (0,)), err
    assert "error:" not in err


def _run_example(example: str, cli: Cli, commands: Path) -> tuple[int, str]:
    """By a shell if it needs one, else here, which is faster."""
    if "|" not in example and "$(" not in example:
        program, *words = shlex.split(example)
        assert program == "handinger"
        status, _, err = cli(*map(os.path.expandvars, words))
        return status, err
    done = subprocess.run(
        ["bash", "-euc", example],
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
def test_the_example_of_serve_runs(cli: Cli, tmp_path: Path):
    port = free_port()
    example = example_of(cli, ("serve",)).replace("8000", str(port))
    log = tmp_path / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            ["bash", "-euc", f"exec {example}"],
            env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/"},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_healthy(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(30)
    assert status == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def _is_healthy(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=1).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_a_near_miss_is_told_the_command(command: tuple[str, ...], cli: Cli):
    *group, name = command
    status, out, err = cli(*group, name[:-1] + ("d" if name[-1] != "d" else "x"))
    assert (status, out) == (2, "")
    assert re.search(rf'Did you mean "{re.escape(name)}"\?', err)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_a_near_miss_is_told_the_option(command: tuple[str, ...], cli: Cli):
    _, out, _ = cli(*command, "--help")
    options = set(re.findall(r"(--[a-z][a-z-]+)", out.partition("Global")[0]))
    for option in sorted(options - {"--help", "--version"})[:1]:
        status, out, err = cli(*command, *REQUIRED.get(command, []), option[:-1] + "qq")
        assert (status, out) == (2, ""), err
        assert "Did you mean --" in err


def test_a_misspelt_option_that_is_required_is_named_too(cli: Cli):
    status, _, err = cli("workers", "create", "--inptu", "a")
    assert status == 2
    assert "Did you mean --input instead of --inptu?" in err
