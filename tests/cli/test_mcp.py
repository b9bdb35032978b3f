"""`handinger mcp`, on a real database and with a real MCP server."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from handinger.storage.embedded import EmbeddedPostgres
from tests.cli.conftest import Cli

ROOT = Path(__file__).parents[2]
STDIO = f"{shlex.quote(sys.executable)} -m tests.support.mcp_server"
TOKEN = "s3cret-token-of-the-operator"


@pytest.fixture(autouse=True)
def data_dir(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("HANDINGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HANDINGER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HANDINGER_DATABASE_URL", postgres.url)
    return tmp_path


Check = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def check(commands: Path) -> Check:
    """Run `mcp check`, which loads the agent, where that is loaded already."""

    def run(name: str) -> tuple[int, str, str]:
        command = [str(commands / "handinger"), "mcp", "check", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_server_from_adding_to_removing(
    cli: Cli,
    check: Check,
    postgres: EmbeddedPostgres,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    secret_file = data_dir / "token"
    secret_file.write_text(TOKEN + "\n")
    status, out, err = cli(
        "mcp", "add", "crm", f"https://user:{TOKEN}@mcp.example.com/mcp?key={TOKEN}",
        "--header", f"Authorization=Bearer {TOKEN}", "--header", f"X-Key=@{secret_file}",
        "--may-write", "update", "--may-write", "insert",
    )  # fmt: skip
    assert (status, out) == (0, "")
    assert TOKEN not in err
    (listed,) = json.loads(cli("mcp", "list")[1])
    assert listed["target"] == "https://mcp.example.com/mcp?..."
    assert listed["mayWrite"] == ["update", "insert"]
    assert TOKEN not in cli("mcp", "list", "--format", "pretty")[1]

    # Nothing of it can be read in the database, or by who has another key.
    with psycopg.connect(postgres.url) as connection:
        row = connection.execute("SELECT mcp_servers::text, sealed FROM mcp_servers").fetchone()
    assert row is not None
    assert TOKEN not in row[0]
    assert TOKEN.encode() not in row[1]
    assert (data_dir / "secret.key").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("HANDINGER_SECRET_KEY", "x" * 32)
    status, _, err = check("crm")
    assert (status, "HANDINGER_SECRET_KEY" in err) == (2, True)

    assert cli("mcp", "remove", "crm")[0] == 0
    assert json.loads(cli("mcp", "list")[1]) == []
    status, _, err = cli("mcp", "remove", "crm")
    assert (status, "no MCP server 'crm'" in err) == (2, True)


def test_check_connects_and_lists_the_tools(cli: Cli, check: Check):
    assert cli("mcp", "add", "local", STDIO, "--env", f"PYTHONPATH={ROOT}")[0] == 0
    status, out, _ = check("local")
    tools = {tool["name"]: tool for tool in json.loads(out)}
    assert status == 0
    assert tools["local_echo"]["mayWrite"] is True  # It says that it only reads.
    assert tools["local_note"]["mayWrite"] is False

    status, _, err = cli("mcp", "add", "local", STDIO)
    assert (status, "already" in err) == (2, True)
    assert cli("mcp", "add", "dead", "http://127.0.0.1:1/mcp", "--header", f"K={TOKEN}")[0] == 0
    status, _, err = check("dead")
    assert (status, "cannot be reached" in err, TOKEN in err) == (5, True, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["Bad", "http://x/"], "lower-case letters"),
        (["a_b", "http://x/"], "lower-case letters"),
        (["web", "http://x/"], "own tools"),
        (["a", "ftp://x/"], "http://"),
        (["a", "http:///x"], "not valid"),
        (["a", "http://x:99999/"], "not valid"),
        (["a", "http://x/ y"], "not valid"),
        (["a", ""], "the command that runs one"),
        (["a", "'unclosed"], "cannot be read"),
        (["a", "http://x/", "--header", "no value"], "NAME=VALUE"),
        (["a", "http://x/", "--header", "A=b\nC: d"], "cannot be sent"),
        (["a", "http://x/", "--header", "A B=c"], "cannot be sent"),
        (["a", "http://x/", "--header", "A=@/no/such/file"], "cannot be read"),
        (["a", "http://x/", "--env", "A=b"], "--header"),
        (["a", "run it", "--header", "A=b"], "--env"),
        (["a", "run it", "--env", "A-B=c"], "environment variable"),
    ],
)
def test_what_cannot_be_meant_is_refused(cli: Cli, arguments: list[str], says: str):
    status, _, err = cli("mcp", "add", *arguments)
    assert (status, says in err) == (2, True), err
