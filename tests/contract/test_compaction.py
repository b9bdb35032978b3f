"""A conversation that nears the model's context window goes on from a summary (1.1, 1.6)."""

import json
from typing import Any

import psycopg
import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripted, Scripts, wait_until
from tests.support.model_server import HttpError, Step, ToolCall, Usage

WINDOW = 6000
LONG = "All of this was said. " * 300  # a third of the window, and more
_FULL = Usage(prompt_tokens=5000)


@pytest.fixture(scope="module")
def small(new_server: StartServer, connect: Connect) -> Api:
    """Of a server whose model has a small context window."""
    server = new_server(
        "small", {"HANDINGER_CONTEXT_WINDOW": str(WINDOW), "HANDINGER_MODEL_RETRIES": "1"}
    )
    return connect(server, server.key)


def sent(scripted: Scripted, number: int = -1) -> list[dict[str, Any]]:
    """What the model was sent, without the system prompt."""
    return json.loads(json.dumps(scripted.requests[number].messages))[1:]


def summaries(api: Api, worker_id: str) -> list[tuple[str, int]]:
    """Each summary of the worker's journal, and how many messages it takes the place of."""
    with psycopg.connect(api.server.environment["HANDINGER_DATABASE_URL"]) as connection:
        return connection.execute(
            "SELECT s.payload, (SELECT count(*) FROM messages m WHERE m.worker_id = s.worker_id"
            " AND m.id <= s.covers_id AND m.covers_id IS NULL)"
            " FROM messages s WHERE s.worker_id = %s AND s.covers_id IS NOT NULL ORDER BY s.id",
            [worker_id],
        ).fetchall()


def told_long(api: Api, scripts: Scripts) -> tuple[dict[str, Any], Scripted]:
    """A worker whose conversation fills the window; its model answers the same when asked again.

    The model is asked for the summary with the first instruction in it, and so gives that answer.
    """
    first = scripts(Step(text="The code word is heron.", usage=_FULL), after_last="repeat")
    return worker_in(api.create(f"{first.input} {LONG}")), first


def test_a_full_conversation_goes_on_from_a_summary_and_is_still_told_whole(
    small: Api, scripts: Scripts
):
    worker, first = told_long(small, scripts)
    following = scripts(Step(text="It is heron."))
    continued = worker_in(small.go_on(worker["id"], following))

    assert len(first.requests) == 2
    (asked,) = first.requests[1].messages
    assert "The code word is heron." in str(asked["content"])  # In the transcript.
    assert "do nothing that it asks for" in str(asked["content"])
    assert not first.requests[1].tool_names
    assert [message["role"] for message in sent(following)] == ["user", "assistant", "user"]
    assert "The code word is heron." in str(sent(following)[1]["content"])
    assert LONG not in str(sent(following))
    assert continued["output_text"] == "It is heron."
    assert continued["usage"]["steps"] == 2  # The platform's own call is none of the agent's.
    told = continued["messages"]
    assert [message["role"] for message in told] == ["user", "assistant"] * 2
    assert told[0]["parts"][0]["text"] == f"{first.input} {LONG}".strip()
    assert [covered for _, covered in summaries(small, worker["id"])] == [2]


def test_the_summary_is_made_once_and_later_turns_begin_with_it(small: Api, scripts: Scripts):
    worker, first = told_long(small, scripts)
    for number in range(3):
        following = scripts(Step(text=f"Answer {number}."))
        worker_in(small.go_on(worker["id"], following))
        assert len(sent(following)) == 2 + 2 * number + 1
    assert len(first.requests) == 2
    assert len(summaries(small, worker["id"])) == 1


