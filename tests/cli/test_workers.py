"""`handinger workers ...` in a pipe: what is asked, what is printed, and the exit status."""

import io
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from handinger.cli import following, output
from tests.cli.conftest import Cli
from tests.sdk.stub import (
    TURN_ID,
    WORKER_ID,
    Stub,
    events,
    frame,
    raw,
    reply,
    turn_frames,
    worker,
)

POST = "POST /api/workers"
ONE = f"/api/workers/{WORKER_ID}"
FRAMES = turn_frames()

FAILED = worker(error={"code": "model_error", "message": "No model answers."}, output_text="")


def lines(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def test_create_prints_the_worker_as_json(cli: Cli, stub: Stub):
    stub.on(POST, reply(worker()))
    status, out, err = cli("workers", "create", "--input", "What is it?", "--metadata", '{"a":1}')
    assert (status, json.loads(out), err) == (0, worker(), "")
    assert stub.requests[0].json == {
        "input": "What is it?",
        "budget": "standard",
        "metadata": {"a": 1},
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("@{file}", "From a\nfile: ä"),
        ("@-", "From stdin"),
        ("\\@here", "@here"),
        # An instruction may look like an option.
        ("- first\n- second", "- first\n- second"),
    ],
)
def test_an_instruction_comes_from_where_it_stands(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, sent: str
):
    (tmp_path / "input.txt").write_text("From a\nfile: ä", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("From stdin"))
    stub.on(POST, reply(worker()))
    status, _, _ = cli("workers", "create", "--input", given.format(file=tmp_path / "input.txt"))
    assert status == 0
    assert stub.requests[0].json["input"] == sent


def test_a_failed_turn_is_printed_and_status_1(cli: Cli, stub: Stub):
    stub.on(POST, reply(FAILED))
    status, out, err = cli("workers", "create", "--input", "a")
    assert (status, json.loads(out)) == (1, FAILED)
    assert err == "error: model_error: No model answers.\n"


def test_a_cancelled_turn_did_not_fail(cli: Cli, stub: Stub):
    stub.on(POST, reply(worker(incomplete_details={"reason": "cancelled"})))
    assert cli("workers", "create", "--input", "a")[0] == 0


def test_background_returns_at_once(cli: Cli, stub: Stub):
    stub.on(POST, reply(worker(status="pending", running=True), 202))
    status, out, _ = cli("workers", "create", "--input", "a", "--background")
    assert (status, json.loads(out)["status"]) == (0, "pending")
    assert stub.requests[0].headers["prefer"] == "respond-async"


def test_background_is_no_failure_because_an_older_turn_was_one(cli: Cli, stub: Stub):
    waiting = {**FAILED, "status": "pending", "running": True}
    stub.on(f"POST {ONE}", *[reply(waiting, 202)] * 2)
    status, _, err = cli("workers", "continue", WORKER_ID, "--input", "a", "--background")
    assert (status, err) == (0, "")
    status, out, _ = cli(
        "workers", "continue", WORKER_ID, "--input", "a", "--background", "--format", "pretty"
    )
    assert status == 0
    assert "the turn before failed" in out


def test_the_idempotency_key_is_passed_on(cli: Cli, stub: Stub):
    stub.on(POST, reply(worker()))
    cli("workers", "create", "--input", "a", "--idempotency-key", "mine")
    assert stub.requests[0].headers["idempotency-key"] == "mine"


@pytest.mark.parametrize("named", [True, False])
def test_continue_takes_the_worker_by_position_or_name(cli: Cli, stub: Stub, named: bool):
    stub.on(f"POST {ONE}", reply(worker()))
    who = ["--worker-id", WORKER_ID] if named else [WORKER_ID]
    status, _, _ = cli("workers", "continue", *who, "--input", "b", "--budget", "high")
    assert status == 0
    assert stub.requests[0].json == {"input": "b", "budget": "high"}


def test_a_stream_in_a_pipe_is_one_event_per_line(cli: Cli, stub: Stub):
    stub.on(POST, events(*FRAMES))
    status, out, err = cli("workers", "create", "--input", "a", "--stream")
    told = lines(out)
    assert (status, err) == (0, "")
    assert [event["type"] for event in told][:3] == ["start", "start-step", "text-start"]
    assert told[3] == {"type": "text-delta", "id": "3", "delta": "Forty"}
    assert told[-1] == {"type": "finish"}


def test_a_raw_stream_keeps_the_places(cli: Cli, stub: Stub):
    stub.on(f"POST {ONE}", events(*FRAMES))
    _, out, _ = cli("workers", "continue", WORKER_ID, "--input", "b", "--stream", "--format", "raw")
    assert f'id: {TURN_ID}-1.0.6.1\ndata: {{"type":"finish"}}\n\n' in out


