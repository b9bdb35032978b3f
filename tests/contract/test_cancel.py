"""Stopping turns (1.2)."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx2
import pytest

from tests.contract.wire import error_in, worker_in
from tests.contract.world import Api, Scripted, Scripts, chunks_of, wait_until
from tests.support.model_server import Step, ToolCall

CANCELLED = {"reason": "cancelled"}


def _cancel(api: Api, worker_id: str, **body: object) -> httpx2.Response:
    return api.client.post(f"/api/workers/{worker_id}/cancel", json=body)


def test_a_turn_is_stopped_in_the_middle_of_a_model_call(api: Api, scripts: Scripts):
    instruction = scripts.held()
    answer = api.beside(api.create, instruction)
    instruction.wait_for(1)
    worker_id = api.client.get("/api/workers?limit=1").json()["workers"][0]["id"]
    worker = worker_in(_cancel(api, worker_id))
    # It answers once the turn has stopped, and a cancelled turn is no failure.
    assert (worker["status"], worker["running"]) == ("completed", False)
    assert (worker["error"], worker["incomplete_details"]) == (None, CANCELLED)
    blocked = worker_in(answer.result())
    assert (blocked["incomplete_details"], blocked["output_text"]) == (CANCELLED, "")
    (turn,) = api.turns(worker_id)
    assert (turn["status"], turn["incomplete_details"]) == ("completed", CANCELLED)
    # The model's provider is not kept working for nothing.
    (request,) = instruction.model.wait_for_requests(instruction.name, 1, ended=True)
    assert request.client_hung_up


def test_the_body_of_a_cancel_may_be_missing(api: Api, scripts: Scripts):
    instruction = scripts.held()
    worker_id = api.start(instruction)["id"]
    instruction.wait_for(1)
    worker = worker_in(api.client.post(f"/api/workers/{worker_id}/cancel"))
    assert worker["incomplete_details"] == CANCELLED


def test_the_text_so_far_is_kept_and_the_next_turn_knows_it(api: Api, scripts: Scripts):
    instruction = scripts.new()
    step = Step(
        text=["Once ", "upon ", "a "], gate_after_chunks=(2, instruction.gate()), paced=True
    )
    instruction.model.script(instruction.name, [step])
    with api.client.stream(
        "POST", "/api/workers", json={"input": instruction.input, "stream": True}
    ) as stream:
        worker_id = stream.headers["x-handinger-worker-id"]
        lines = stream.iter_lines()
        told = ""
        while told != "Once upon ":
            line = next(lines)
            if line.startswith("data: "):
                told += json.loads(line[6:]).get("delta", "")
        worker = worker_in(_cancel(api, worker_id))
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert worker["output_text"] == "Once upon "
    assert worker["incomplete_details"] == CANCELLED
    assert [event["type"] for event in rest] == ["text-end", "finish-step", "data-worker", "abort"]
    assert rest[2]["data"] == worker

    following = scripts(Step(text="Sure."))
    assert worker_in(api.go_on(worker_id, following))["output_text"] == "Sure."
    sent = [(m["role"], m["content"]) for m in following.requests[0].messages]
    assert sent[1:] == [
        ("user", instruction.input),
        ("assistant", "Once upon "),
        ("user", following.input),
    ]


def test_the_next_turn_after_a_cancel_is_sent_a_clean_transcript(api: Api, scripts: Scripts):
    """Cancelled while the model is called for the second time, after a tool has run."""
    instruction = scripts.new()
    call = ToolCall("write_file", {"path": "a.txt", "content": "x"})
    instruction.model.script(
        instruction.name,
        [Step(text="First.", tool_calls=[call]), Step(text="never", gate=instruction.gate())],
    )
    worker_id = api.start(instruction)["id"]
    instruction.wait_for(2)
    worker = worker_in(_cancel(api, worker_id))
    assert worker["output_text"] == "First."
    assert [file["filename"] for file in worker["files"]] == ["a.txt"]

    following = scripts(Step(text="ok"))
    worker = worker_in(api.go_on(worker_id, following))
    assert (worker["output_text"], worker["incomplete_details"]) == ("ok", None)
    sent = following.requests[0].messages
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool", "user"]
    _check_transcript(sent)
    assert "Wrote a.txt" in str(sent[3]["content"])


def test_a_cancel_drops_the_turns_that_wait(api: Api, scripts: Scripts):
    running, waiting = scripts.held(), scripts(Step(text="never"))
    worker_id = api.start(running)["id"]
    running.wait_for(1)
    answers = [api.beside(api.go_on, worker_id, waiting) for _ in range(3)]
    wait_until(lambda: len(api.turns(worker_id)) == 4)
    worker = worker_in(_cancel(api, worker_id))
    assert worker["status"] == "completed"
    for answer in answers:
        dropped = worker_in(answer.result())
        assert (dropped["incomplete_details"], dropped["error"]) == (CANCELLED, None)
        assert dropped["output"] == []
    assert all(turn["incomplete_details"] == CANCELLED for turn in api.turns(worker_id))
    assert waiting.requests == []

    following = scripts(Step(text="ok"))
    assert worker_in(api.go_on(worker_id, following))["output_text"] == "ok"
    # What never ran was never said.
    sent = [m["content"] for m in following.requests[0].messages if m["role"] == "user"]
    assert sent == [running.input, following.input]


def test_with_a_turn_id_only_that_turn_is_stopped(api: Api, scripts: Scripts):
    first, second, third = (scripts.held(f"answer {n}") for n in range(3))
    worker_id = api.start(first)["id"]
    first.wait_for(1)
    first_id = api.turns(worker_id)[0]["id"]
    second_id, third_id = api.queue(worker_id, second), api.queue(worker_id, third)

    # One that waits is dropped, and the one that runs goes on.
    worker = worker_in(_cancel(api, worker_id, turnId=second_id))
    assert worker["status"] == "running"
    assert [turn["status"] for turn in api.turns(worker_id)] == ["running", "completed", "pending"]
    # The one that runs is stopped, and the one that waits goes on.
    worker = worker_in(_cancel(api, worker_id, turnId=first_id))
    assert worker["running"] is True
    third.wait_for(1)
    # One that has ended stays so, and a late stop never kills a newer turn.
    for turn_id in (first_id, second_id):
        assert worker_in(_cancel(api, worker_id, turnId=turn_id))["status"] == "running"
    third.open()
    assert api.wait_until_idle(worker_id)["output_text"] == "answer 2"
    assert second.requests == []
    assert [turn["incomplete_details"] for turn in api.turns(worker_id)] == [
        CANCELLED,
        CANCELLED,
        None,
    ]
    assert api.turn(worker_id, third_id)["output_text"] == "answer 2"


def test_cancel_after_the_end_changes_nothing(api: Api, scripts: Scripts):
    created = worker_in(api.create(scripts(Step(text="whole"))))
    assert worker_in(_cancel(api, created["id"])) == created
    turn_id = api.turns(created["id"])[0]["id"]
    assert worker_in(_cancel(api, created["id"], turnId=turn_id)) == created


def test_cancel_may_be_sent_many_times_at_once(api: Api, scripts: Scripts):
    instruction = scripts.held()
    worker_id = api.start(instruction)["id"]
    instruction.wait_for(1)
    answers = [api.beside(_cancel, api, worker_id) for _ in range(6)]
    for answer in answers:
        assert worker_in(answer.result())["incomplete_details"] == CANCELLED
    assert len(api.turns(worker_id)) == 1


@pytest.mark.parametrize("turn_id", ["trn_" + "0" * 32, "trn_x", "x", ""])
def test_a_turn_that_does_not_exist_is_404_and_nothing_stops(
    api: Api, scripts: Scripts, turn_id: str
):
    instruction = scripts.held("whole")
    worker_id = api.start(instruction)["id"]
    instruction.wait_for(1)
    error_in(_cancel(api, worker_id, turnId=turn_id), 404, "not_found")
    instruction.open()
    assert api.wait_until_idle(worker_id)["output_text"] == "whole"


def test_a_turn_of_another_own_worker_is_404_and_nothing_stops(api: Api, scripts: Scripts):
    instruction = scripts.held("whole")
    worker_id = api.start(instruction)["id"]
    instruction.wait_for(1)
    turn_id = api.turns(worker_id)[0]["id"]
    another = worker_in(api.create(scripts(Step(text="x"))))["id"]
    error_in(_cancel(api, another, turnId=turn_id), 404, "not_found")
    instruction.open()
    assert api.wait_until_idle(worker_id)["output_text"] == "whole"


def test_a_reader_of_the_stream_is_told_of_the_cancel(api: Api, scripts: Scripts):
    instruction = scripts.held()
    worker_id = api.start(instruction)["id"]
    instruction.wait_for(1)
    with api.client.stream("GET", f"/api/workers/{worker_id}/stream") as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        types = [json.loads(next(lines)[6:])["type"]]
        worker_in(_cancel(api, worker_id))
        types += [json.loads(line[6:])["type"] for line in lines]
    assert types[:2] == ["data-message", "start"]
    assert types[-2:] == ["data-worker", "abort"]


def test_a_worker_goes_on_well_after_many_cancels(api: Api, scripts: Scripts):
    """Any moment is a good one for a cancel."""
    worker_id = worker_in(api.create(scripts(Step(text="x"))))["id"]
    call = ToolCall("write_file", {"path": "a.txt", "content": "x"})
    moments: list[Callable[[Scripted], object]] = [
        lambda _: None,
        lambda busy: wait_until(lambda: api.worker(worker_id)["status"] != "pending"),
        lambda busy: busy.wait_for(1),
        lambda busy: busy.wait_for(4),
    ]
    for moment in moments * 2:
        busy = scripts(*[Step(text="step", tool_calls=[call]) for _ in range(15)])
        api.queue(worker_id, busy)
        moment(busy)
        assert worker_in(_cancel(api, worker_id))["status"] == "completed"
        following = scripts(Step(text="still here"))
        assert worker_in(api.go_on(worker_id, following))["output_text"] == "still here"
        _check_transcript(following.requests[0].messages)


def _check_transcript(messages: Sequence[Mapping[str, Any]]) -> None:
    """Every tool call has its result right behind it, and no result is without a call."""
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            open_calls.remove(message["tool_call_id"])
            continue
        assert open_calls == []
        open_calls = [call["id"] for call in message.get("tool_calls") or ()]
    assert open_calls == []


def test_a_turn_that_never_began_has_no_message_of_the_agent(api: Api, scripts: Scripts):
    """The AI SDK refuses a conversation with a message that has no parts."""
    holding = scripts.held()
    worker = api.start(holding)
    holding.wait_for(1)
    dropped = api.queue(worker["id"], scripts(Step(text="never")))
    cancelled = worker_in(
        api.client.post(f"/api/workers/{worker['id']}/cancel", json={"turnId": dropped})
    )
    holding.open()
    messages = api.wait_until_idle(worker["id"])["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[2]["metadata"]["turnId"] == dropped
    assert all(message["parts"] for message in [*cancelled["messages"], *messages])
    assert api.turn(worker["id"], dropped)["incomplete_details"] == {"reason": "cancelled"}
    told = [json.loads(chunk) for chunk in chunks_of(api.client.get(watched(worker["id"])))]
    assert [event["data"]["role"] for event in told[:-1]] == ["user", "assistant", "user"]
    assert told[-1]["type"] == "data-worker"
    continued = worker_in(api.go_on(worker["id"], scripts(Step(text="on"))))
    assert continued["output_text"] == "on"


def watched(worker_id: str) -> str:
    return f"/api/workers/{worker_id}/stream"


def test_the_answer_names_the_turn_that_was_stopped(api: Api, scripts: Scripts):
    holding = scripts.held()
    worker = api.start(holding)
    holding.wait_for(1)
    path = f"/api/workers/{worker['id']}/cancel"
    (turn,) = api.turns(worker["id"])
    for _ in range(2):  # The second time nothing runs, and the answer is of the latest turn.
        answer = api.client.post(path)
        assert answer.headers["x-handinger-worker-id"] == worker["id"]
        assert answer.headers["x-handinger-turn-id"] == turn["id"]
    api.go_on(worker["id"], scripts(Step(text="on")))
    late = api.client.post(path, json={"turnId": turn["id"]})
    assert late.headers["x-handinger-turn-id"] == turn["id"]
