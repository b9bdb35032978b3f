"""`run_command` (1.10): commands in the worker's sandbox, and what becomes of its files."""

import base64
import io
import shlex
import time
import zipfile
from typing import Any

import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.streams import check_same, folded, post
from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripted, Scripts, wait_until
from tests.support.hosts import require_sandboxes, runs
from tests.support.model_server import Step, ToolCall

PRICE_USD_PER_S = 0.01


@pytest.fixture(scope="module", autouse=True)
def _needs_sandboxes():
    require_sandboxes()


@pytest.fixture(scope="module")
def priced(new_server: StartServer, connect: Connect) -> Api:
    """A server whose commands cost something, and whose turns and workspaces may be small."""
    server = new_server(
        "priced",
        {
            "HANDINGER_SANDBOX_USD_PER_SECOND": str(PRICE_USD_PER_S),
            "HANDINGER_MAX_WORKSPACE_FILES": "300",
            "HANDINGER_MAX_FILE_BYTES": "1000000",
            "HANDINGER_SANDBOX_DISK_BYTES": "8000000",
            "HANDINGER_BUDGETS": '{"low": {"seconds": 10, "usd": 5}, "standard": {"usd": 0.06}}',
        },
    )
    return connect(server, server.key)


def run(command: str, **arguments: Any) -> ToolCall:
    return ToolCall("run_command", {"command": command, **arguments})


def results_of(worker: dict[str, Any]) -> list[Any]:
    """What the tools of the latest message answered."""
    parts = worker["messages"][-1]["parts"]
    return [part["output"] for part in parts if part["type"].startswith("tool-")]


def carry_out(api: Api, scripts: Scripts, *calls: ToolCall | list[ToolCall]) -> dict[str, Any]:
    """A worker whose turn made these calls, each list in one step."""
    steps = [Step(tool_calls=call if isinstance(call, list) else [call]) for call in calls]
    response = api.create(scripts(*steps, Step(text="done")), budget="high")
    assert response.status_code == 200, response.text
    worker = response.json()
    assert worker["error"] is None, worker["error"]
    return worker


def filenames(worker: dict[str, Any]) -> list[str]:
    return sorted(file["filename"] for file in worker["files"])


def read(api: Api, worker: dict[str, Any], path: str) -> bytes:
    response = api.client.get(f"/api/workers/{worker['id']}/files/{path}")
    assert response.status_code == 200, response.text
    return response.content


def test_a_command_answers_its_exit_code_and_what_it_said(api: Api, scripts: Scripts):
    worker = carry_out(api, scripts, run("printf out; printf err >&2; exit 7"))
    assert results_of(worker) == [{"exit_code": 7, "stdout": "out", "stderr": "err"}]


def test_files_that_a_command_makes_are_kept_and_published(api: Api, scripts: Scripts):
    worker = carry_out(
        api,
        scripts,
        run(
            "echo report > report.md; mkdir -p a/b scratchpad node_modules/x .cache;"
            " echo 1 > a/b/c.txt; echo 2 > scratchpad/d.txt; echo 3 > .cache/e;"
            " echo 4 > node_modules/x/f.js"
        ),
    )
    assert filenames(worker) == ["a/b/c.txt", "report.md"]
    assert read(api, worker, "report.md") == b"report\n"
    assert read(api, worker, "scratchpad/d.txt") == b"2\n"
    assert read(api, worker, "node_modules/x/f.js") == b"4\n"
    (result,) = results_of(worker)
    assert "report.md (7 bytes, published)" in result["files"]


