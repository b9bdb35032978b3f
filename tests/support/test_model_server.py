"""The scripted model server, judged over HTTP by the clients that the project talks to it with."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import cast

import openai
import psutil
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from pydantic import JsonValue

from tests.support.model_server import (
    HangUp,
    HangUpAfterChunks,
    HttpError,
    Malformed,
    ModelServer,
    Stall,
    Step,
    ToolCall,
    Usage,
)
from tests.support.model_state import Exchange, RequestLog

ROOT = Path(__file__).parents[2]
Message = Mapping[str, object]
Call = tuple[str, str, str]  # id, name, arguments

pytestmark = pytest.mark.anyio

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def tool_result(text: str) -> Message:
    return {"role": "tool", "tool_call_id": "1", "content": text}


async def ask(client: AsyncOpenAI, *messages: Message | str, **options) -> ChatCompletion:
    told = [user(message) if isinstance(message, str) else message for message in messages]
    asked = cast(list[ChatCompletionMessageParam], told)
    return await client.chat.completions.create(model="m-1", messages=asked, **options)


async def open_stream(
    client: AsyncOpenAI, *messages: Message | str, **options
) -> AsyncStream[ChatCompletionChunk]:
    options.setdefault("stream_options", {"include_usage": True})
    answer = await ask(client, *messages, stream=True, **options)
    return cast(AsyncStream[ChatCompletionChunk], answer)


async def answer_text(client: AsyncOpenAI, *messages: Message | str, **options) -> str | None:
    return (await ask(client, *messages, **options)).choices[0].message.content


async def answer_calls(client: AsyncOpenAI, *messages: Message | str) -> list[Call]:
    calls = (await ask(client, *messages)).choices[0].message.tool_calls or []
    functions = [call for call in calls if call.type == "function"]
    return [(call.id, call.function.name, call.function.arguments) for call in functions]


async def stream(
    client: AsyncOpenAI, *messages: Message | str, **options
) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in await open_stream(client, *messages, **options)]


async def stream_until(
    error: type[Exception], client: AsyncOpenAI, message: str
) -> list[ChatCompletionChunk]:
    """What a stream told before it failed, as it must."""
    told: list[ChatCompletionChunk] = []

    async def listen() -> None:
        async for chunk in await open_stream(client, message):
            told.append(chunk)  # A comprehension would lose what came before the error.

    with pytest.raises(error) as raised:
        await listen()
    assert not isinstance(raised.value, openai.APITimeoutError)
    return told


def texts(chunks: list[ChatCompletionChunk]) -> list[str]:
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    return [delta.content for delta in deltas if delta.content]


def call_pieces(chunks: list[ChatCompletionChunk]) -> list[tuple[int, str, str, str]]:
    """Each tool call delta as its index, id, name and piece of the arguments."""
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    functions = [(call, call.function) for call in calls if call.function]
    return [(c.index, c.id or "", f.name or "", f.arguments or "") for c, f in functions]


def raw_stream(server: ModelServer, message: str) -> bytes:
    """A streamed answer as it comes over the wire, HTTP chunks and all."""
    body = json.dumps({"model": "m", "stream": True, "messages": [user(message)]}).encode()
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# What is answered.


async def test_a_request_without_a_marker_gets_the_default_answer(client):
    answer = await ask(client, "hello")
    assert answer.choices[0].message.content == "OK, that is done."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "m-1"
    assert abs(answer.created - time.time()) < 60


async def test_the_default_script_can_be_replaced(server, client):
    server.script("ok", [Step(text="first"), Step(text="second")])
    assert await answer_text(client, "hello") == "first"
    assert await answer_text(client, "hello", said("first"), "more") == "first"
    assert await answer_text(client, "hello", said("first")) == "second"


async def test_models_are_listed(client):
    assert [model.id async for model in client.models.list()] == ["scripted"]


async def test_a_stream_tells_each_text_as_one_chunk(server, client):
    server.script("s", [Step(text=["Hell", "o, ", "wörld ✓"])])
    chunks = await stream(client, "[[script:s]]")
    assert texts(chunks) == ["Hell", "o, ", "wörld ✓"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {"m-1"}


async def test_each_answer_has_an_id_of_its_own(client):
    first, second = await stream(client, "hello"), await stream(client, "hello")
    assert first[0].id != second[0].id


async def test_generated_chunks_follow_the_text(server, client):
    server.script("s", [Step(text="So: ", chunks=3, chunk_text="la ")])
    assert texts(await stream(client, "[[script:s]]")) == ["So: ", "la ", "la ", "la "]
    assert await answer_text(client, "[[script:s]]") == "So: la la la "


async def test_reasoning_comes_before_the_text(server, client):
    server.script("s", [Step(reasoning=["I ", "think"], text="so")])
    deltas = [c.choices[0].delta for c in await stream(client, "[[script:s]]") if c.choices]
    told = [(getattr(d, "reasoning_content", None), d.content) for d in deltas]
    assert told == [(None, ""), ("I ", None), ("think", None), (None, "so"), (None, None)]
    message = (await ask(client, "[[script:s]]")).choices[0].message
    assert getattr(message, "reasoning_content", None) == "I think"


async def test_a_finish_reason_can_be_given(server, client):
    server.script("s", [Step(text="cut", finish_reason="length")])
    assert (await ask(client, "[[script:s]]")).choices[0].finish_reason == "length"
    assert (await stream(client, "[[script:s]]"))[-2].choices[0].finish_reason == "length"


async def test_usage_is_counted_unless_given(server, client):
    server.script("counted", [Step(text="12345678", reasoning=["1234"])])
    server.script(
        "given",
        [
            Step(
                usage=Usage(
                    prompt_tokens=9, completion_tokens=7, cached_tokens=5, reasoning_tokens=3
                )
            )
        ],
    )
    counted = (await ask(client, "[[script:counted]]")).usage
    sent = int(server.requests("counted")[0].headers["content-length"])
    told = usage_json(prompt=-(-sent // 4), completion=3, cached=0, reasoning=1)
    assert counted is not None
    assert counted.to_dict() == told
    given = (await stream(client, "[[script:given]]"))[-1].usage
    assert given is not None
    assert given.to_dict() == usage_json(prompt=9, completion=7, cached=5, reasoning=3)


def usage_json(*, prompt: int, completion: int, cached: int, reasoning: int) -> dict[str, object]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


async def test_a_stream_tells_usage_only_if_asked(client):
    asked, unasked = (
        await stream(client, "hello"),
        await stream(client, "hello", stream_options=None),
    )
    assert [chunk.usage is not None for chunk in asked] == [False] * (len(asked) - 1) + [True]
    assert asked[-1].choices == []
    assert all(chunk.usage is None and chunk.choices for chunk in unasked)


async def test_tool_calls_are_streamed_in_pieces(server, client):
    calls = [ToolCall("weather", {"city": "Bern"}), ToolCall("weather", {"city": "Thun"})]
    server.script("s", [Step(text="Let me see.", tool_calls=calls)])
    chunks = await stream(client, "[[script:s]]")
    for index, city in enumerate(["Bern", "Thun"]):
        opened, *pieces = [piece for piece in call_pieces(chunks) if piece[0] == index]
        assert opened == (index, f"call_s_1_0_{index}", "weather", "")
        assert len(pieces) == 4
        assert json.loads("".join(arguments for *_, arguments in pieces)) == {"city": city}
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


async def test_a_plain_answer_has_the_same_tool_calls(server, client):
    server.script("s", [Step(tool_calls=[ToolCall("weather", {"city": "Bern"})])])
    assert await answer_calls(client, "[[script:s]]") == [
        ("call_s_1_0_0", "weather", '{"city":"Bern"}')
    ]
    choice = (await ask(client, "[[script:s]]")).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)


async def test_arguments_may_be_invalid_and_ids_doubled(server, client):
    calls = [ToolCall("weather", '{"city": ', id="same"), ToolCall("weather", "", id="same")]
    server.script("s", [Step(tool_calls=calls)])
    pieces = call_pieces(await stream(client, "[[script:s]]"))
    assert [call_id for _, call_id, _, _ in pieces if call_id] == ["same", "same"]
    assert "".join(arguments for *_, arguments in pieces) == '{"city": '
    assert await answer_calls(client, "[[script:s]]") == [
        ("same", "weather", '{"city": '),
        ("same", "weather", ""),
    ]


async def test_tool_call_ids_change_with_the_turn_but_not_when_a_request_is_repeated(
    server, client
):
    server.script("s", [Step(tool_calls=[ToolCall("weather")])])
    first = await answer_calls(client, "[[script:s]]")
    assert await answer_calls(client, "[[script:s]]") == first
    assert await answer_calls(client, "[[script:s]]", said("x"), "[[script:s]]") != first


# Which step it is.


async def test_the_step_is_the_number_of_answers_since_the_marked_message(server, client):
    server.script("a", [Step(text="a0"), Step(text="a1"), Step(text="a2")])
    server.script("b", [Step(text="b0")])
    turn = [
        "do [[script:a]] please",
        said("a0"),
        tool_result("rain"),
    ]
    assert await answer_text(client, "do [[script:a]] please") == "a0"
    assert await answer_text(client, *turn) == "a1"
    assert await answer_text(client, *turn, said("a1")) == "a2"
    assert await answer_text(client, *turn, said("a1"), "now [[script:b]]") == "b0"
    assert [request.step for request in server.requests("a")] == [0, 1, 2]


async def test_a_repeated_request_gets_the_same_step(server, client):
    server.script("s", [Step(text="s0"), Step(text="s1")])
    asked = ["[[script:s]]", said("s0")]
    assert [await answer_text(client, *asked) for _ in range(2)] == ["s1", "s1"]


async def test_the_marker_is_found_in_a_list_of_content_parts(server, client):
    server.script("s", [Step(text="found")])
    parts = [{"type": "text", "text": "see"}, {"type": "text", "text": "[[script:s]]"}]
    assert await answer_text(client, {"role": "user", "content": parts}) == "found"


async def test_a_note_after_the_marked_message_changes_nothing(server, client):
    server.script("s", [Step(text="s0"), Step(text="s1")])
    assert await answer_text(client, "[[script:s]]", said("s0"), "Conclude now.") == "s1"


async def test_markers_in_tool_results_and_answers_are_not_looked_at(server, client):
    server.script("s", [Step(text="s0"), Step(text="s1")])
    result = tool_result("[[script:other]]")
    assert await answer_text(client, "[[script:s]]", said("[[script:other]]"), result) == "s1"


@pytest.mark.parametrize(("after_last", "told"), [("done", "done"), ("repeat", "s0")])
async def test_what_follows_the_last_step_is_an_option(server, client, after_last, told):
    server.script("s", [Step(text="s0")], after_last=after_last)
    assert await answer_text(client, "[[script:s]]", said("s0"), said("s0")) == told
    assert server.requests("s")[0].served == "after_last"


async def test_a_repeated_last_step_makes_new_tool_calls(server, client):
    server.script("s", [Step(tool_calls=[ToolCall("weather")])], after_last="repeat")
    first = await answer_calls(client, "[[script:s]]")
    assert await answer_calls(client, "[[script:s]]", said("x")) != first


async def test_without_tools_to_choose_the_model_concludes(server, client):
    server.script("s", [Step(tool_calls=[ToolCall("weather")])], after_last="repeat")
    server.script("own", [Step(text="no")], when_tool_choice_none=Step(text="That is all."))
    result = tool_result("rain")
    asked = [said("x"), result, result, "Conclude now."]
    options = {"tools": [WEATHER_TOOL], "tool_choice": "none"}
    told = await answer_text(client, "[[script:s]]", *asked, **options)
    assert told == "Concluding: 2 tool results so far."
    assert await answer_text(client, "[[script:own]]", *asked, **options) == "That is all."
    assert [request.served for request in server.requests()] == ["concluding", "concluding"]


async def test_an_unknown_script_is_refused(server, client):
    with pytest.raises(openai.NotFoundError, match="no script is named 'nope'"):
        await ask(client, "[[script:nope]]")
    assert server.requests("nope")[0].served == "unknown_script"


async def test_a_wrong_step_is_refused_by_name(server):
    with pytest.raises(ValueError, match="textt"):
        server._call("PUT", "scripts/s", body=b'{"steps": [{"textt": "x"}]}')


async def test_steps_can_be_given_as_plain_json(server, client):
    failures = [
        {"status": 503},
        {"hang_up": True},
        {"hang_up_after_chunks": 1},
        {"malformed": True},
    ]
    steps = [{"text": ["a", "b"], "attempts": failures, "gate_after_chunks": [1, "g"]}]
    server._call("PUT", "scripts/s", body=json.dumps({"steps": steps}).encode())
    server.open_gate("g")
    for error in (openai.InternalServerError, openai.APIConnectionError, openai.APIConnectionError):
        with pytest.raises(error):
            await ask(client, "[[script:s]]")
    with pytest.raises(ValueError, match="Unterminated string"):
        await stream(client, "[[script:s]]")
    assert texts(await stream(client, "[[script:s]]")) == ["a", "b"]


async def test_what_is_no_completion_request_is_refused_and_noted(server, client):
    with pytest.raises(openai.BadRequestError):
        await client.post("/chat/completions", body={"model": "m"}, cast_to=object)
    assert [request.served for request in server.requests()] == ["bad_request"]


# How it fails.

STATUSES = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("status", "error"), STATUSES)
async def test_attempts_fail_in_order_and_then_the_step_succeeds(
    server, client, status, error, streamed
):
    body: JsonValue = {"error": {"message": "so scripted", "code": "its_code"}}
    failures = [HttpError(status, headers={"Retry-After": "7"}, body=body), HttpError(500)]
    server.script("s", [Step(text="fine", attempts=failures)])
    with pytest.raises(error, match="so scripted") as raised:
        await ask(client, "[[script:s]]", stream=streamed)
    assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.code == "its_code"
    with pytest.raises(openai.InternalServerError, match="scripted to fail with 500"):
        await ask(client, "[[script:s]]", stream=streamed)
    assert await answer_text(client, "[[script:s]]") == "fine"
    told = [(request.served, request.attempt) for request in server.requests("s")]
    assert told == [("failure", 1), ("failure", 2), ("step", 3)]


async def test_attempts_are_counted_for_each_step_by_itself(server, client):
    steps = [Step(text=text, attempts=[HttpError(500)]) for text in ("s0", "s1")]
    server.script("s", steps)
    for asked, text in ((["[[script:s]]"], "s0"), (["[[script:s]]", said("s0")], "s1")):
        with pytest.raises(openai.InternalServerError):
            await ask(client, *asked)
        assert await answer_text(client, *asked) == text


async def test_a_step_can_fail_always(server, client):
    server.script("s", [Step(attempts=[HttpError(429)], fail_always=HttpError(503))])
    for error in (openai.RateLimitError, *[openai.InternalServerError] * 3):
        with pytest.raises(error):
            await ask(client, "[[script:s]]")


async def test_setting_a_script_anew_counts_its_attempts_anew(server, client):
    for _ in range(2):
        server.script("s", [Step(attempts=[HttpError(500)])])
        with pytest.raises(openai.InternalServerError):
            await ask(client, "[[script:s]]")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("step", [Step(), Step(delay_s=0.01), Step(paced=True)])
async def test_a_hang_up_comes_before_any_byte(server, client, streamed, step):
    hangs_up = Step(attempts=[HangUp()], delay_s=step.delay_s, paced=step.paced)
    server.script("s", [hangs_up])
    with pytest.raises(openai.APIConnectionError):
        await ask(client, "[[script:s]]", stream=streamed)
    (request,) = server.requests("s")
    assert request.first_byte_at is None
    assert request.ended_at is not None
    assert not request.client_hung_up


@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("count", [0, 2, 4])
async def test_a_stream_can_end_after_some_chunks(server, client, paced, count):
    failure = HangUpAfterChunks(count)
    server.script("s", [Step(text=["a", "b", "c", "d"], paced=paced, attempts=[failure])])
    told = await stream_until(openai.APIConnectionError, client, "[[script:s]]")
    assert texts(told) == ["a", "b", "c", "d"][:count]
    assert all(choice.finish_reason is None for chunk in told for choice in chunk.choices)
    assert await answer_text(client, "[[script:s]]") == "abcd"


async def test_a_plain_answer_can_end_half_way(server, client):
    server.script("s", [Step(text="abcd", attempts=[HangUpAfterChunks(1)])])
    with pytest.raises(openai.APIConnectionError):
        await ask(client, "[[script:s]]")
    assert await answer_text(client, "[[script:s]]") == "abcd"


@pytest.mark.parametrize("paced", [False, True])
async def test_a_stream_can_be_malformed_after_its_first_chunk(server, client, paced):
    server.script("s", [Step(text=["a", "b"], paced=paced, attempts=[Malformed()])])
    told = await stream_until(json.JSONDecodeError, client, "[[script:s]]")
    assert texts(told) == ["a"]
    assert texts(await stream(client, "[[script:s]]")) == ["a", "b"]


async def test_a_plain_answer_can_be_malformed(server, client):
    server.script("s", [Step(text="a", attempts=[Malformed()])])
    with pytest.raises(json.JSONDecodeError):
        await ask(client, "[[script:s]]")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_stall_lasts_until_the_client_hangs_up(server, client, streamed):
    server.script("s", [Step(attempts=[Stall()])])
    with pytest.raises(openai.APITimeoutError):
        await ask(client, "[[script:s]]", stream=streamed, timeout=0.2)
    (request,) = server.wait_for_requests("s", 1, ended=True)
    assert request.client_hung_up
    assert request.first_byte_at is None
    assert request.ended_at - request.at > 0.15


# When it answers.


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_gate_holds_back_the_first_byte(server, client, streamed):
    server.script("s", [Step(text="through", gate="g", attempts=[HttpError(500)])])
    waiting = asyncio.create_task(ask(client, "[[script:s]]", stream=streamed))
    (request,) = await asyncio.to_thread(server.wait_for_requests, "s", 1)
    assert (request.first_byte_at, request.ended_at) == (None, None)
    assert not waiting.done()
    server.open_gate("g")
    with pytest.raises(openai.InternalServerError):
        await waiting
    assert await answer_text(client, "[[script:s]]") == "through"


@pytest.mark.parametrize("count", [0, 2, 3])
async def test_a_gate_can_be_within_a_stream(server, client, count):
    server.script("s", [Step(text=["a", "b", "c"], gate_after_chunks=(count, "g"))])
    chunks = aiter(await open_stream(client, "[[script:s]]"))
    told = [await anext(chunks) for _ in range(count + 1)]
    (request,) = server.requests("s")
    assert request.first_byte_at is not None
    assert request.ended_at is None
    server.open_gate("g")
    rest = [chunk async for chunk in chunks]
    assert texts(told) == ["a", "b", "c"][:count]
    assert texts(rest) == ["a", "b", "c"][count:]


async def test_a_plain_answer_waits_for_a_gate_within_the_stream(server, client):
    server.script("s", [Step(text="abc", gate_after_chunks=(1, "g"))])
    waiting = asyncio.create_task(answer_text(client, "[[script:s]]"))
    await asyncio.to_thread(server.wait_for_requests, "s", 1)
    assert not waiting.done()
    server.open_gate("g")
    assert await waiting == "abc"


async def test_a_stream_can_break_off_behind_a_gate(server, client):
    step = Step(text=["a", "b"], gate_after_chunks=(1, "g"), attempts=[HangUpAfterChunks(1)])
    server.script("s", [step])
    chunks = aiter(await open_stream(client, "[[script:s]]"))
    assert texts([await anext(chunks) for _ in range(2)]) == ["a"]
    server.open_gate("g")
    with pytest.raises(openai.APIConnectionError):
        await anext(chunks)


async def test_a_client_that_hangs_up_at_a_gate_is_noted(server, client):
    server.script("s", [Step(chunks=3, gate_after_chunks=(1, "g"))])
    chunks = await open_stream(client, "[[script:s]]")
    await anext(aiter(chunks))
    await chunks.close()
    (request,) = server.wait_for_requests("s", 1, ended=True)
    assert request.client_hung_up


@pytest.mark.parametrize("streamed", [False, True])
async def test_delays_take_their_time(server, client, streamed):
    server.script("s", [Step(text=["a", "b", "c"], delay_s=0.1, chunk_delay_s=0.05)])
    if streamed:
        assert texts(await stream(client, "[[script:s]]")) == ["a", "b", "c"]
    else:
        assert await answer_text(client, "[[script:s]]") == "abc"
    (request,) = server.wait_for_requests("s", 1, ended=True)
    assert request.ended_at - request.at >= 0.24
    assert request.first_byte_at - request.at >= (0.09 if streamed else 0.24)


def test_a_paced_stream_sends_every_chunk_by_itself(server):
    server.script("paced", [Step(chunks=5, paced=True)])
    server.script("whole", [Step(chunks=5)])
    paced, whole = raw_stream(server, "[[script:paced]]"), raw_stream(server, "[[script:whole]]")
    events = b'\r\ndata: {"id":'
    # The role, five chunks, the finish: each at the start of an HTTP chunk, or all in one.
    assert (paced.count(events), whole.count(events)) == (7, 1)
    assert paced.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_long_paced_stream_waits_for_its_reader(server, client):
    server.script("s", [Step(chunks=300, chunk_text="x" * 50_000, paced=True)])
    chunks = aiter(await open_stream(client, "[[script:s]]"))
    await anext(chunks)
    with pytest.raises(TimeoutError):
        server.wait_for_requests("s", 1, ended=True, timeout_s=0.5)
    assert sum(map(len, texts([chunk async for chunk in chunks]))) == 300 * 50_000


# What it remembers.


async def test_requests_are_remembered_with_their_times(server, client):
    before = time.monotonic()
    options = {"tools": [WEATHER_TOOL], "tool_choice": "auto", "max_tokens": 5}
    await ask(client, "hello", extra_headers={"X-Own": "yes"}, **options)
    after = time.monotonic()
    (request,) = server.requests()
    assert before < request.at <= request.first_byte_at <= request.ended_at < after
    assert (request.script, request.step, request.served, request.attempt) == ("ok", 0, "step", 1)
    assert (request.model, request.stream, request.message_count) == ("m-1", False, 1)
    assert (request.tool_choice, request.tool_names) == ("auto", ["weather"])
    assert request.tools == [WEATHER_TOOL]
    assert request.body["max_tokens"] == 5
    assert request.messages == [user("hello")]
    assert (request.headers["authorization"], request.headers["x-own"]) == ("Bearer k", "yes")
    assert not request.client_hung_up


async def test_requests_are_told_by_script_and_with_or_without_bodies(server, client):
    server.script("a/b&c=é", [Step()])
    await ask(client, "hello")
    await ask(client, "[[script:a/b&c=é]]")
    assert [request.script for request in server.requests()] == ["ok", "a/b&c=é"]
    (request,) = server.requests("a/b&c=é", bodies=False)
    with pytest.raises(LookupError):
        _ = request.messages


async def test_waiting_for_requests_gives_up_at_its_deadline(server, client):
    await ask(client, "hello")
    assert len(server.wait_for_requests(None, 1)) == 1
    with pytest.raises(TimeoutError, match="1 of 2 requests arrived"):
        server.wait_for_requests(None, 2, timeout_s=0.05)


async def test_a_reset_forgets_everything_and_cuts_what_waits(server, client):
    server.script("s", [Step(gate="g")])
    server.script("ok", [Step(text="other")])
    server.open_gate("open")
    waiting = asyncio.create_task(ask(client, "[[script:s]]"))
    await asyncio.to_thread(server.wait_for_requests, "s", 1)
    server.reset()
    with pytest.raises(openai.APIConnectionError) as raised:
        await waiting
    assert not isinstance(raised.value, openai.APITimeoutError)
    assert server.requests() == []
    assert await answer_text(client, "hello") == "OK, that is done."
    server.script("s", [Step(gate="open")])
    with pytest.raises(openai.APITimeoutError):
        await ask(client, "[[script:s]]", timeout=0.1)


async def test_the_log_is_bounded():
    with ModelServer(log_requests=2, log_bodies=False) as server:
        async with AsyncOpenAI(base_url=server.base_url, api_key="k") as client:
            for text in ("one", "two", "x" * 3000):
                await ask(client, text)
        small, big = server.requests()
        assert small.messages == [user("two")]
        assert big.body is None
        assert big.message_count == 1
        assert len(server.wait_for_requests(None, 3)) == 2


def test_the_log_lets_go_of_the_oldest_bodies_and_then_of_the_oldest_requests():
    log = RequestLog(max_requests=3, max_body_bytes=10, biggest_body_bytes=8)
    sizes = [4, 4, 9, 4, 8]
    exchanges = [Exchange(i, 0.0, b"", b"1" * size, size) for i, size in enumerate(sizes)]
    kept: list[list[int]] = []
    for exchange in exchanges:
        log.add(exchange)
        kept.append([e.index for e in exchanges if e.raw_body and e.index <= exchange.index])
    # The third is too big by itself, the fourth and the fifth push out those before them.
    assert kept == [[0], [0, 1], [0, 1], [1, 3], [4]]
    told = json.loads(log.to_json(None, with_bodies=True))
    assert [(request["index"], request["body"]) for request in told] == [
        (2, None),
        (3, None),
        (4, 11111111),
    ]
    assert log.count(None, ended=False) == 5


# The connection and the process.


async def test_connections_are_kept_and_carry_one_answer_after_the_other(server, client):
    server.script("s", [Step(text=["a", "b"], paced=True)])
    for _ in range(3):
        assert texts(await stream(client, "[[script:s]]")) == ["a", "b"]
        assert await answer_text(client, "hello") == "OK, that is done."
    connections = psutil.Process(server.pid).net_connections("tcp")
    held = [c for c in connections if c.status == psutil.CONN_ESTABLISHED]
    assert len(held) == 1


async def test_many_clients_are_answered_at_once(server, client):
    server.script("s", [Step(text="through", gate="g")])
    waiting = [asyncio.create_task(answer_text(client, "[[script:s]]")) for _ in range(50)]
    await asyncio.to_thread(server.wait_for_requests, "s", 50)
    server.open_gate("g")
    assert await asyncio.gather(*waiting) == ["through"] * 50


# The second is a good request, but nothing has been answered yet when it comes.
REFUSED = [b"EHLO there\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nHost: m\r\n\r\n" * 2]


@pytest.mark.parametrize("sent", REFUSED)
def test_what_is_not_http_or_pipelined_is_hung_up_on(server, sent):
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        connection.sendall(sent)
        assert has_been_cut(connection)


def has_been_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_the_process_ends_with_its_with_block():
    with ModelServer() as server:
        process = psutil.Process(server.pid)
        assert process.is_running()
    assert not process.is_running()


def test_the_process_ends_when_its_parent_is_gone():
    command = "from tests.support.model_server import ModelServer; import os\n"
    command += "server = ModelServer().__enter__(); print(server.pid, flush=True); os._exit(0)"
    parent = subprocess.run([sys.executable, "-c", command], cwd=ROOT, stdout=subprocess.PIPE)
    pid, deadline = int(parent.stdout), time.monotonic() + 10
    while not has_ended(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("it went on without its parent")
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    try:
        # Whoever adopts an orphan may take its time to reap it.
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_command_says_where_it_listens():
    command = [sys.executable, "-m", "tests.support.model_server", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            word, port = process.stdout.readline().split()
            assert word == b"READY"
            socket.create_connection(("127.0.0.1", int(port)), timeout=10).close()
        finally:
            process.terminate()
    assert process.returncode == 0


def test_a_server_that_cannot_start_says_so(server):
    with pytest.raises(RuntimeError, match="did not start"), ModelServer(port=server.port):
        pass