@pytest.mark.parametrize(
    ("end", "expected", "said"),
    [
        (
            frame("error", "1.0.6.1", errorText="No model\x1b answers."),
            1,
            "error: No model answers.",
        ),
        (frame("abort", "1.0.6.1"), 0, ""),
    ],
)
def test_the_terminal_event_decides_the_status(
    cli: Cli, stub: Stub, end: bytes, expected: int, said: str
):
    stub.on(POST, events(*FRAMES[:-1], end))
    status, _, err = cli("workers", "create", "--input", "a", "--stream")
    assert (status, err.strip()) == (expected, said)


def test_stream_updates_goes_on_after_a_place(cli: Cli, stub: Stub):
    stub.on(f"GET {ONE}/stream", events(*FRAMES[4:]))
    place = f"{TURN_ID}-1.0.3.5"
    status, out, _ = cli(
        "workers", "stream-updates", WORKER_ID, "--last-event-id", place, "--no-messages"
    )
    assert (status, len(lines(out))) == (0, 5)
    assert stub.requests[0].headers["last-event-id"] == place
    assert stub.requests[0].target.endswith("?messages=false")


def test_retrieve_prints_the_worker(cli: Cli, stub: Stub):
    stub.on(f"GET {ONE}", reply(FAILED))
    # To look at a failed turn is no failure.
    status, out, _ = cli("workers", "retrieve", "--worker-id", WORKER_ID, "--no-messages")
    assert (status, json.loads(out)) == (0, FAILED)
    assert stub.requests[0].target == f"{ONE}?messages=false"


PAGE = {"workers": [worker(), worker(id="wrk_2")], "nextCursor": "c2"}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("json", [PAGE]), ("raw", [PAGE]), ("jsonl", PAGE["workers"])],
)
def test_list_prints_a_page(cli: Cli, stub: Stub, shape: str, expected: list[Any]):
    stub.on("GET /api/workers", reply(PAGE))
    arguments = ["--limit", "2", "--status", "completed", "--cursor", "c1", "--format", shape]
    status, out, _ = cli("workers", "list", *arguments)
    assert status == 0
    assert ([json.loads(out)] if shape == "json" else lines(out)) == expected
    assert stub.requests[0].target == "/api/workers?limit=2&cursor=c1&status=completed"


def test_cancel_and_delete(cli: Cli, stub: Stub):
    stub.on(f"POST {ONE}/cancel", reply(worker()))
    stub.on(f"DELETE {ONE}", reply({"deleted": True}))
    assert cli("workers", "cancel", WORKER_ID, "--turn-id", "trn_2")[0] == 0
    status, out, _ = cli("workers", "delete", WORKER_ID)
    assert (status, json.loads(out)) == (0, {"deleted": True})
    assert stub.requests[0].json == {"turnId": "trn_2"}


def test_a_file_goes_to_the_output_or_to_a_file(stub: Stub, tmp_path: Path):
    content = b"\x00\xff bytes"
    stub.on(f"GET {ONE}/files/a/b.bin", raw(content), raw(content))
    command = [sys.executable, "-m", "handinger", "workers", "retrieve-file", WORKER_ID, "a/b.bin"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == content
    target = tmp_path / "copy"
    done = subprocess.run([*command, "-o", str(target)], capture_output=True, check=True)
    assert (target.read_bytes(), done.stdout) == (content, b"")
    assert done.stderr == f"Wrote {target} (8 B).\n".encode()


def test_a_file_that_cannot_be_written_is_status_2(cli: Cli, stub: Stub):
    stub.on(f"GET {ONE}/files/a", raw(b"x"))
    status, _, err = cli("workers", "retrieve-file", WORKER_ID, "a", "-o", "/no/such/folder/a")
    assert status == 2
    assert "/no/such/folder/a cannot be written" in err


def test_ctrl_c_detaches_and_says_how_to_come_back(
    cli: Cli, stub: Stub, monkeypatch: pytest.MonkeyPatch
):
    hold = threading.Event()
    stub.on(POST, events(*FRAMES[:4], hold=hold))
    told: list[Any] = []

    def write(value: Any, *_: object, **__: object) -> None:
        told.append(value)
        if len(told) == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(output, "write", write)
    monkeypatch.setattr(following, "SECOND_CHANCE_S", 0.0)
    status, _, err = cli("workers", "create", "--input", "a", "--stream")
    hold.set()
    assert (status, told[3]["type"]) == (130, "text-delta")
    come_back = f"handinger workers stream-updates {WORKER_ID} --last-event-id {TURN_ID}-1.0.3.5"
    assert come_back in err
    assert f"handinger workers cancel {WORKER_ID}" in err


def test_ctrl_c_while_waiting_says_where_to_look(stub: Stub):
    arrived, hold = threading.Event(), threading.Event()

    def wait(handler: Any) -> None:
        arrived.set()
        hold.wait(10)
        handler.cut()

    stub.on(POST, wait)
    command = [sys.executable, "-m", "handinger", "workers", "create", "--input", "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert arrived.wait(10)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    hold.set()
    assert (process.returncode, out) == (130, b"")
    assert err == b"Detached; the turn goes on. See it with: handinger workers list\n"