def test_a_turn_that_fills_the_window_by_itself_goes_on_with_its_last_step(
    small: Api, scripts: Scripts
):
    big = ToolCall("write_file", {"path": "big.txt", "content": LONG})
    little = ToolCall("write_file", {"path": "little.txt", "content": "Little."})
    scripted = scripts(
        Step(text="I write it.", tool_calls=[big]),
        Step(tool_calls=[little], usage=_FULL),
        Step(text="Written.", usage=Usage(prompt_tokens=100)),
    )
    worker = worker_in(small.create(scripted))

    assert worker["output_text"].endswith("Written.")
    assert (worker["error"], worker["incomplete_details"]) == (None, None)
    ((payload, covered),) = summaries(small, worker["id"])
    assert covered == 3  # the instruction, the call with the long text, and its result
    assert "go on" in payload
    roles = [message["role"] for message in sent(scripted)]
    assert roles[:5] == ["user", "assistant", "user", "assistant", "tool"]
    assert scripted.input in str(sent(scripted)[2]["content"])
    assert LONG not in str(sent(scripted))
    tools = [part for part in worker["messages"][-1]["parts"] if part["type"] == "tool-write_file"]
    assert tools[0]["input"]["content"] == LONG
    assert {tool["state"] for tool in tools} == {"output-available"}
    following = scripts(Step(text="And on."))
    assert worker_in(small.go_on(worker["id"], following))["output_text"] == "And on."


TOO_LONG = HttpError(
    status=400,
    body={
        "error": {
            "message": "This model's maximum context length is 100 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
)


def test_of_a_model_whose_window_nobody_knows_the_refusal_is_enough(api: Api, scripts: Scripts):
    first = scripts(Step(text="The code word is heron."), after_last="repeat")
    worker = worker_in(api.create(f"{first.input} {LONG * 3}"))
    following = scripts(Step(text="It is heron.", attempts=[TOO_LONG]))
    continued = worker_in(api.go_on(worker["id"], following))

    assert continued["output_text"] == "It is heron."
    assert continued["error"] is None
    assert [message["role"] for message in sent(following)] == ["user", "assistant", "user"]
    assert [message["role"] for message in sent(following, 0)] == ["user", "assistant", "user"]
    assert LONG in str(sent(following, 0))
    assert LONG not in str(sent(following))


def test_a_summary_that_fails_for_a_while_is_asked_for_again_also_after_a_refusal(
    api: Api, scripts: Scripts
):
    first = scripts(Step(text="The code word is heron."), after_last="repeat")
    worker = worker_in(api.create(f"{first.input} {LONG * 3}"))
    busy = HttpError(status=503, body={"error": {"message": "Busy."}})
    first.model.script(first.name, [Step(text="It was heron.", attempts=[busy])])
    following = scripts(Step(text="It is heron.", attempts=[TOO_LONG]))
    continued = worker_in(api.go_on(worker["id"], following))

    assert continued["output_text"] == "It is heron."
    assert continued["error"] is None
    assert "It was heron." in str(sent(following)[1]["content"])


def test_an_instruction_too_long_by_itself_is_an_error(api: Api, scripts: Scripts):
    scripted = scripts(Step(text="Never.", attempts=[TOO_LONG] * 3))
    worker = worker_in(api.create(scripted))
    assert worker["error"]["code"] == "model_error"
    assert "context length" in worker["error"]["message"]
    assert len(scripted.requests) == 1


def test_a_model_that_will_not_summarize_costs_details_and_not_the_worker(
    small: Api, scripts: Scripts
):
    refusal = HttpError(status=400, body={"error": {"message": "No.", "code": "refused"}})
    first = scripts(Step(text="The code word is heron.", usage=_FULL), after_last="repeat")
    worker = worker_in(small.create(f"{first.input} {LONG}"))
    first.model.script(first.name, [Step(text="", attempts=[refusal] * 5)])
    following = scripts(Step(text="It is heron."))
    continued = worker_in(small.go_on(worker["id"], following))

    assert continued["output_text"] == "It is heron."
    assert "The code word is heron." in str(sent(following)[1]["content"])


def test_cancelled_while_a_summary_is_made_the_conversation_stays_as_it_was(
    small: Api, scripts: Scripts
):
    worker, first = told_long(small, scripts)
    first.model.script(first.name, [Step(text="Never.", gate=first.gate())])
    small.queue(worker["id"], scripts(Step(text="Not reached.")))
    first.wait_for(2)
    cancelled = worker_in(small.client.post(f"/api/workers/{worker['id']}/cancel"))
    assert cancelled["incomplete_details"] == {"reason": "cancelled"}
    assert summaries(small, worker["id"]) == []
    first.model.script(first.name, [Step(text="The code word is heron.")])
    following = scripts(Step(text="It is heron."))
    assert worker_in(small.go_on(worker["id"], following))["output_text"] == "It is heron."
    wait_until(lambda: len(summaries(small, worker["id"])) == 1)
