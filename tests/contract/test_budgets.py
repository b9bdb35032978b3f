"""The caps that hold already: model calls, wall clock, and the answer kept for the end (1.3)."""

import time

import pytest

from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripts
from tests.support.model_server import Stall, Step, ToolCall

LIST = ToolCall("list_files", {})
EXHAUSTED = {"reason": "budget_exhausted"}


def test_low_is_four_model_calls_and_the_last_one_concludes(api: Api, scripts: Scripts):
    instruction = scripts(
        Step(text="again", tool_calls=[LIST]),
        after_last="repeat",
        when_tool_choice_none=Step(text="This is what I have."),
    )
    worker = worker_in(api.create(instruction, budget="low"))
    assert worker["incomplete_details"] == EXHAUSTED
    assert worker["error"] is None
    assert worker["output_text"] == "again\n\nagain\n\nagain\n\nThis is what I have."
    assert worker["usage"]["steps"] == 4
    requests = instruction.requests
    assert len(requests) == 4
    assert [request.tool_choice for request in requests] == [None, None, None, "none"] or [
        request.tool_choice for request in requests
    ] == ["auto", "auto", "auto", "none"]
    assert "Do not call any tool" in str(requests[3].messages[-1]["content"])
    # It knows the tools whose results it has seen.
    assert requests[3].tool_names == requests[0].tool_names

    following = scripts(Step(text="next"))
    assert worker_in(api.go_on(worker["id"], following))["output_text"] == "next"
    # What the server told the model beside the conversation is no part of it.
    assert "Do not call any tool" not in str(following.requests[0].messages[1:])


def test_an_answer_within_the_budget_is_whole(api: Api, scripts: Scripts):
    step = Step(tool_calls=[LIST])
    worker = worker_in(api.create(scripts(step, step, Step(text="done")), budget="low"))
    assert (worker["incomplete_details"], worker["output_text"]) == (None, "done")


def test_tools_that_are_called_in_the_last_call_are_not_run(api: Api, scripts: Scripts):
    write = ToolCall("write_file", {"path": "late.txt", "content": "x"})
    instruction = scripts(
        Step(tool_calls=[LIST]),
        after_last="repeat",
        when_tool_choice_none=Step(text="Here.", tool_calls=[write]),
    )
    worker = worker_in(api.create(instruction, budget="low"))
    assert (worker["incomplete_details"], worker["output_text"]) == (EXHAUSTED, "Here.")
    assert worker["files"] == []
    assert len(instruction.requests) == 4
    following = scripts(Step(text="next"))
    assert worker_in(api.go_on(worker["id"], following))["output_text"] == "next"


@pytest.mark.parametrize(
    ("budget", "calls"),
    [
        ("standard", 20),
        pytest.param("high", 100, marks=pytest.mark.slow),
        (None, 20),
    ],
)
def test_the_number_of_model_calls_is_that_of_the_budget(
    api: Api, scripts: Scripts, budget: str | None, calls: int
):
    instruction = scripts(Step(tool_calls=[LIST]), after_last="repeat")
    fields = {} if budget is None else {"budget": budget}
    worker = worker_in(api.create(instruction, **fields))
    assert worker["incomplete_details"] == EXHAUSTED
    assert len(instruction.requests) == worker["usage"]["steps"] == calls


@pytest.mark.parametrize("budget", ["high", "unlimited"])
def test_larger_budgets_go_on_after_twenty_calls(api: Api, scripts: Scripts, budget: str):
    steps = [Step(tool_calls=[LIST])] * 25
    worker = worker_in(api.create(scripts(*steps, Step(text="done")), budget=budget))
    assert (worker["output_text"], worker["incomplete_details"]) == ("done", None)
    assert worker["usage"]["steps"] == 26


def test_each_turn_has_a_budget_of_its_own(api: Api, scripts: Scripts):
    step = Step(tool_calls=[LIST])
    worker_id = worker_in(api.create(scripts(step, step, Step(text="one")), budget="low"))["id"]
    worker = worker_in(api.go_on(worker_id, scripts(step, step, Step(text="two")), budget="low"))
    assert (worker["output_text"], worker["incomplete_details"]) == ("two", None)


