"""The `Worker` object: its fields, their types, and what holds at every moment (1.1)."""

import time
from datetime import UTC, datetime

import httpx2
import psycopg
import pytest

from tests.contract.wire import (
    WORKER_FIELDS,
    check_never_smaller,
    check_sums,
    check_worker,
    error_in,
    turn_in,
    worker_in,
    workers_in,
)
from tests.contract.world import Api, Scripts, wait_until
from tests.support.model_server import Step, ToolCall, Usage


def test_a_worker_has_exactly_the_fields_of_the_contract(api: Api, scripts: Scripts):
    instruction = scripts(
        Step(
            text="Writing.", tool_calls=[ToolCall("write_file", {"path": "a.txt", "content": "é"})]
        ),
        Step(text="Written."),
    )
    before = int(time.time())
    worker = worker_in(api.create(instruction))
    assert set(worker) == WORKER_FIELDS
    assert worker["object"] == "worker"
    assert isinstance(worker["created_at"], int)
    assert before <= worker["created_at"] <= time.time()
    assert (worker["status"], worker["running"]) == ("completed", False)
    assert worker["error"] is None
    assert worker["incomplete_details"] is None
    assert worker["files"] == [
        {
            "filename": "a.txt",
            "mediaType": "text/plain",
            "url": f"{api.server.base_url}/api/workers/{worker['id']}/files/a.txt",
            "size": 2,
        }
    ]
    assert worker["sources"] == []


def test_output_has_one_item_per_model_response_that_has_text(api: Api, scripts: Scripts):
    call = ToolCall("list_files", {})
    instruction = scripts(
        Step(text="One.", tool_calls=[call]), Step(tool_calls=[call]), Step(text="Three.\nEnd.")
    )
    worker = worker_in(api.create(instruction))
    assert [item["content"][0]["text"] for item in worker["output"]] == ["One.", "Three.\nEnd."]
    for item in worker["output"]:
        assert item["id"].startswith("msg_")
        assert {**item, "id": "", "content": ""} == {
            "id": "",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": "",
        }
    assert worker["output_text"] == "One.\n\nThree.\nEnd."


def test_output_is_of_the_turn_that_runs_else_of_the_last_that_ended(api: Api, scripts: Scripts):
    worker_id = worker_in(api.create(scripts(Step(text="first"))))["id"]
    second, third = scripts.held("second"), scripts.held("third")
    api.queue(worker_id, second)
    second.wait_for(1)
    assert worker_in(api.client.get(f"/api/workers/{worker_id}"))["output_text"] == ""
    api.queue(worker_id, third)
    second.open()
    third.wait_for(1)
    assert api.worker(worker_id)["output_text"] == ""
    third.open()
    assert api.wait_until_idle(worker_id)["output_text"] == "third"


def test_output_stays_that_of_the_last_turn_while_the_next_one_waits(
    narrow_api: Api, scripts: Scripts
):
    worker_id = worker_in(narrow_api.create(scripts(Step(text="first"))))["id"]
    holding = scripts.held()
    holder_id = narrow_api.start(holding)["id"]
    holding.wait_for(1)
    narrow_api.queue(worker_id, scripts(Step(text="second")))
    worker = worker_in(narrow_api.client.get(f"/api/workers/{worker_id}"))
    assert (worker["status"], worker["running"]) == ("pending", True)
    assert worker["output_text"] == "first"
    holding.open()
    assert narrow_api.wait_until_idle(worker_id)["output_text"] == "second"
    narrow_api.wait_until_idle(holder_id)


def test_a_worker_that_was_accepted_and_not_started_is_pending(narrow_api: Api, scripts: Scripts):
    holding = scripts.held()
    holder_id = narrow_api.start(holding)["id"]
    holding.wait_for(1)
    worker = narrow_api.start(scripts(Step(text="late")))
    check_worker(worker)
    assert (worker["status"], worker["running"]) == ("pending", True)
    assert (worker["output"], worker["output_text"]) == ([], "")
    assert (worker["error"], worker["incomplete_details"]) == (None, None)
    assert [message["role"] for message in worker["messages"]] == ["user"]
    holding.open()
    assert narrow_api.wait_until_idle(worker["id"])["output_text"] == "late"
    narrow_api.wait_until_idle(holder_id)


def test_messages_are_the_whole_conversation_oldest_first(api: Api, scripts: Scripts):
    first, second = scripts(Step(text="one")), scripts(Step(text="two"))
    worker_id = worker_in(api.create(first))["id"]
    worker = worker_in(api.go_on(worker_id, second))
    told = [(message["role"], message["parts"][-1]["text"]) for message in worker["messages"]]
    assert told == [
        ("user", first.input),
        ("assistant", "one"),
        ("user", second.input),
        ("assistant", "two"),
    ]
    ids = [message["id"] for message in worker["messages"]]
    assert ids == sorted(set(ids))
    turn_ids = [message["metadata"]["turnId"] for message in worker["messages"]]
    assert turn_ids[0] == turn_ids[1] != turn_ids[2] == turn_ids[3]
    assert worker["messages"][1]["metadata"]["usage"]["steps"] == 1