def test_commands_and_file_tools_see_the_same_files(api: Api, scripts: Scripts):
    worker = carry_out(
        api,
        scripts,
        ToolCall("write_file", {"path": "in.txt", "content": "from the tool"}),
        run("cat in.txt; echo from the command > out.txt; rm in.txt"),
        [
            ToolCall("read_file", {"path": "out.txt"}),
            ToolCall("read_file", {"path": "in.txt"}),
            ToolCall("write_file", {"path": "out.txt", "content": "again"}),
            run("cat out.txt"),
        ],
    )
    parts = [part for part in worker["messages"][-1]["parts"] if part["type"].startswith("tool-")]
    assert parts[1]["output"]["stdout"] == "from the tool"
    assert parts[2]["output"] == "from the command\n"
    assert parts[3]["state"] == "output-error"
    assert parts[5]["output"]["stdout"] == "again"
    assert filenames(worker) == ["out.txt"]


def test_files_are_there_in_the_next_turn_with_their_mode(api: Api, scripts: Scripts):
    worker = carry_out(api, scripts, run("printf '#!/bin/sh\\necho ran' > go.sh; chmod +x go.sh"))
    again = api.go_on(
        worker["id"], scripts(Step(tool_calls=[run("./go.sh && ls -A")]), Step(text="done"))
    )
    assert results_of(again.json())[0]["stdout"] == "ran\ngo.sh\n"


def test_a_moved_file_stays_published_and_a_removed_one_is_gone(api: Api, scripts: Scripts):
    worker = carry_out(
        api,
        scripts,
        run("echo a > a.txt; echo b > b.txt"),
        run("mkdir scratchpad; mv a.txt scratchpad/a2.txt; rm b.txt"),
    )
    assert filenames(worker) == ["scratchpad/a2.txt"]
    gone = api.client.get(f"/api/workers/{worker['id']}/files/b.txt")
    assert gone.status_code == 404


def test_the_background_of_one_command_can_be_asked_by_the_next(api: Api, scripts: Scripts):
    worker = carry_out(
        api,
        scripts,
        run("echo hello > index.html; python3 -m http.server 8123 &"),
        run(
            "for i in $(seq 100); do curl -sf http://127.0.0.1:8123/index.html && exit;"
            " sleep 0.1; done; exit 1"
        ),
    )
    assert results_of(worker)[1]["stdout"] == "hello\n"


def test_a_command_that_takes_too_long_is_stopped_and_its_files_kept(api: Api, scripts: Scripts):
    worker = carry_out(
        api, scripts, run("echo 1 > kept.txt; echo said; sleep 1000", timeout_seconds=1)
    )
    (result,) = results_of(worker)
    assert result["stdout"] == "said\n"
    assert result["exit_code"] == 137
    assert "did not end within 1 s" in result["notes"][0]
    assert filenames(worker) == ["kept.txt"]


def test_long_output_is_cut_and_the_rest_is_in_a_file(api: Api, scripts: Scripts):
    worker = carry_out(api, scripts, run("seq 20000"))
    (result,) = results_of(worker)
    assert len(result["stdout"]) < 21_000
    assert result["stdout"].startswith("1\n2\n")
    assert result["stdout"].endswith("20000\n")
    (note,) = result["notes"]
    path = note.split()[-1].removesuffix(".")
    assert read(api, worker, path) == "".join(f"{n}\n" for n in range(1, 20001)).encode()
    assert filenames(worker) == []


def test_output_that_is_no_text_is_shown_as_well_as_it_can_be(api: Api, scripts: Scripts):
    worker = carry_out(api, scripts, run(r"printf 'a\377b\000c'"))
    (result,) = results_of(worker)
    assert result["stdout"].startswith("a\ufffdb")
    assert "not UTF-8" in result["notes"][0]


def test_output_without_end_stops_its_command(api: Api, scripts: Scripts):
    worker = carry_out(api, scripts, run("yes"))
    (result,) = results_of(worker)
    assert "bytes of output and was stopped" in result["notes"][0]
    assert result["stdout"].startswith("y\ny\n")


