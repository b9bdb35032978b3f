"""What a turn tells when its model fails, and that the next one works (1.2)."""

import pytest
from pydantic import JsonValue

from tests.contract.wire import check_message, worker_in
from tests.contract.world import Api, Scripted, Scripts
from tests.support.model_server import Failure, HangUp, HttpError, Malformed, Step, ToolCall, Usage

SECRET = "sk-scripted-0000000000"  # What the server was given as OPENAI_API_KEY.


def _next_turn_works(api: Api, scripts: Scripts, worker_id: str) -> Scripted:
    following = scripts(Step(text="fine again"))
    worker = worker_in(api.go_on(worker_id, following))
    assert (worker["output_text"], worker["error"]) == ("fine again", None)
    return following


@pytest.mark.parametrize(
    "failure",
    [
        HttpError(400, body="bad parameter"),
        HttpError(401, body=f"Incorrect API key provided: {SECRET}"),
        HttpError(403),
        HttpError(404, body="no such model"),
        HttpError(413),
        HttpError(422),
        HttpError(400, body={"nothing": ["one", "expects"]}),
    ],
)
def test_a_call_that_is_refused_for_good_ends_the_turn_with_an_error(
    api: Api, scripts: Scripts, failure: HttpError
):
    instruction = scripts(Step(fail_always=failure))
    worker = worker_in(api.create(instruction))
    assert (worker["status"], worker["running"]) == ("completed", False)
    assert worker["error"]["code"] == "model_error"
    assert worker["error"]["message"].startswith("The model failed: ")
    assert SECRET not in worker["error"]["message"]
    assert worker["incomplete_details"] is None
    assert (worker["output"], worker["output_text"]) == ([], "")
    assert len(instruction.requests) == 1
    (turn,) = api.turns(worker["id"])
    assert turn["error"] == worker["error"]
    following = _next_turn_works(api, scripts, worker["id"])
    sent = [(m["role"], m["content"]) for m in following.requests[0].messages[1:]]
    assert [content for role, content in sent if role == "user"] == [
        instruction.input,
        following.input,
    ]


def test_the_text_before_the_failure_is_kept(api: Api, scripts: Scripts):
    call = ToolCall("write_file", {"path": "a.txt", "content": "x"})
    instruction = scripts(Step(text="So far.", tool_calls=[call]), Step(fail_always=HttpError(400)))
    worker = worker_in(api.create(instruction))
    assert worker["error"]["code"] == "model_error"
    assert worker["output_text"] == "So far."
    assert [file["filename"] for file in worker["files"]] == ["a.txt"]
    following = _next_turn_works(api, scripts, worker["id"])
    roles = [message["role"] for message in following.requests[0].messages]
    assert roles == ["system", "user", "assistant", "tool", "user"]


@pytest.mark.parametrize("failure", [HttpError(500), HttpError(503), HangUp(), Malformed()])
def test_a_failure_that_may_pass_is_repeated_until_it_is_clear_that_it_does_not(
    narrow_api: Api, scripts: Scripts, failure: Failure
):
    """This server repeats a call once."""
    instruction = scripts(Step(text="never", fail_always=failure))
    worker = worker_in(narrow_api.create(instruction))
    assert worker["error"]["code"] == "model_error"
    assert len(instruction.requests) == 2
    _next_turn_works(narrow_api, scripts, worker["id"])


def test_a_failure_that_passes_is_not_seen(api: Api, scripts: Scripts):
    instruction = scripts(
        Step(text="at last", attempts=[HttpError(500), HangUp()], usage=Usage(prompt_tokens=7))
    )
    worker = worker_in(api.create(instruction))
    assert (worker["output_text"], worker["error"]) == ("at last", None)
    assert len(worker["messages"]) == 2
    check_message(worker["messages"][1])
    assert len(instruction.requests) == 3
    assert worker["usage"]["inputTokens"] == 7


def test_a_failure_after_a_tool_repeats_the_call_and_not_the_tool(api: Api, scripts: Scripts):
    write = ToolCall("write_file", {"path": "a.txt", "content": "x"})
    instruction = scripts(
        Step(text="Writing.", tool_calls=[write, ToolCall("list_files", {})]),
        Step(text="at last", attempts=[HttpError(500), HangUp()]),
    )
    worker = worker_in(api.create(instruction))
    assert (worker["output_text"], worker["error"]) == ("Writing.\n\nat last", None)
    told = [part["type"] for part in worker["messages"][1]["parts"]]
    assert (told.count("tool-write_file"), told.count("tool-list_files")) == (1, 1)
    # Each repetition is sent what the first call was.
    first, *repeated = instruction.requests[1:]
    assert [request.messages for request in repeated] == [first.messages] * 2


