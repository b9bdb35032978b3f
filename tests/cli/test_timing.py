"""When a schedule fires, as a person writes it."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.sdk.stub import WORKER_ID, Stub, reply

ROUTE = f"POST /api/workers/{WORKER_ID}/schedules"
MADE = {
    "id": "sch_1",
    "type": "delayed",
    "delayInSeconds": 60,
    "input": "Go.",
    "budget": "standard",
    "nextRunAt": "2030-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("arguments", "when"),
    [
        (["--in", "10m"], {"type": "delayed", "delayInSeconds": 600}),
        (["--in", "90"], {"type": "delayed", "delayInSeconds": 90}),
        (["--in", "1h30m"], {"type": "delayed", "delayInSeconds": 5400}),
        (["--every", "1h"], {"type": "interval", "intervalSeconds": 3600}),
        (["--every", "2 d"], {"type": "interval", "intervalSeconds": 172_800}),
        (["--every", "1w"], {"type": "interval", "intervalSeconds": 604_800}),
        (["--at", "2030-05-01T09:00Z"], {"type": "scheduled", "date": "2030-05-01T09:00Z"}),
        (
            ["--at", "2030-05-01T09:00", "--timezone", "Europe/Berlin"],
            {"type": "scheduled", "date": "2030-05-01T09:00", "timezone": "Europe/Berlin"},
        ),
        (["--cron", "0 9 * * 1-5"], {"type": "cron", "cron": "0 9 * * 1-5"}),
        (
            ["--cron", "@daily", "--timezone", "Europe/Berlin"],
            {"type": "cron", "cron": "@daily", "timezone": "Europe/Berlin"},
        ),
        (
            ["--when", "{delayInSeconds: 60, type: delayed}"],
            {"type": "delayed", "delayInSeconds": 60},
        ),
        (
            ["--when", '{"type": "delayed", "delayInSeconds": 60}'],
            {"type": "delayed", "delayInSeconds": 60},
        ),
        # A date stays as it is written.
        (
            ["--when", "{type: scheduled, date: 2030-05-01T09:00:00}"],
            {"type": "scheduled", "date": "2030-05-01T09:00:00"},
        ),
        (
            ["--when", "type: cron\ncron: '*/5 * * * *'"],
            {"type": "cron", "cron": "*/5 * * * *"},
        ),
    ],
)
def test_each_way_to_say_when(cli: Cli, stub: Stub, arguments: list[str], when: dict[str, Any]):
    stub.on(ROUTE, reply(MADE))
    status, out, err = cli("workers:schedules", "create", WORKER_ID, "--input", "Go.", *arguments)
    assert (status, json.loads(out), err) == (0, MADE, "")
    assert stub.requests[0].json == {"input": "Go.", "when": when, "budget": "standard"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "nothing says when: give one of --when, --at, --in, --cron, --every"),
        (["--in", "1m", "--at", "now"], "--at and --in exclude each other"),
        (["--in", "soon"], "--in is a time such as"),
        (["--in", "1h30"], "a number without its unit"),
        (["--in", ""], "--in is a time such as"),
        (["--every", "5 parsecs"], "--every is a time such as"),
        (["--in", "1m", "--timezone", "UTC"], "--timezone belongs to --cron"),
        (["--when", "{"], "--when is neither JSON nor YAML"),
        (["--when", "soon"], "--when must be an object"),
        (["--when", "{type: cron, cron: * * * * *}"], "begins with * needs quotes"),
        (["--when", "!!python/object/apply:os.system [id]"], "--when is neither JSON nor YAML"),
    ],
)
def test_what_says_no_time_is_refused(cli: Cli, stub: Stub, arguments: list[str], expected: str):
    status, out, err = cli("workers:schedules", "create", WORKER_ID, "--input", "Go.", *arguments)
    assert (status, out) == (2, "")
    assert expected.lower() in err.lower()
    assert stub.requests == []


ONE = f"/api/workers/{WORKER_ID}/schedules/sch_1"


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["--pause"], {"paused": True}),
        (["--resume"], {"paused": False}),
        (["--every", "1h"], {"when": {"type": "interval", "intervalSeconds": 3600}}),
        (["--input", "Go on.", "--budget", "low"], {"input": "Go on.", "budget": "low"}),
    ],
)
def test_a_schedule_is_changed_by_what_is_given(
    cli: Cli, stub: Stub, arguments: list[str], sent: dict[str, Any]
):
    stub.on(f"PATCH {ONE}", reply(MADE))
    status, out, err = cli("workers:schedules", "update", WORKER_ID, "sch_1", *arguments)
    assert (status, json.loads(out), err) == (0, MADE, "")
    assert stub.requests[0].json == sent


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Nothing is to change: give --input, --budget, --pause, --resume or --when, --at,"),
        (["--pause", "--in", "1m", "--every", "1h"], "--in and --every exclude each other"),
    ],
)
def test_a_change_that_changes_nothing_is_refused(
    cli: Cli, stub: Stub, arguments: list[str], expected: str
):
    status, out, err = cli("workers:schedules", "update", WORKER_ID, "sch_1", *arguments)
    assert (status, out, expected in err) == (2, "", True), err
    assert stub.requests == []


def test_what_came_of_a_schedule_is_told_to_a_person(cli: Cli, stub: Stub):
    skipped = {"reason": "missed", "message": "No server ran.", "times": 3}
    firings = [
        {"dueAt": "2030-01-02T00:00:00Z", "firedAt": "", "turnId": None, "skipped": skipped},
        {"dueAt": "2030-01-01T00:00:00Z", "firedAt": "", "turnId": "trn_1", "skipped": None},
    ]
    told = {**MADE, "paused": True, "firings": firings, "nextRuns": ["2030-01-03T00:00:00Z"]}
    stub.on(f"GET {ONE}", reply(told))
    _, out, _ = cli("workers:schedules", "retrieve", WORKER_ID, "sch_1", "--format", "pretty")
    lines = [line.split() for line in out.splitlines()]
    assert "paused" in lines[1]
    assert lines[2][0] == "next:"
    assert lines[4] == ["was", "due", "what", "came", "of", "it"]
    assert lines[5][2:] == ["missed,", "3", "times:", "No", "server", "ran."]
    assert lines[6][2:] == ["trn_1"]


def test_schedules_are_listed_and_cancelled(cli: Cli, stub: Stub):
    told = {"schedules": [MADE, {**MADE, "id": "sch_2"}], "workerId": WORKER_ID}
    path = f"/api/workers/{WORKER_ID}/schedules"
    stub.on(f"GET {path}", *[reply(told)] * 3)
    stub.on(f"DELETE {path}/sch_1", reply({"cancelled": True}))
    assert json.loads(cli("workers:schedules", "list", WORKER_ID)[1]) == told
    _, out, _ = cli(
        "workers:schedules", "list", "--worker-id", WORKER_ID, "--max-items", "1", "--format=jsonl"
    )
    assert [json.loads(line) for line in out.splitlines()] == [MADE]
    _, out, _ = cli("workers:schedules", "list", WORKER_ID, "--format", "pretty")
    assert out.splitlines()[1].split(maxsplit=1)[0] == "sch_1"
    assert "once, after 1m" in out
    arguments = ["--worker-id", WORKER_ID, "--schedule-id", "sch_1"]
    status, out, _ = cli("workers:schedules", "cancel", *arguments)
    assert (status, json.loads(out)) == (0, {"cancelled": True})