def test_many_new_files_are_kept_and_not_published(api: Api, scripts: Scripts):
    worker = carry_out(
        api, scripts, run("for i in $(seq 150); do echo $i > f$i.txt; done"), run("echo x > f1.txt")
    )
    first, _ = results_of(worker)
    assert "150 new files are too many" in first["notes"][0]
    assert filenames(worker) == ["f1.txt"]
    assert read(api, worker, "f150.txt") == b"150\n"


def test_more_files_than_allowed_are_not_kept_until_there_are_fewer(priced: Api, scripts: Scripts):
    worker = carry_out(
        priced,
        scripts,
        run("mkdir d; cd d; seq 301 | xargs touch"),
        run("echo kept > kept.txt"),
        run("rm -r d"),
    )
    many, still, fewer = results_of(worker)
    assert "it may have 300" in many["notes"][0]
    assert "it may have 300" in still["notes"][0]
    assert "notes" not in fewer
    assert filenames(worker) == ["kept.txt"]


def zip_of(*sizes: int) -> str:
    """In base64, an archive of files that are nothing but zeros."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for number, size in enumerate(sizes):
            packed.writestr(f"{number}.bin", bytes(size))
    return base64.b64encode(archive.getvalue()).decode()


@pytest.mark.parametrize(
    ("bomb", "says"),
    [
        (zip_of(50_000_000), "File too large"),
        (zip_of(*[900_000] * 60), "The disk of the sandbox is full"),
    ],
    ids=["one file", "many files"],
)
def test_an_archive_that_is_a_bomb_hurts_nobody(
    priced: Api, scripts: Scripts, bomb: str, says: str
):
    """Only commands unpack anything; they run into the limits, and the agent can clean up."""
    unpack = "import time, zipfile\nfor one in zipfile.ZipFile('inbox/bomb.zip').infolist():\n"
    unpack += "    zipfile.ZipFile('inbox/bomb.zip').extract(one); time.sleep(0.05)"
    steps = [
        Step(tool_calls=[ToolCall("read_file", {"path": "inbox/bomb.zip"})]),
        Step(tool_calls=[run(f'python3 -c "{unpack}"')]),
        Step(tool_calls=[run("rm -f *.bin; echo on")]),
        Step(text="done"),
    ]
    file = {"filename": "bomb.zip", "data": bomb}
    response = priced.create(scripts(*steps), budget="high", files=[file])
    worker = response.json()
    assert (worker["error"], worker["output_text"]) == (None, "done")
    read_back, unpacked, after = results_of(worker)
    assert "is no text (application/zip" in read_back
    assert unpacked["exit_code"] != 0
    assert says in unpacked["stderr"] + " ".join(unpacked.get("notes", ()))
    assert after["stdout"] == "on\n"
    assert filenames(worker) == []


def test_a_name_of_a_file_is_one_line_whatever_is_in_it(api: Api, scripts: Scripts):
    """Else it could look like another file, or like words of the server."""
    odd = "a\nb.txt (9 bytes, published)"
    make = f"printf x > {shlex.quote(odd)}; printf y > 'fine é.txt'; touch \"$(printf '\\377')\""
    calls = [
        *(run(make), ToolCall("list_files", {}), ToolCall("read_file", {"path": odd})),
        ToolCall("publish_file", {"path": odd}),
    ]
    worker = worker_in(
        api.create(scripts(*(Step(tool_calls=[call]) for call in calls), Step(text="done")))
    )
    made, listed, read_back, published = [
        part["output"] for part in worker["messages"][-1]["parts"] if "output" in part
    ]
    shown = r'"a\nb.txt (9 bytes, published)"'
    assert made["files"] == [
        f"{shown} (1 bytes, published)",
        "fine é.txt (1 bytes, published)",
    ]
    assert made["notes"] == ["Not kept: ?: A path must be valid Unicode."]
    assert listed.splitlines() == [f"{shown}\t1\tpublished", "fine é.txt\t1\tpublished"]
    assert read_back == "x"
    assert published == f"Published {shown}."


def test_links_and_pipes_are_not_kept_and_never_followed(api: Api, scripts: Scripts):
    worker = carry_out(
        api,
        scripts,
        run("ln -s /etc/passwd link; ln -s /proc/1/environ env; mkfifo pipe; echo x > file"),
        ToolCall("read_file", {"path": "link"}),
    )
    assert filenames(worker) == ["file"]
    parts = [part for part in worker["messages"][-1]["parts"] if part["type"].startswith("tool-")]
    assert "link: links are not kept" in parts[0]["output"]["notes"][0]
    assert parts[1]["state"] == "output-error"


def test_folders_within_folders_keep_nobody_busy(api: Api, scripts: Scripts):
    """To open each of so many from the top takes minutes, in a thread that outlives the turn."""
    nest = (
        "import os\nopen('kept.txt', 'w').close()\n"
        "for _ in range(5000):\n    os.mkdir('d')\n    os.chdir('d')\n"
        "open('lost.txt', 'w').close()"
    )
    began = time.monotonic()
    worker = carry_out(api, scripts, run(f'python3 -c "{nest}"'))
    assert time.monotonic() - began < 40
    (result,) = results_of(worker)
    assert result["exit_code"] == 0
    assert "paths below it are too long" in result["notes"][0]
    assert filenames(worker) == ["kept.txt"]


def test_a_cancelled_command_ends(api: Api, scripts: Scripts):
    scripted: Scripted = scripts(Step(tool_calls=[run("sleep 999.25", timeout_seconds=500)]))
    worker = api.start(scripted)
    wait_until(lambda: runs("sleep 999.25"))
    api.client.post(f"/api/workers/{worker['id']}/cancel", json={})
    wait_until(lambda: not runs("sleep 999.25"))
    assert api.worker(worker["id"])["incomplete_details"] == {"reason": "cancelled"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cancelled_command_leaves_its_files_as_they_are(
    api: Api, scripts: Scripts, streamed: bool
):
    """Also when something in the background still writes; and the next turn finds them."""
    name = f"sleep 996.{int(streamed)}"
    writer = "(while true; do date >> log.txt; done) &"
    command = f"rm old.txt; echo half > report.md; {writer} sleep 0.2; {name}"
    steps = [
        Step(tool_calls=[ToolCall("write_file", {"path": "old.txt", "content": "x"})]),
        Step(tool_calls=[run(command, timeout_seconds=500), run("echo never > never.txt")]),
    ]
    stream = post(api, scripts(*steps)) if streamed else None
    worker = api.worker(stream.worker_id) if stream else api.start(scripts(*steps))
    wait_until(lambda: runs(name))
    api.client.post(f"/api/workers/{worker['id']}/cancel", json={})
    worker = api.worker(worker["id"])
    assert worker["incomplete_details"] == {"reason": "cancelled"}
    assert filenames(worker) == ["log.txt", "report.md"]
    assert read(api, worker, "report.md") == b"half\n"
    _, *cut = [part for part in worker["messages"][-1]["parts"] if "tool-" in part["type"]]
    assert all(
        "What commands had done to the files by then is kept" in it["errorText"] for it in cut
    )
    if stream is not None:
        check_same(folded(stream.read()), worker)
    again = scripts(Step(tool_calls=[run("ls; cat report.md")]), Step(text="done"))
    assert results_of(api.go_on(worker["id"], again).json())[0]["stdout"] == (
        "log.txt\nreport.md\nhalf\n"
    )


def test_a_command_that_is_cut_off_before_it_began_changes_nothing(api: Api, scripts: Scripts):
    """Its files may be half-way to the sandbox then, which must not look like a removal."""
    worker = carry_out(api, scripts, run("for i in $(seq 90); do echo $i > f$i.txt; done"))
    before = filenames(worker)
    for _ in range(3):
        scripted = scripts(Step(tool_calls=[run("sleep 0.05")]), Step(text="done"))
        api.queue(worker["id"], scripted)
        scripted.wait_for(1)
        api.client.post(f"/api/workers/{worker['id']}/cancel", json={})
        api.wait_until_idle(worker["id"])
    assert filenames(api.worker(worker["id"])) == before


@pytest.mark.parametrize(
    ("call", "seconds"),
    [
        (run("sleep 0.3"), 0.3),
        (run("sleep 0.3; exit 3"), 0.3),
        (run("sleep 1000", timeout_seconds=0.5), 0.5),
    ],
)
def test_the_time_of_commands_costs_whatever_becomes_of_them(
    priced: Api, scripts: Scripts, call: ToolCall, seconds: float
):
    worker = carry_out(priced, scripts, call)
    assert worker["costs"]["sandboxCostUsd"] >= seconds * PRICE_USD_PER_S
    assert worker["usage"]["costUsd"] == pytest.approx(sum(worker["costs"].values()), abs=1e-9)


def test_the_time_of_a_cancelled_command_costs(priced: Api, scripts: Scripts):
    step = Step(tool_calls=[run("sleep 998.5", timeout_seconds=500)])
    worker = priced.start(scripts(step), budget="high")
    wait_until(lambda: runs("sleep 998.5"))
    priced.client.post(f"/api/workers/{worker['id']}/cancel", json={})
    assert priced.worker(worker["id"])["costs"]["sandboxCostUsd"] > 0


def test_a_command_that_money_ends_is_told_so(priced: Api, scripts: Scripts):
    """After a second; five more are paid for, as it may take so long to stop it."""
    slow = run("echo 1 > early.txt; sleep 1000", timeout_seconds=500)
    steps = Step(tool_calls=[slow]), Step(tool_calls=[slow]), Step(text="done")
    worker = priced.create(scripts(*steps), budget="standard").json()
    assert (worker["error"], worker["output_text"]) == (None, "done")
    assert 0.01 <= worker["costs"]["sandboxCostUsd"] <= 0.06
    first, second = (
        part for part in worker["messages"][-1]["parts"] if part["type"] == "tool-run_command"
    )
    (note,) = first["output"]["notes"]
    assert "the budget 'standard' of this turn does not cover more time" in note
    assert "Give it more time" not in note
    assert "say in your answer that the money ran out" in note
    # What is left now is too little for another.
    assert "the budget 'standard' of this turn does not cover enough" in second["errorText"]
    assert filenames(worker) == ["early.txt"]


def test_a_command_gets_no_more_time_than_its_turn_has(priced: Api, scripts: Scripts):
    slow = run("echo 1 > early.txt; sleep 1000", timeout_seconds=500)
    response = priced.create(scripts(Step(tool_calls=[slow]), Step(text="done")), budget="low")
    worker = response.json()
    note = results_of(worker)[0]["notes"][0]
    assert "because the time of this turn is nearly used up" in note
    assert "Give it more time" not in note
    assert filenames(worker) == ["early.txt"]
    assert worker["output_text"] == "done"


def test_without_a_sandbox_commands_are_not_offered(
    new_server: StartServer, connect: Connect, scripts: Scripts
):
    server = new_server("unboxed", {"HANDINGER_SANDBOX": "off"})
    instruction = scripts(Step(text="done"))
    assert connect(server, server.key).create(instruction).json()["output_text"] == "done"
    (request,) = instruction.requests
    assert "run_command" not in request.tool_names
    assert "write_file" in request.tool_names
    assert "run_command is not offered" in server.log_path.read_text()


@pytest.mark.parametrize("command", ["", "  ", "a\0b", "x" * 200_000])
def test_what_is_no_command_is_refused(api: Api, scripts: Scripts, command: str):
    response = api.create(scripts(Step(tool_calls=[run(command)]), Step(text="done")))
    (part,) = [
        part
        for part in response.json()["messages"][-1]["parts"]
        if part["type"] == "tool-run_command"
    ]
    assert part["state"] == "output-error"
