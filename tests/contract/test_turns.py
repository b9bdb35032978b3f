"""Running turns: creating, continuing, their order, and how they are read (1.2)."""

import http.client
import json
import threading
from contextlib import closing

import pytest

from tests.contract.wire import error_in, turn_in, turns_in, worker_in
from tests.contract.world import Api, Scripts, chunks_of, wait_until
from tests.support.model_server import Step, ToolCall


def test_creating_runs_the_first_turn_and_answers_when_it_ends(api: Api, scripts: Scripts):
    instruction = scripts.held("made")
    answer = api.beside(api.create, instruction)
    instruction.wait_for(1)
    assert not answer.done()
    instruction.open()
    response = answer.result()
    worker = worker_in(response)
    assert worker["output_text"] == "made"
    assert response.headers["x-handinger-worker-id"] == worker["id"]
    (turn,) = api.turns(worker["id"])
    assert response.headers["x-handinger-turn-id"] == turn["id"]


def test_reading_tells_the_worker_as_of_now(api: Api, scripts: Scripts):
    instruction = scripts.held("made")
    worker_id = api.start(instruction)["id"]
    instruction.wait_for(1)
    assert worker_in(api.client.get(f"/api/workers/{worker_id}"))["status"] == "running"
    instruction.open()
    assert api.wait_until_idle(worker_id)["output_text"] == "made"