def test_a_429_is_repeated_when_the_model_says_and_counted_once(api: Api, scripts: Scripts):
    usage = Usage(prompt_tokens=100, completion_tokens=20)
    limited = HttpError(429, headers={"Retry-After": "2"})
    instruction = scripts(Step(text="at last", attempts=[limited], usage=usage))
    worker = worker_in(api.create(instruction))
    assert (worker["output_text"], worker["error"]) == ("at last", None)
    first, second = instruction.requests
    assert first.ended_at is not None
    assert second.at - first.ended_at >= 2.0
    told = worker["usage"]
    assert (told["inputTokens"], told["outputTokens"], told["totalTokens"]) == (100, 20, 120)
    assert told["steps"] == 1


def test_an_exhausted_quota_is_not_tried_again(api: Api, scripts: Scripts):
    body: JsonValue = {
        "error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}
    }
    instruction = scripts(Step(fail_always=HttpError(429, body=body)))
    assert worker_in(api.create(instruction))["error"]["code"] == "model_error"
    assert len(instruction.requests) == 1


@pytest.mark.parametrize("text", ["Cut off in the", ""])
def test_an_answer_that_meets_the_output_limit_is_cut_short_and_no_error(
    api: Api, scripts: Scripts, text: str
):
    worker = worker_in(api.create(scripts(Step(text=text, finish_reason="length"))))
    assert worker["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (worker["error"], worker["output_text"]) == (None, text)
    _next_turn_works(api, scripts, worker["id"])


def test_turns_behind_a_failed_one_run_and_its_own_answer_says_what_failed(
    api: Api, scripts: Scripts
):
    failing = scripts.new()
    step = Step(gate=failing.gate(), fail_always=HttpError(400))
    failing.model.script(failing.name, [step])
    worker_id = worker_in(api.create(scripts(Step(text="x"))))["id"]
    answer = api.beside(api.go_on, worker_id, failing)
    failing.wait_for(1)
    behind = scripts.held("behind")
    api.queue(worker_id, behind)
    failing.open()
    failed = worker_in(answer.result())
    assert failed["error"]["code"] == "model_error"
    assert failed["running"] is True
    behind.wait_for(1)
    behind.open()
    worker = api.wait_until_idle(worker_id)
    assert (worker["output_text"], worker["error"]) == ("behind", None)


def test_a_failed_turn_is_told_to_a_stream_as_an_error(api: Api, scripts: Scripts):
    response = api.create(scripts(Step(fail_always=HttpError(400))), stream=True)
    assert response.status_code == 200
    assert '"type":"error"' in response.text
    assert '"code":"model_error"' in response.text


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("no_such_tool", {}),
        ToolCall("write_file", {"path": "x"}),
        ToolCall("write_file", '{"path": "x'),
        ToolCall("write_file", "[]"),
        ToolCall("write_file", {"path": "../out.txt", "content": "x"}),
        ToolCall("write_file", {"path": "\0", "content": "x"}),
        ToolCall("write_file", '{"path": "a.txt", "content": "\\u0000\\ud83d"}'),
        ToolCall("read_file", {"path": "nothing.txt"}),
        ToolCall("list_files", {"path": "/etc"}),
        ToolCall("publish_file", {"path": "nothing.txt"}),
    ],
)
def test_a_tools_failure_is_told_to_the_model_and_never_ends_the_turn(
    api: Api, scripts: Scripts, call: ToolCall
):
    instruction = scripts(Step(tool_calls=[call]), Step(text="Then not."))
    worker = worker_in(api.create(instruction))
    assert (worker["output_text"], worker["error"]) == ("Then not.", None)
    sent = instruction.requests[1].messages
    assert sent[-1]["role"] in ("tool", "user")
    assert sent[-1]["content"]


@pytest.mark.parametrize("failure", [HttpError(503), HangUp(), HttpError(429)])
def test_a_repeated_call_does_not_repeat_the_tools_before_it(
    api: Api, scripts: Scripts, failure: Failure
):
    calls = [ToolCall("write_file", {"path": name, "content": "x"}) for name in ("a", "b")]
    instruction = scripts(Step(tool_calls=calls), Step(text="done", attempts=[failure]))
    worker = worker_in(api.create(instruction))
    assert (worker["output_text"], worker["error"]) == ("done", None)
    assert worker["usage"]["steps"] == 2
    answer = worker["messages"][-1]
    kinds = [part["type"] for part in answer["parts"]]
    assert kinds.count("tool-write_file") == kinds.count("file") == 2
    for request in instruction.requests[1:]:
        assert [message["role"] for message in request.messages].count("tool") == 2
