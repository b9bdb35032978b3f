"""Attacks by the calls that a model makes: what they get, and what others notice of them.

How each wall holds is tested where it is built; here, that all hold together, and that whoever runs
into one is told so and goes on.
"""

import secrets
import shlex
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import psycopg
import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.test_commands import filenames, read, run
from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripts, wait_until
from tests.support.hosts import require_sandboxes, runs
from tests.support.model_server import Step, ToolCall
from tests.support.site import Reply, Site, redirect
from tests.web.test_reading import bomb_pdf

MIB = 1024 * 1024


def outcomes(worker: dict[str, Any]) -> list[Any]:
    """What the tools of the latest message answered; of a failure its text."""
    parts = [part for part in worker["messages"][-1]["parts"] if part["type"].startswith("tool-")]
    return [part.get("output", part.get("errorText")) for part in parts]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def small(new_server: StartServer, connect: Connect, site: Site) -> Api:
    """Of a server that gives a sandbox little, and fetches little."""
    server = new_server(
        "small",
        {
            "HANDINGER_SANDBOX_MEMORY_BYTES": str(192 * MIB),
            "HANDINGER_SANDBOX_PROCESSES": "24",
            "HANDINGER_SANDBOX_DISK_BYTES": str(24 * MIB),
            "HANDINGER_SANDBOX_DISK_ENTRIES": "2000",
            "HANDINGER_SANDBOX_OUTPUT_BYTES": str(256 * 1024),
            "HANDINGER_SANDBOX_CPU_S": "1",
            "HANDINGER_MAX_FILE_BYTES": str(4 * MIB),
            "HANDINGER_FETCH_MAX_BYTES": str(MIB),
            "HANDINGER_FETCH_ALLOW_PRIVATE": f"127.0.0.1:{site.port}",
        },
    )
    return connect(server, server.key)


# Reading what is not theirs

SPY = """
import glob, os, socket
for path in {paths!r}:
    for place in [path, *glob.glob(path + '/*'), '/proc/self/root' + path, '../../..' + path]:
        try: print(open(place, 'rb').read()[:2000])
        except OSError as error: print(error.strerror)
for pid in os.listdir('/proc'):
    for name in ('environ', 'cmdline', 'cwd/diary.txt'):
        try: print(open(f'/proc/{{pid}}/{{name}}', 'rb').read())
        except OSError: pass
for path in {sockets!r}:
    try: socket.socket(socket.AF_UNIX).connect(path)
    except OSError as error: print('no:', error.strerror)
    else: print('BRO' + 'KEN')
"""


def test_a_command_finds_nothing_of_its_server_and_of_other_workers(
    api: Api, scripts: Scripts, database: psycopg.Connection
):
    require_sandboxes()
    diary = f"secret-{secrets.token_hex(16)}"
    nap = f"sleep 997.{secrets.randbelow(10**6)}"
    other = api.start(scripts(Step(tool_calls=[run(f"echo {diary} > diary.txt; {nap}")])))
    wait_until(lambda: runs(nap))
    data_dir = api.server.data_dir
    paths = [
        *("/etc/shadow", "/proc/1/environ", f"/proc/{api.server.pid}/environ"),
        *map(
            str, (data_dir, data_dir / "secret.key", data_dir / "postgres", data_dir / "sandboxes")
        ),
        *("/var/lib/handinger-sandboxes", "/root", "/home"),
    ]
    spy = SPY.format(paths=paths, sockets=[f"{database.info.host}/.s.PGSQL.{database.info.port}"])
    command = f"env; python3 -c {shlex.quote(spy)}; find / -name diary.txt -exec cat {{}} + 2>&1"
    worker = worker_in(api.create(scripts(Step(tool_calls=[run(command)]), Step(text="done"))))
    (seen,) = outcomes(worker)
    api.client.post(f"/api/workers/{other['id']}/cancel", json={})
    told = str(seen)
    assert "no: No such file or directory" in told
    assert (data_dir / "secret.key").exists() or (data_dir / "postgres").exists()
    key = api.server.environment["OPENAI_API_KEY"]
    for secret in (api.key, key, diary, "BROKEN", "HANDINGER_", "root:"):
        assert secret not in told, secret


