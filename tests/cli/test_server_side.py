"""The commands on the server's own modules, on a real database."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from handinger.settings import Settings
from tests.cli.conftest import Cli
from tests.support.postgres import joined


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory whose PostgreSQL runs meanwhile, so that no command has to start it."""
    folder = tmp_path_factory.mktemp("data")
    postgres = joined(folder)
    yield folder
    postgres.leave()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HANDINGER_")]:
        monkeypatch.delenv(name)


def test_keys_and_organizations_from_making_to_revoking(
    cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HANDINGER_DATA_DIR", str(data_dir))

    # Without --org, the first organization is meant, and made.
    status, out, err = cli("keys", "create", "--name", "first")
    assert status == 0
    assert re.fullmatch(r"hdg_live_[\w-]{32,}\n", out)
    assert re.match(r"key_\w+ of default\. Keep the key", err)

    status, out, err = cli("orgs", "create", "--name", "acme", "--quiet")
    acme = out.strip()
    assert (status, err) == (0, "")
    assert acme.startswith("org_")
    organizations = json.loads(cli("orgs", "list")[1])
    assert [organization["name"] for organization in organizations] == ["default", "acme"]

    # By name or by id.
    status, secret, err = cli("keys", "create", "--name", "ci", "--org", "acme", "--quiet")
    assert (status, err) == (0, "")
    (key,) = json.loads(cli("keys", "list", "--org", acme)[1])
    assert (key["name"], key["revokedAt"]) == ("ci", None)
    assert secret.strip().endswith(key["hint"])

    # A key belongs to one organization.
    status, _, err = cli("keys", "revoke", key["id"])
    assert status == 2
    assert err.startswith(f"error: There is no key {key['id']}")
    assert cli("keys", "revoke", key["id"], "--org", "acme")[0] == 0
    status, out, _ = cli("keys", "list", "--org", "acme", "--format", "jsonl")
    assert json.loads(out)["revokedAt"].endswith("Z")
    assert key["id"] in cli("keys", "list", "--org", "acme", "--format", "pretty")[1]

    cli("orgs", "create", "--name", "acme")
    for name, expected in (("acme", "Several organizations are"), ("none", "No organization is")):
        status, _, err = cli("keys", "list", "--org", name)
        assert status == 2
        assert err.startswith(f"error: {expected} called {name};")
    assert acme in cli("orgs", "list", "--format", "pretty")[1]


def test_config_shows_settings_without_secrets(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HANDINGER_BOOTSTRAP_API_KEY", "hdg_live_secret")
    monkeypatch.setenv("HANDINGER_PORT", "9000")
    status, out, _ = cli("config")
    assert status == 0
    assert json.loads(out)["HANDINGER_PORT"] == "9000"
    assert "secret" not in out
    assert re.search(r"HANDINGER_PORT +9000", cli("config", "--format", "pretty")[1])


def test_a_wrong_setting_is_one_line_that_names_it(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HANDINGER_PORT", "many")
    status, out, err = cli("config")
    assert (status, out) == (2, "")
    assert err.startswith("error: HANDINGER_PORT")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], ("127.0.0.1", 8000)), (["--host", "0.0.0.0", "--port", "81"], ("0.0.0.0", 81))],
)
def test_serve_runs_the_server_with_its_settings(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: tuple[str, int],
):
    served: list[tuple[str, int]] = []

    class Server(ModuleType):
        @staticmethod
        def serve(settings: Settings, postgres: object, told_to_stop: list[int]) -> None:
            assert postgres is None
            served.append((settings.host, settings.port))

    monkeypatch.setenv("HANDINGER_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setitem(sys.modules, "handinger.server", Server("handinger.server"))
    assert cli("serve", *arguments)[0] == 0
    assert served == [expected]


@pytest.mark.parametrize("command", [["serve"], ["config"], ["keys", "list"], ["orgs", "list"]])
def test_without_the_server_installed_it_is_said_how_to_get_it(command: list[str]):
    script = (
        "import sys\n"
        "for name in ('pydantic_settings', 'psycopg', 'fastapi', 'uvicorn', 'sqlalchemy'):\n"
        "    sys.modules[name] = None\n"
        "from handinger.cli.main import run\n"
        f"sys.exit(run({command}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: This command needs the server (")
    assert done.stderr.endswith("pip install 'handinger[server]'\n")


def test_whose_mail_is_taken(cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HANDINGER_DATA_DIR", str(data_dir))
    monkeypatch.setenv("HANDINGER_EMAIL_ALLOW", "server.example")

    def entries(*more: str) -> list[str]:
        return [row["allow"] for row in json.loads(cli("email", "list", *more)[1])]

    acme = cli("orgs", "create", "--name", "mailers", "--quiet")[1].strip()
    assert entries("--org", acme) == ["server.example"]
    status, _, err = cli("email", "allow", "Ada@Example.com", "*.example.org", "--org", acme)
    assert status == 0
    assert "server.example, ada@example.com, *.example.org" in err
    assert cli("email", "disallow", "server.example", "--org", acme)[0] == 0
    assert entries("--org", acme) == ["ada@example.com", "*.example.org"]
    status, _, err = cli("email", "disallow", "bob@example.com", "--org", acme)
    assert status != 0
    assert "bob@example.com is not in the list" in err
    status, _, err = cli("email", "allow", "no address at all", "--org", acme)
    assert status != 0
    assert "not a domain" in err
    assert cli("email", "reset", "--org", acme)[0] == 0
    assert entries("--org", acme) == entries() == ["server.example"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("credits grant 1.5", "1.5 is no whole number of credits"),
        ("credits grant nan", "nan is no whole number of credits"),
        ("credits grant 9223372036854775808", "At most 1,000,000,000,000 credits"),
        ("credits grant -1000000000001", "At most 1,000,000,000,000 credits"),
        ("credits grant 0", "Zero credits change nothing"),
        ("budgets cap nan", "nan is out of range"),
        ("budgets cap inf", "inf is out of range"),
        ("budgets cap -1", "-1 is out of range"),
        ("budgets cap much", "much is no number, and not none"),
        ("budgets set low --usd nan", "nan is out of range"),
        ("budgets set low --model-calls 2.5", "2.5 is no whole number, and not none"),
        ("budgets set low --model-calls 0", "The cap modelCalls is not valid"),
        ("budgets set low --seconds 0", "The cap seconds is not valid"),
        ("budgets set low", "Name at least one cap"),
    ],
)
def test_an_amount_that_is_none_is_refused_and_changes_nothing(
    cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
):
    monkeypatch.setenv("HANDINGER_DATA_DIR", str(data_dir))
    status, out, err = cli(*command.split())
    assert status != 0
    assert said in err
    assert out == ""
    assert json.loads(cli("credits", "show")[1])["balanceCredits"] is None
    levels = [json.loads(line) for line in cli("budgets", "show", "--format", "jsonl")[1].split()]
    assert (levels[0]["modelCalls"], levels[0]["usd"]) == (4, 0.05)
    assert levels[-1] == {"level": "month", "usd": None}