def test_messages_false_leaves_the_messages_out_of_every_answer_with_a_worker(
    api: Api, scripts: Scripts
):
    quiet = {"messages": "false"}
    body = {"input": scripts(Step(text="one")).input}
    created = worker_in(api.client.post("/api/workers", json=body, params=quiet))
    path = f"/api/workers/{created['id']}"
    at_once = {"Prefer": "respond-async"}
    answers = [
        created,
        worker_in(api.client.get(path, params=quiet)),
        worker_in(api.client.post(path, json=body, params=quiet)),
        worker_in(api.client.post(path, json=body, params=quiet, headers=at_once), status=202),
        worker_in(
            api.client.post("/api/workers", json=body, params=quiet, headers=at_once), status=202
        ),
        worker_in(api.client.post(f"{path}/cancel", params=quiet)),
    ]
    assert [answer["messages"] for answer in answers] == [[]] * len(answers)
    streamed = api.client.post(path, json={**body, "stream": True}, params=quiet)
    assert '"messages":[]' in streamed.text
    assert worker_in(api.client.get(path, params={"messages": "true"}))["messages"]


def test_metadata_is_what_the_caller_gave_and_the_model(api: Api, scripts: Scripts):
    given = {
        "team": "ä\u2028",
        "nested": {"list": [1, 2.5, None, True, {"": ""}]},
        "big": 2**80,
        "tiny": 1e-300,
    }
    worker = worker_in(api.create(scripts(Step(text="x")), metadata=given))
    assert worker["metadata"] == {**given, "model": "openai-chat:scripted"}
    assert api.worker(worker["id"])["metadata"] == worker["metadata"]
    assert worker_in(api.create(scripts(Step(text="x"))))["metadata"] == {
        "model": "openai-chat:scripted"
    }


def test_metadata_that_names_a_model_is_told_the_one_that_ran(api: Api, scripts: Scripts):
    worker = worker_in(api.create(scripts(Step(text="x")), metadata={"model": "mine", "a": 1}))
    assert worker["metadata"] == {"model": "openai-chat:scripted", "a": 1}


def test_files_are_the_published_ones(api: Api, scripts: Scripts):
    def write(path: str) -> ToolCall:
        return ToolCall("write_file", {"path": path, "content": path})

    paths = ["b/c d.md", "scratchpad/x.txt", "inbox/y.txt", ".hidden", "b/.hidden/z", "a.html"]
    instruction = scripts(
        Step(tool_calls=[write(path) for path in paths]),
        Step(tool_calls=[ToolCall("publish_file", {"path": "scratchpad/x.txt"})]),
        Step(text="done"),
    )
    worker = worker_in(api.create(instruction))
    assert {file["filename"]: file["size"] for file in worker["files"]} == {
        path: len(path) for path in ("b/c d.md", "a.html", "scratchpad/x.txt")
    }
    for file in worker["files"]:
        answer = api.client.get(file["url"])
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == file["mediaType"]


def test_usage_adds_up_over_the_whole_life(api: Api, scripts: Scripts):
    usage = Usage(prompt_tokens=100, completion_tokens=30, cached_tokens=40, reasoning_tokens=10)
    instruction = scripts(
        Step(text="a", tool_calls=[ToolCall("list_files", {})], usage=usage),
        Step(text="b", usage=usage),
    )
    worker_id = worker_in(api.create(instruction))["id"]
    worker = worker_in(api.go_on(worker_id, scripts(Step(text="c", usage=usage))))
    told = worker["usage"]
    assert told["durationMs"] > 0
    assert {**told, "durationMs": 0} == {
        "inputTokens": 300,
        "outputTokens": 90,
        "reasoningTokens": 30,
        "cacheReadTokens": 120,
        "cacheWriteTokens": 0,
        "totalTokens": 390,
        "steps": 3,
        "costUsd": 0.0,  # The model runs on this machine.
        "credits": 0,
        "durationMs": 0,
    }
    turns = api.turns(worker_id)
    for name in told:
        assert sum(turn["usage"][name] for turn in turns) == told[name], name