def test_a_model_that_does_not_answer_is_cut_off_and_the_turn_concludes(
    narrow_api: Api, scripts: Scripts
):
    """On this server `low` is two seconds and as many calls as one likes."""
    instruction = scripts(
        Step(text="Thinking.", tool_calls=[LIST]),
        Step(fail_always=Stall()),
        when_tool_choice_none=Step(text="In time."),
    )
    began = time.monotonic()
    worker = worker_in(narrow_api.create(instruction, budget="low"))
    assert 1.5 <= time.monotonic() - began <= 6
    assert worker["incomplete_details"] == EXHAUSTED
    assert worker["error"] is None
    assert worker["output_text"] == "Thinking.\n\nIn time."
    assert worker["usage"]["steps"] == 3
    following = scripts(Step(text="next"))
    assert worker_in(narrow_api.go_on(worker["id"], following))["output_text"] == "next"


def test_the_wall_clock_ends_a_turn_that_cannot_even_conclude(narrow_api: Api, scripts: Scripts):
    """Its concluding call does not answer either."""
    instruction = scripts(
        Step(text="Thinking.", tool_calls=[LIST]),
        Step(fail_always=Stall()),
        when_tool_choice_none=Step(fail_always=Stall()),
    )
    began = time.monotonic()
    worker = worker_in(narrow_api.create(instruction, budget="low"))
    assert 1.9 <= time.monotonic() - began <= 6
    assert (worker["output_text"], worker["incomplete_details"]) == ("Thinking.", EXHAUSTED)
    assert worker["error"] is None
    assert worker["usage"]["durationMs"] >= 1900


@pytest.mark.parametrize("budget", ["low", "unlimited"])
def test_before_the_wall_clock_ends_a_turn_it_concludes(
    narrow_api: Api, scripts: Scripts, budget: str
):
    instruction = scripts(
        Step(tool_calls=[LIST], delay_s=0.1),
        after_last="repeat",
        when_tool_choice_none=Step(text="In time."),
    )
    began = time.monotonic()
    worker = worker_in(narrow_api.create(instruction, budget=budget))
    assert time.monotonic() - began <= 6
    assert (worker["output_text"], worker["incomplete_details"]) == ("In time.", EXHAUSTED)
    calls = instruction.requests
    assert len(calls) > 4
    assert [call.served for call in calls].count("concluding") == 1
    assert calls[-1].served == "concluding"


def test_a_response_that_comes_too_late_calls_no_tool(narrow_api: Api, scripts: Scripts):
    """A fifth of the time is kept for the concluding call."""
    write = ToolCall("write_file", {"path": "late.txt", "content": "x"})
    instruction = scripts(
        Step(text="Late.", tool_calls=[write], delay_s=1.9),
        when_tool_choice_none=Step(text="In time."),
    )
    worker = worker_in(narrow_api.create(instruction, budget="low"))
    assert (worker["output_text"], worker["incomplete_details"]) == ("In time.", EXHAUSTED)
    assert worker["files"] == []
    assert instruction.requests[0].client_hung_up
    assert instruction.requests[1].served == "concluding"


def test_the_wall_clock_counts_from_the_first_execution(narrow_api: Api, scripts: Scripts):
    """A turn may wait longer than it may run."""
    holding, instruction = scripts.new(), scripts(Step(tool_calls=[LIST]), Step(text="done"))
    holding.model.script(holding.name, [Step(text="x", delay_s=2.5)])
    worker_id = narrow_api.start(holding)["id"]
    holding.wait_for(1)
    worker = worker_in(narrow_api.go_on(worker_id, instruction, budget="low"))
    assert (worker["output_text"], worker["incomplete_details"]) == ("done", None)
    (_, turn) = narrow_api.turns(worker_id)
    assert turn["usage"]["durationMs"] < 2000