def test_continuing_runs_in_the_same_conversation(api: Api, scripts: Scripts):
    first, second = scripts(Step(text="one")), scripts(Step(text="two"))
    worker_id = worker_in(api.create(first))["id"]
    response = api.go_on(worker_id, second)
    worker = worker_in(response)
    assert (worker["id"], worker["output_text"]) == (worker_id, "two")
    assert response.headers["x-handinger-worker-id"] == worker_id
    assert response.headers["x-handinger-turn-id"] == api.turns(worker_id)[1]["id"]
    told = [(m["role"], m["content"]) for m in second.requests[0].messages if m["role"] != "system"]
    assert told == [("user", first.input), ("assistant", "one"), ("user", second.input)]


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({"stream": "true"}, {}),
        ({}, {"Accept": "text/event-stream"}),
        ({}, {"Accept": "application/json;q=0.5, text/event-stream"}),
    ],
)
def test_reading_with_stream_or_its_media_type_streams(
    api: Api, scripts: Scripts, query: dict[str, str], headers: dict[str, str]
):
    worker_id = worker_in(api.create(scripts(Step(text="told"))))["id"]
    response = api.client.get(f"/api/workers/{worker_id}", params=query, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    same = api.client.get(f"/api/workers/{worker_id}/stream")
    assert chunks_of(same) == chunks_of(response)
    assert json.loads(chunks_of(response)[-1])["type"] == "data-worker"


def test_stream_false_in_a_query_is_no_stream(api: Api, scripts: Scripts):
    worker_id = worker_in(api.create(scripts(Step(text="told"))))["id"]
    worker_in(api.client.get(f"/api/workers/{worker_id}", params={"stream": "false"}))


def test_a_post_with_stream_is_answered_by_events_of_its_own_turn(api: Api, scripts: Scripts):
    worker_id = worker_in(api.create(scripts(Step(text="before"))))["id"]
    response = api.go_on(worker_id, scripts(Step(text="streamed")), stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-handinger-worker-id"] == worker_id
    turn_id = response.headers["x-handinger-turn-id"]
    events = [json.loads(chunk) for chunk in chunks_of(response)]
    assert events[0]["messageMetadata"] == {"workerId": worker_id, "turnId": turn_id}
    assert [event["type"] for event in events[-2:]] == ["data-worker", "finish"]
    assert events[-2]["data"] == api.worker(worker_id)
    assert "before" not in "".join(event.get("delta", "") for event in events)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_loses_nothing(api: Api, scripts: Scripts, stream: bool):
    instruction = scripts.held("all the same")
    body = json.dumps({"input": instruction.input, "stream": stream})
    with closing(http.client.HTTPConnection("127.0.0.1", api.server.port, timeout=20)) as client:
        headers = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
        client.request("POST", "/api/workers", body, headers)
        instruction.wait_for(1)
    newest = api.client.get("/api/workers", params={"limit": 1}).json()["workers"][0]
    assert newest["status"] == "running"
    instruction.open()
    assert api.wait_until_idle(newest["id"])["output_text"] == "all the same"
    assert len(instruction.requests) == 1


def test_turns_of_one_worker_run_one_at_a_time_in_the_order_of_acceptance(
    api: Api, scripts: Scripts
):
    held = [scripts.held(f"answer {n}") for n in range(4)]
    worker_id = api.start(held[0])["id"]
    turn_ids = [api.queue(worker_id, instruction) for instruction in held[1:]]
    for number, instruction in enumerate(held):
        instruction.wait_for(1)
        assert [len(other.requests) for other in held] == [1] * (number + 1) + [0] * (3 - number)
        statuses = [turn["status"] for turn in api.turns(worker_id)]
        assert statuses == ["completed"] * number + ["running"] + ["pending"] * (3 - number)
        instruction.open()
    assert api.wait_until_idle(worker_id)["output_text"] == "answer 3"
    assert [turn["id"] for turn in api.turns(worker_id)[1:]] == turn_ids
    assert [turn["output_text"] for turn in api.turns(worker_id)] == [
        f"answer {n}" for n in range(4)
    ]


def test_each_request_gets_the_answer_of_its_own_turn_whatever_waits_behind_it(
    api: Api, scripts: Scripts
):
    first, second, third = (scripts.held(f"answer {n}") for n in range(3))
    worker_id = api.start(first)["id"]
    first.wait_for(1)
    second_answer = api.beside(api.go_on, worker_id, second)
    wait_until(lambda: len(api.turns(worker_id)) == 2)
    third_answer = api.beside(api.go_on, worker_id, third)
    wait_until(lambda: len(api.turns(worker_id)) == 3)
    first.open()
    second.wait_for(1)
    second.open()
    worker = worker_in(second_answer.result())
    assert worker["output_text"] == "answer 1"
    # The worker is not idle: the third turn waits or runs.
    assert worker["status"] in ("pending", "running")
    assert worker["running"] is True
    third.wait_for(1)
    assert not third_answer.done()
    third.open()
    worker = worker_in(third_answer.result())
    assert (worker["output_text"], worker["status"]) == ("answer 2", "completed")


def test_workers_do_not_wait_for_each_other(api: Api, scripts: Scripts):
    held = [scripts.held() for _ in range(5)]
    workers = [api.start(instruction) for instruction in held]
    for instruction in held:
        instruction.wait_for(1)
    assert worker_in(api.create(scripts(Step(text="free"))))["output_text"] == "free"
    for instruction, worker in zip(held, workers, strict=True):
        instruction.open()
        api.wait_until_idle(worker["id"])


def test_at_most_twenty_turns_wait_and_the_next_gets_409(api: Api, scripts: Scripts):
    running = scripts.held()
    worker_id = api.start(running)["id"]
    running.wait_for(1)
    quick = scripts(Step(text="x"))
    for _ in range(20):
        api.queue(worker_id, quick)
    for headers in ({}, {"Prefer": "respond-async"}):
        response = api.client.post(
            f"/api/workers/{worker_id}", json={"input": "one more"}, headers=headers
        )
        error_in(response, 409, "worker_busy")
        assert response.headers["x-should-retry"] == "false"
    assert len(api.turns(worker_id)) == 21
    worker = worker_in(api.client.post(f"/api/workers/{worker_id}/cancel"))
    assert worker["status"] == "completed"
    assert worker_in(api.go_on(worker_id, quick))["output_text"] == "x"


def test_instructions_that_arrive_together_are_all_carried_out_once(api: Api, scripts: Scripts):
    first = scripts.held()
    worker_id = api.start(first)["id"]
    quick = [scripts(Step(text=f"answer {n}")) for n in range(12)]
    barrier = threading.Barrier(len(quick))

    def send(number: int) -> str:
        barrier.wait()
        return worker_in(api.go_on(worker_id, quick[number]))["output_text"]

    answers = [api.beside(send, number) for number in range(len(quick))]
    wait_until(lambda: len(api.turns(worker_id)) == 13)
    first.open()
    assert [answer.result() for answer in answers] == [f"answer {n}" for n in range(12)]
    assert all(len(instruction.requests) == 1 for instruction in quick)


@pytest.mark.parametrize(
    "preference",
    ["respond-async", "Respond-Async", "respond-async, wait=10", 'foo="bar", respond-async;x=1'],
)
def test_respond_async_answers_202_at_once(api: Api, scripts: Scripts, preference: str):
    instruction = scripts.held()
    response = api.client.post(
        "/api/workers", json={"input": instruction.input}, headers={"Prefer": preference}
    )
    worker = worker_in(response, status=202)
    assert worker["running"] is True
    assert response.headers["preference-applied"] == "respond-async"
    assert response.headers["x-handinger-worker-id"] == worker["id"]
    assert response.headers["x-handinger-turn-id"].startswith("trn_")
    instruction.open()
    api.wait_until_idle(worker["id"])
    again = api.client.post(
        f"/api/workers/{worker['id']}",
        json={"input": scripts(Step(text="x")).input},
        headers={"Prefer": preference},
    )
    assert worker_in(again, status=202)["id"] == worker["id"]
    api.wait_until_idle(worker["id"])


@pytest.mark.parametrize("preference", ["wait=10", "respond-asynchronously", "", "return=minimal"])
def test_other_preferences_change_nothing(api: Api, scripts: Scripts, preference: str):
    response = api.client.post(
        "/api/workers",
        json={"input": scripts(Step(text="waited")).input},
        headers={"Prefer": preference},
    )
    assert worker_in(response)["output_text"] == "waited"


@pytest.mark.parametrize("budget", ["low", "standard", "high", "unlimited"])
def test_a_turn_tells_its_budget_and_the_default_is_standard(
    api: Api, scripts: Scripts, budget: str
):
    worker_id = worker_in(api.create(scripts(Step(text="x")), budget=budget))["id"]
    worker_in(api.go_on(worker_id, scripts(Step(text="x"))))
    assert [turn["budget"] for turn in api.turns(worker_id)] == [budget, "standard"]


def test_a_turn_tells_all_about_itself_from_waiting_to_its_end(api: Api, scripts: Scripts):
    first, second = scripts.held("one"), scripts.held("two")
    worker_id = api.start(first)["id"]
    first.wait_for(1)
    turn_id = api.queue(worker_id, second, budget="low")
    path = f"/api/workers/{worker_id}/turns/{turn_id}"
    waiting = turn_in(api.client.get(path))
    assert (waiting["status"], waiting["startedAt"], waiting["endedAt"]) == ("pending", None, None)
    assert waiting["workerId"] == worker_id
    assert waiting["input"] == second.input
    assert (waiting["budget"], waiting["source"]) == ("low", "api")
    first.open()
    second.wait_for(1)
    assert turn_in(api.client.get(path))["status"] == "running"
    second.open()
    api.wait_until_idle(worker_id)
    ended = turn_in(api.client.get(path))
    assert (ended["status"], ended["output_text"]) == ("completed", "two")
    assert (ended["error"], ended["incomplete_details"]) == (None, None)
    assert ended["usage"]["steps"] == 1
    assert ended["usage"]["totalTokens"] > 0


def test_the_input_of_a_turn_is_trimmed(api: Api, scripts: Scripts):
    instruction = scripts(Step(text="x"))
    worker = worker_in(api.create(f" \n\t {instruction.input}\r\n "))
    assert api.turns(worker["id"])[0]["input"] == instruction.input
    assert worker["messages"][0]["parts"] == [{"type": "text", "text": instruction.input}]


def test_turns_are_listed_newest_first_in_pages(api: Api, scripts: Scripts):
    quick = scripts(Step(text="x"))
    worker_id = worker_in(api.create(quick))["id"]
    for _ in range(4):
        worker_in(api.go_on(worker_id, quick))
    path = f"/api/workers/{worker_id}/turns"
    everything = turns_in(api.client.get(path))
    assert everything["nextCursor"] is None
    ids = [turn["id"] for turn in everything["turns"]]
    assert len(ids) == 5
    assert ids == sorted(ids, reverse=True)
    seen: list[str] = []
    query: dict[str, str | int] = {"limit": 2}
    sizes: list[int] = []
    while True:
        page = turns_in(api.client.get(path, params=query))
        sizes.append(len(page["turns"]))
        seen += [turn["id"] for turn in page["turns"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert (seen, sizes) == (ids, [2, 2, 1])


def test_turns_are_listed_by_status(api: Api, scripts: Scripts):
    quick, held = scripts(Step(text="x")), scripts.held()
    worker_id = worker_in(api.create(quick))["id"]
    running_id = api.queue(worker_id, held)
    held.wait_for(1)
    waiting_id = api.queue(worker_id, quick)

    def listed(status: str) -> list[str]:
        path = f"/api/workers/{worker_id}/turns"
        page = turns_in(api.client.get(path, params={"status": status}))
        return [turn["id"] for turn in page["turns"]]

    assert listed("running") == [running_id]
    assert listed("pending") == [waiting_id]
    assert len(listed("completed")) == 1
    held.open()
    api.wait_until_idle(worker_id)
    assert len(listed("completed")) == 3


def test_a_turn_of_another_worker_is_not_found(api: Api, scripts: Scripts):
    quick = scripts(Step(text="x"))
    mine, yours = (worker_in(api.create(quick))["id"] for _ in range(2))
    turn_id = api.turns(yours)[0]["id"]
    error_in(api.client.get(f"/api/workers/{mine}/turns/{turn_id}"), 404, "not_found")


def test_a_running_turn_shows_what_is_stored_of_its_text(api: Api, scripts: Scripts):
    scripted = scripts.new()
    call = ToolCall("list_files", {})
    scripted.model.script(
        scripted.name,
        [Step(text="I look.", tool_calls=[call]), Step(text="Done.", gate=scripted.gate())],
    )
    worker = api.start(scripted)
    scripted.wait_for(2)
    (listed,) = api.turns(worker["id"])
    turn = api.turn(worker["id"], listed["id"])
    for each in (listed, turn):
        assert (each["status"], each["output_text"]) == ("running", "I look.")
        assert each["usage"]["steps"] == 1
    assert turn["output_text"] == api.worker(worker["id"])["output_text"]
    scripted.open()
    api.wait_until_idle(worker["id"])
    assert api.turn(worker["id"], listed["id"])["output_text"] == "I look.\n\nDone."