@pytest.mark.parametrize(
    "nano",
    [
        (1, 0, 0, 0),
        (123_456_789, 987_654_321, 5, 7),
        (0, 0, 0, 10**15),  # a million dollars
        (333_333_333, 333_333_333, 333_333_333, 1),
    ],
)
def test_cost_is_the_sum_of_the_four_costs(
    api: Api, scripts: Scripts, database: psycopg.Connection, nano: tuple[int, int, int, int]
):
    worker_id = worker_in(api.create(scripts(Step(text="x"))))["id"]
    for table, column in (("workers", "id"), ("turns", "worker_id")):
        database.execute(
            f"UPDATE {table} SET model_cost_nano = %s, tool_cost_nano = %s,"
            f" sandbox_cost_nano = %s, internal_cost_nano = %s WHERE {column} = %s".encode(),
            [*nano, worker_id],
        )
    (turn,) = api.turns(worker_id)
    for told in (worker_in(api.client.get(f"/api/workers/{worker_id}")), turn):
        check_sums(told)
        assert told["costs"] == {
            "modelCostUsd": nano[0] / 1e9,
            "toolCostUsd": nano[1] / 1e9,
            "sandboxCostUsd": nano[2] / 1e9,
            "internalCostUsd": nano[3] / 1e9,
        }
        assert told["usage"]["costUsd"] == sum(nano) / 1e9


def test_the_invariants_hold_at_every_moment_of_a_turn(api: Api, scripts: Scripts):
    """Watches a worker with two turns from acceptance to end, between any two steps."""
    usage = Usage(prompt_tokens=10, completion_tokens=5, reasoning_tokens=2, cached_tokens=3)
    call = ToolCall("write_file", {"path": "a.txt", "content": "x"})
    instruction = scripts.new()
    steps = [
        Step(text=f"text {n}", tool_calls=[call], usage=usage, gate=instruction.gate(n))
        for n in range(3)
    ]
    last = Step(text="text 3", usage=usage, gate=instruction.gate(3))
    instruction.model.script(instruction.name, [*steps, last])

    worker = api.start(instruction)
    worker_id = worker["id"]
    waiting_id = api.queue(worker_id, scripts(Step(text="afterwards", usage=usage)))
    path = f"/api/workers/{worker_id}"
    earlier = worker

    def look() -> dict[str, object]:
        nonlocal earlier
        now = worker_in(api.client.get(path))
        check_never_smaller(earlier, now)
        turn_in(api.client.get(f"{path}/turns/{waiting_id}"))
        listed = workers_in(api.client.get("/api/workers", params={"limit": 1}))["workers"]
        assert listed[0]["id"] == worker_id
        check_never_smaller(now, listed[0])
        earlier = listed[0]
        return now

    for step in range(4):
        instruction.wait_for(step + 1)
        for _ in range(3):
            told = look()
            assert (told["status"], told["running"]) == ("running", True)
            assert told["output_text"] == "\n\n".join(f"text {n}" for n in range(step))
            told_usage = told["usage"]
            assert isinstance(told_usage, dict)
            assert (told_usage["steps"], told_usage["inputTokens"]) == (step, step * 10)
        instruction.open(step)
        # Between the steps things move; every look sees one moment of it.
        look()
    wait_until(lambda: not look()["running"])
    ended = worker_in(api.client.get(path))
    check_never_smaller(earlier, ended)
    assert ended["usage"]["steps"] == 5
    assert ended["usage"]["totalTokens"] == 75
    assert ended["output_text"] == "afterwards"


def test_the_url_of_a_worker_leads_to_a_page_that_says_how_to_read_it(api: Api, scripts: Scripts):
    worker = worker_in(api.create(scripts(Step(text="A secret."))))
    page = httpx2.get(worker["url"])
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert f"handinger workers retrieve {worker['id']}" in page.text
    assert f"{api.server.base_url}/api/workers/{worker['id']}" in page.text
    assert "A secret." not in page.text
    # It tells nobody which workers there are.
    other = worker["id"][:-4] + "0000"
    unknown = httpx2.get(worker["url"].replace(worker["id"], other))
    assert unknown.text == page.text.replace(worker["id"], other)


@pytest.mark.parametrize("worker_id", ["x", "wrk_", "<script>", "wrk_%3Cscript%3E"])
def test_the_page_of_what_can_be_no_worker_is_not_found(api: Api, worker_id: str):
    error_in(httpx2.get(f"{api.server.base_url}/workers/{worker_id}"), 404, "not_found")


def test_the_model_is_told_the_date_its_time_zone_workspace_and_budget(api: Api, scripts: Scripts):
    instruction = scripts(Step(text="x"))
    before = datetime.now(UTC)
    worker_in(api.create(instruction, budget="low"))
    told = instruction.requests[0].messages[0]["content"]
    days = {f"{day:%A}, {day.day} {day:%B %Y}" for day in (before, datetime.now(UTC))}
    assert any(f"Today is {day}." in str(told) for day in days)
    for what in ("time zone is UTC", "workspace", "at most 4 steps, 0.05 USD, 2 minutes"):
        assert what in str(told)
