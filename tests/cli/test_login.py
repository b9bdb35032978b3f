"""`handinger login`: what is kept, for whom, and what goes before it."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.sdk.faces import KEY
from tests.sdk.stub import Stub, reply, worker

LIST = "GET /api/workers"
PAGE = {"workers": [], "nextCursor": None}
NO_KEY = "error: No API key: set HANDINGER_API_KEY, or keep one with `handinger login`.\n"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stub: Stub) -> Path:
    """A person without anything in the environment."""
    monkeypatch.delenv("HANDINGER_API_KEY")
    monkeypatch.delenv("HANDINGER_BASE_URL")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def key_sent(stub: Stub) -> str:
    return stub.requests[-1].headers["authorization"].removeprefix("Bearer ")


def test_a_login_is_kept_for_its_owner_alone(cli: Cli, stub: Stub, home: Path):
    stub.on(LIST, reply(PAGE), reply(PAGE))
    # Whatever a file gets by default, this one is closed.
    old = os.umask(0)
    try:
        status, out, err = cli("login", "--base-url", f"{stub.url}/", "--api-key", KEY)
    finally:
        os.umask(old)
    assert (status, out) == (0, "")
    path = home / "handinger" / "credentials.json"
    assert str(path) in err
    assert KEY not in err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_text()) == {"baseUrl": stub.url, "keys": {stub.url: KEY}}
    assert cli("workers", "list")[0] == 0
    assert key_sent(stub) == KEY


def test_a_key_that_the_server_does_not_know_is_not_kept(cli: Cli, stub: Stub, home: Path):
    stub.on(LIST, reply({"error": "Unknown key.", "code": "unauthorized"}, 401))
    assert cli("login", "--base-url", stub.url, "--api-key", KEY)[0] == 3
    assert not (home / "handinger").exists()


def test_the_key_may_come_from_a_file_or_the_input(
    cli: Cli, stub: Stub, home: Path, monkeypatch: pytest.MonkeyPatch
):
    stub.on(LIST, *[reply(PAGE)] * 2)
    (home / "key").write_text(f"{KEY}\n")
    assert cli("login", "--base-url", stub.url, "--api-key", f"@{home / 'key'}")[0] == 0
    assert key_sent(stub) == KEY
    read_end, write_end = os.pipe()
    os.write(write_end, b"other\n")
    os.close(write_end)
    with os.fdopen(read_end) as piped:
        monkeypatch.setattr("sys.stdin", piped)
        assert cli("login", "--base-url", stub.url)[0] == 0
    assert key_sent(stub) == "other"


def test_option_goes_before_environment_before_login(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch
):
    stub.on(LIST, *[reply(PAGE)] * 4)
    cli("login", "--base-url", stub.url, "--api-key", "kept")
    cli("workers", "list")
    assert key_sent(stub) == "kept"
    monkeypatch.setenv("HANDINGER_API_KEY", "environment")
    cli("workers", "list")
    assert key_sent(stub) == "environment"
    cli("workers", "list", "--api-key", "option")
    assert key_sent(stub) == "option"


def test_a_kept_key_goes_to_its_own_server_only(cli: Cli, stub: Stub):
    stub.on(LIST, reply(PAGE))
    cli("login", "--base-url", stub.url, "--api-key", KEY)
    status, _, err = cli("workers", "list", "--base-url", "http://127.0.0.1:1")
    assert (status, err) == (3, NO_KEY)


def test_two_servers_each_have_their_key(cli: Cli, stub: Stub):
    other = Stub()
    try:
        stub.on(LIST, *[reply(PAGE)] * 2)
        other.on(LIST, *[reply(PAGE)] * 2)
        cli("login", "--base-url", stub.url, "--api-key", "one")
        cli("login", "--base-url", other.url, "--api-key", "two")
        cli("workers", "list")
        assert key_sent(other) == "two"
        cli("workers", "list", "--base-url", stub.url)
        assert key_sent(stub) == "one"
        assert cli("logout")[0] == 0
        assert cli("logout", "--base-url", other.url)[0] == 2
        stub.on("GET /api/workers/wrk_1", reply(worker()))
        assert cli("workers", "retrieve", "wrk_1")[0] == 0
    finally:
        other.close()


def test_a_file_that_others_can_read_is_told(cli: Cli, stub: Stub, home: Path):
    stub.on(LIST, *[reply(PAGE)] * 3)
    cli("login", "--base-url", stub.url, "--api-key", KEY)
    assert cli("workers", "list")[2] == ""
    path = home / "handinger" / "credentials.json"
    path.chmod(0o640)
    status, _, err = cli("workers", "list")
    assert (status, KEY in err) == (0, False)
    assert err.startswith(f"warning: other users of this machine may read the keys in {path}: ")
    # The next login closes it.
    stub.on(LIST, reply(PAGE), reply(PAGE))
    cli("login", "--base-url", stub.url, "--api-key", KEY)
    assert cli("workers", "list")[2] == ""


def test_a_folder_that_cannot_be_written_is_told(
    cli: Cli, stub: Stub, home: Path, monkeypatch: pytest.MonkeyPatch
):
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "file"))
    stub.on(LIST, reply(PAGE), reply(PAGE))
    status, _, err = cli("login", "--base-url", stub.url, "--api-key", KEY)
    path = home / "file" / "handinger" / "credentials.json"
    assert (status, err) == (2, f"error: {path} cannot be written: Not a directory.\n")
    # Nothing kept is no obstacle to a key of the environment.
    monkeypatch.setenv("HANDINGER_API_KEY", KEY)
    assert cli("workers", "list", "--base-url", stub.url)[0] == 0


def test_a_damaged_file_is_named_and_mended_by_the_next_login(cli: Cli, stub: Stub, home: Path):
    (home / "handinger").mkdir()
    (home / "handinger" / "credentials.json").write_text("{")
    status, _, err = cli("workers", "list")
    assert status == 2
    assert "credentials.json cannot be read" in err
    stub.on(LIST, *[reply(PAGE)] * 2)
    assert cli("login", "--base-url", stub.url, "--api-key", KEY)[0] == 0
    assert cli("workers", "list")[0] == 0
