"""Help, global options, and how failures end."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import handinger
from tests.cli.conftest import Cli
from tests.sdk.faces import KEY
from tests.sdk.stub import Stub, hang_up, raw, reply, worker

ONE = "GET /api/workers/wrk_1"
NO_KEY = "error: No API key: set HANDINGER_API_KEY, or keep one with `handinger login`.\n"


def test_help_names_every_command(cli: Cli):
    status, out, _ = cli("--help")
    assert status == 0
    for name in ("workers", "serve", "keys", "orgs", "config", "--api-key", "--base-url"):
        assert name in out


@pytest.mark.parametrize(
    ("group", "commands"),
    [
        (
            "workers",
            "create continue retrieve list stream-updates retrieve-file cancel delete",
        ),
        ("keys", "create list revoke"),
        ("orgs", "create list"),
    ],
)
def test_help_of_a_group_names_its_commands(cli: Cli, group: str, commands: str):
    status, out, _ = cli(group, "--help")
    assert status == 0
    shown = {line[2:].split()[0] for line in out.splitlines() if line.startswith("│ ")}
    assert set(commands.split()) <= shown


def test_help_loads_neither_the_sdk_nor_the_server():
    script = (
        "import sys; from handinger.cli.main import run; assert run(['--help']) == 0;"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert loaded & {"httpx2", "pydantic", "fastapi", "psycopg", "pydantic_ai", "asyncio"} == set()
    assert "handinger.sdk" not in done.stderr
    assert "handinger.cli.workers" not in done.stderr


def test_version_is_printed(cli: Cli):
    assert cli("--version") == (0, f"{handinger.__version__}\n", "")


def test_the_module_runs_too():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "handinger", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{handinger.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], 'Unknown command "nonsense"'),
        (["workers", "create"], "--input"),
        (["workers", "create", "--input", "a", "--budget", "huge"], "huge"),
        (["workers", "list", "--temperature", "1"], "--temperature"),
        (["workers", "list", "--format", "xml"], "xml"),
        (["workers", "create", "--input", "a", "--stream", "--background"], "exclude each other"),
        (
            ["workers", "create", "--input", "a", "--metadata", "{"],
            "--metadata is neither JSON nor",
        ),
        (["workers", "create", "--input", "a", "--metadata", "[]"], "--metadata must be an object"),
        (["workers", "create", "--input", "@/no/such/file"], "/no/such/file cannot be read"),
        (["workers", "create", "--input", "a\udcff"], "not UTF-8"),
        (["workers", "list", "--max-items", "0"], "--max-items must be at least 1"),
        (["workers:schedules", "list", "wrk_1", "--max-items", "0"], "--max-items must be at"),
        # Nothing is between these slashes.
        (["workers", "retrieve", ""], "no part of an id"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    cli: Cli, stub: Stub, arguments: list[str], expected: str
):
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1
    assert stub.requests == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (401, 3),
        (403, 3),
        (404, 4),
        (400, 2),
        (422, 2),
        (402, 1),
        (409, 1),
        (429, 5),
        (500, 5),
        (503, 5),
    ],
)
def test_the_exit_status_tells_what_went_wrong(cli: Cli, stub: Stub, answer: int, expected: int):
    body = {"error": "It is so.", "code": "x", "details": [{"path": ["a", 0], "message": "bad"}]}
    stub.on(ONE, reply(body, answer, x_should_retry="false"))
    status, out, err = cli("workers", "retrieve", "wrk_1")
    assert (status, out) == (expected, "")
    assert err.startswith("error: It is so. a.0: bad.")
    assert ("req_1" in err) == (answer >= 500)


def test_a_detail_is_not_told_twice(cli: Cli, stub: Stub):
    details = [{"path": ["input"], "message": "must not be empty"}]
    body = {"error": "input must not be empty.", "code": "invalid_input", "details": details}
    stub.on(ONE, reply(body, 422))
    assert cli("workers", "retrieve", "wrk_1")[2] == "error: input must not be empty.\n"


def test_no_answer_is_status_5(cli: Cli, stub: Stub):
    stub.on(ONE, *[hang_up()] * 3)
    status, _, err = cli("workers", "retrieve", "wrk_1")
    assert status == 5
    assert err.startswith(f"error: The connection to {stub.url} failed: ")


def test_another_server_is_status_5(cli: Cli, stub: Stub):
    stub.on(ONE, raw(b"<html>"))
    status, _, err = cli("workers", "retrieve", "wrk_1")
    assert status == 5
    assert "is this the right URL?" in err


def test_no_key_is_status_3(cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HANDINGER_API_KEY")
    status, _, err = cli("workers", "list")
    assert (status, err) == (3, NO_KEY)


def test_a_wrong_base_url_is_status_2(cli: Cli, stub: Stub):
    status, _, err = cli("workers", "list", "--base-url", "localhost")
    assert status == 2
    assert "'localhost' must begin with http" in err


@pytest.mark.parametrize("first", [True, False])
def test_global_options_may_stand_anywhere_and_win(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch, first: bool
):
    monkeypatch.setenv("HANDINGER_BASE_URL", "http://127.0.0.1:1")
    stub.on(ONE, reply(worker()))
    options = ["--api-key", "other", "--base-url", stub.url, "--format", "jsonl"]
    command = ["workers", "retrieve", "wrk_1"]
    status, out, _ = cli(*(options + command if first else command + options))
    assert (status, json.loads(out)["id"]) == (0, "wrk_0190")
    assert stub.requests[0].headers["authorization"] == "Bearer other"


def test_a_reader_that_goes_away_is_no_traceback(stub: Stub):
    stub.on("GET /api/workers", reply({"workers": [worker()] * 2000, "nextCursor": None}))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "handinger", "workers", "list"],
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "HANDINGER_API_KEY": KEY, "HANDINGER_BASE_URL": stub.url},
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def shell(line: str, stub: Stub, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {"HANDINGER_API_KEY": KEY, "HANDINGER_BASE_URL": stub.url, "PATH": os.environ["PATH"]}
    command = line.replace("handinger", f"{shlex.quote(sys.executable)} -m handinger", 1)
    return subprocess.run(
        ["bash", "-c", command],
        env={**known, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        (">&-", 0, ""),
        ("<&-", 0, ""),
        # Nobody can be told.
        ("2>&- >/dev/full", 1, ""),
    ],
)
def test_streams_may_be_missing(stub: Stub, redirected: str, status: int, said: str):
    stub.on("GET /api/workers", reply({"workers": [], "nextCursor": None}))
    done = shell(f"handinger workers list {redirected}", stub)
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_output_that_cannot_be_written_is_told(stub: Stub):
    stub.on("GET /api/workers", reply({"workers": [worker()] * 20, "nextCursor": None}))
    done = shell("handinger workers list > /dev/full", stub)
    assert done.returncode == 1
    assert done.stderr == "error: The output cannot be written: No space left on device.\n"


# A title of the window, a cleared screen by one character (C1), text from right to left.
STEERING = "a\x1b]0;title\x07b\x9b2Jc\u202ed é"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "json"],
        ["--format", "jsonl"],
        ["--format", "yaml"],
        ["--format", "raw"],
        ["--format", "pretty"],
        ["--transform", "output_text", "-r"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_model_wrote_cannot_steer_a_terminal_and_a_pipe_gets_all_of_it(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch, arguments: list[str], terminal: bool
):
    stub.on(ONE, reply(worker(output_text=STEERING)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    status, out, _ = cli("workers", "retrieve", "wrk_1", *arguments)
    assert status == 0
    if terminal or "pretty" in arguments:
        # What is left of commands are the styles of our own.
        assert re.search("\x1b[^[]|[\x07\x9b\u202e]", out) is None
    elif "-r" in arguments:
        assert out == STEERING + "\n"
    elif "yaml" in arguments:
        assert yaml.safe_load(out)["output_text"] == STEERING
    else:
        assert json.loads(out)["output_text"] == STEERING


def test_an_error_cannot_steer_a_terminal(cli: Cli, stub: Stub):
    stub.on(ONE, reply({"error": f"It says {STEERING}.", "code": "x"}, 404))
    status, _, err = cli("workers", "retrieve", "wrk_1")
    assert (status, err) == (4, "error: It says a]0;titleb2Jcd é.\n")


def test_pipes_carry_utf_8_whatever_the_locale(stub: Stub):
    said = "é 😀"
    stub.on("POST /api/workers", reply(worker(output_text=said)))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(f"printf %s '{said}' | handinger workers create --input -", stub, **ascii_only)
    assert (done.returncode, json.loads(done.stdout)["output_text"]) == (0, said)
    assert stub.requests[0].json["input"] == said


@pytest.mark.parametrize("command", ["workers create --input -", "chat"])
def test_input_that_is_no_text_is_told(stub: Stub, command: str):
    done = shell(f"printf '\\377' | handinger {command}", stub, LC_ALL="C")
    assert (done.returncode, done.stdout, stub.requests) == (2, "", [])
    assert done.stderr.endswith("is not UTF-8 text.\n")
    assert done.stderr.startswith("error: ")


def test_a_user_without_a_home_can_work_and_not_log_in(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    # As `expanduser` answers for a user whom the system does not know.
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    stub.on("GET /api/workers", *[reply({"workers": [], "nextCursor": None})] * 2)
    monkeypatch.delenv("HANDINGER_BASE_URL")
    assert cli("workers", "list", "--base-url", stub.url)[0] == 0
    monkeypatch.delenv("HANDINGER_API_KEY")
    assert cli("workers", "list")[0] == 3
    status, _, err = cli("login", "--base-url", stub.url, "--api-key", KEY)
    assert (status, err) == (
        2,
        "error: This user has no home directory; set XDG_CONFIG_HOME.\n",
    )


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("http://", 2, "must begin with http:// or https://"),
        ("ftp://host", 2, "must begin with http:// or https://"),
        ("http://[::1", 2, "is not valid"),
        ("http://127.0.0.1:1", 5, "No server can be reached at http://127.0.0.1:1"),
    ],
)
def test_a_bad_base_url_is_told(cli: Cli, stub: Stub, url: str, status: int, said: str):
    done, out, err = cli("workers", "list", "--base-url", url)
    assert (done, out) == (status, "")
    assert said in err


def test_a_server_without_tls_is_told(cli: Cli, stub: Stub):
    status, _, err = cli("workers", "list", "--base-url", stub.url.replace("http:", "https:"))
    assert status == 5
    assert "SSL" in err


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"])
def test_to_this_machine_no_proxy_is_asked(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    stub.on("GET /api/workers", reply({"workers": [], "nextCursor": None}))
    assert cli("workers", "list")[0] == 0


def test_debug_shows_the_requests_and_no_key(stub: Stub):
    # In a process of its own, as it changes how this one logs.
    stub.on(ONE, reply(worker(), Set_Cookie="session=s3cret"))
    done = shell(f"handinger workers retrieve wrk_1 --debug --api-key {KEY}", stub)
    assert done.returncode == 0
    assert json.loads(done.stdout)["id"] == "wrk_0190"
    assert "GET http://127.0.0.1" in done.stderr
    assert "200 after" in done.stderr
    assert KEY not in done.stderr
    assert "s3cret" not in done.stderr