OUT = ("../diary.txt", "../../etc/passwd", "/etc/passwd", "a/../../b", "..", "~/x", "~root/x")
# In here they are names like any other.
ODD = (
    *("%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "..\\..\\etc\\passwd", "..;/passwd"),
    *("%252e%252e%252fetc%252fpasswd", "\uff0e\uff0e/etc/passwd", "....//etc/passwd"),
)


@pytest.mark.parametrize("tool", ["read_file", "publish_file", "list_files", "write_file"])
def test_no_path_leads_out_of_the_workspace(api: Api, scripts: Scripts, tool: str):
    more = {"content": "x"} if tool == "write_file" else {}
    calls = [ToolCall(tool, {"path": path, **more}) for path in (*OUT, *ODD, "x\0.txt")]
    worker = worker_in(api.create(scripts(Step(tool_calls=calls), Step(text="done"))))
    answers = outcomes(worker)
    for path, answer in zip(OUT, answers, strict=False):
        assert "leads out of the workspace" in answer or "is absolute" in answer, path
    for path, answer in zip(ODD, answers[len(OUT) :], strict=False):
        assert answer.startswith(("There is no file", "There are no files", "Wrote ")), path
    assert "NUL" in answers[-1]
    assert worker["output_text"] == "done"


def test_links_lead_nowhere_while_they_come_and_go(api: Api, scripts: Scripts):
    """A program in the background turns files and folders into links while they are collected."""
    require_sandboxes()
    swap = (
        "mkdir -p real d; echo mine > real/passwd; echo mine > f;"
        " (while true; do ln -sfn /etc d; ln -sfn /etc/passwd f; rm -f d f;"
        " mkdir d; echo mine > d/passwd; echo mine > f; rm -rf d; done) >/dev/null 2>&1 &"
    )
    calls = [run(swap), *[run("sleep 0.05") for _ in range(6)]]
    steps = [Step(tool_calls=[call]) for call in calls]
    worker = worker_in(api.create(scripts(*steps, Step(text="done"))))
    assert worker["error"] is None
    for name in filenames(worker):
        assert read(api, worker, name) in (b"mine\n", b""), name


# Taking too much

SWARM = (
    "import os, time\nfor _ in range(100):\n    try:\n        if os.fork() == 0: time.sleep(1000)\n"
    "    except OSError: pass\ntime.sleep(1000)"
)
HOG = "import time\nkept = []\nfor _ in range(400):\n    kept.append(b'x' * (1 << 20))\n"
BOMBS = {
    "forks": ("bomb() { bomb | bomb & }; bomb; sleep 60", "more processes"),
    "processes": (f"python3 -c {shlex.quote(SWARM)}", "more processes"),
    "memory": (f"python3 -c {shlex.quote(HOG)}", ""),
    "output": ("yes", "output and was stopped"),
    "file": ("dd if=/dev/zero of=huge bs=1M count=10240", "which no file may be"),
    "sparse file": ("truncate -s 10G huge", "which no file may be"),
    "computing": ("while :; do :; done", "1 s of processor time"),
    "disk": (
        "for i in $(seq 100); do head -c 3000000 /dev/zero > f$i; sleep 0.02; done; sleep 60",
        "disk of the sandbox is full",
    ),
    "bytes": ("head -c 200000 /dev/urandom", "not UTF-8"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_alone(small: Api, scripts: Scripts, name: str):
    """Its worker goes on, and another one's command runs meanwhile as ever."""
    require_sandboxes()
    command, said = BOMBS[name]
    attack = [
        Step(tool_calls=[run(command, timeout_seconds=60 if name == "computing" else 4)]),
        Step(tool_calls=[run("rm -rf *; echo still")]),
        Step(text="done"),
    ]
    attacker = scripts(*attack)
    worker = small.start(attacker)
    attacker.wait_for(1)
    other = worker_in(
        small.create(scripts(Step(tool_calls=[run("echo other")]), Step(text="fine")))
    )
    assert outcomes(other)[0]["stdout"] == "other\n"
    ended = small.wait_until_idle(worker["id"])
    assert (ended["error"], ended["output_text"]) == (None, "done")
    bombed, after = outcomes(ended)
    assert bombed["exit_code"] != 0 or bombed.get("notes")
    assert said in " ".join(bombed.get("notes", ()))
    assert after["stdout"] == "still\n"


def test_what_sleeps_and_hides_ends_with_its_turn(api: Api, scripts: Scripts):
    require_sandboxes()
    naps = [f"sleep 99{n}.{secrets.randbelow(10**6)}" for n in range(5, 8)]
    hide = (
        f"(setsid sh -c '{naps[0]} &' &); nohup {naps[1]} >/dev/null 2>&1 & {naps[2]} & disown -a"
    )
    held = scripts.new()
    scripts.model.script(
        held.name, [Step(tool_calls=[run(hide)]), Step(text="done", gate=held.gate())]
    )
    worker = api.start(held)
    held.wait_for(2)
    assert all(map(runs, naps))
    held.open()
    api.wait_until_idle(worker["id"])
    wait_until(lambda: not any(map(runs, naps)))


# Pages


def gigabyte(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "text/html")
    request.end_headers()
    for _ in range(1024):
        request.wfile.write(b"x" * MIB)


def test_no_page_and_no_address_ends_a_turn(small: Api, scripts: Scripts, site: Site):
    site.pages |= {
        "/huge": gigabyte,
        "/bomb.pdf": Reply(bomb_pdf(100 * MIB), media_type="application/pdf"),
        "/inside": redirect("http://[::ffff:127.0.0.1]:1/"),
        "/metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    }
    asked = {
        f"{site.origin}/huge": "larger than",
        f"{site.origin}/bomb.pdf": "cannot be read",
        f"{site.origin}/inside": "private network",
        f"{site.origin}/metadata": "metadata",
        "http://2130706433:1/": "private network",
        "http://0x7f.1:1/": "private network",
        "http://0177.0.0.1:1/": "private network",
        "http://[::1]:1/": "private network",
        "http://[::ffff:7f00:1]:1/": "private network",
        "http://[64:ff9b::7f00:1]:1/": "private network",
        "http://localhost:1/": "private network",
        "http://0/": "private network",
    }
    calls = [ToolCall("web_fetch", {"url": url}) for url in asked]
    worker = worker_in(small.create(scripts(Step(tool_calls=calls), Step(text="done"))))
    assert (worker["error"], worker["output_text"]) == (None, "done")
    for (url, said), answer in zip(asked.items(), outcomes(worker), strict=True):
        assert said in answer, (url, answer)
    assert worker["sources"] == []
