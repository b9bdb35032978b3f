"""What an event stream says, and when it says it (1.6)."""

from collections.abc import Callable

import pytest

from tests.contract.streams import (
    Stream,
    check_same,
    folded,
    post,
    stored_message,
    told,
    watch,
)
from tests.contract.world import Api, Scripted, Scripts, wait_until
from tests.support.fold import TERMINAL
from tests.support.model_server import HangUpAfterChunks, HttpError, Step, ToolCall

WRITE = ToolCall("write_file", {"path": "notes/é.md", "content": "# Notes\n👩🏽‍🚀"})
READ_MISSING = ToolCall("read_file", {"path": "missing.txt"})
STEPS = (
    Step(reasoning=["First ", "I write."], text=["I ", "write."], tool_calls=[WRITE, READ_MISSING]),
    Step(tool_calls=[ToolCall("list_files")]),
    Step(text=["Done: ", "naïve ", "👩🏽‍🚀", "\r\n", "日本語."]),
)


@pytest.fixture(scope="module")
def story(api: Api, scripts: Scripts) -> Stream:
    """A turn of three steps with tools, a thought and a file, from its POST."""
    return post(api, scripts(*STEPS)).read()


# The answer itself.


def streaming_get(api: Api, worker_id: str) -> list[Stream]:
    path = f"/api/workers/{worker_id}"
    return [
        watch(api, worker_id),
        Stream(api, "GET", f"{path}?stream=true"),
        Stream(api, "GET", path, accept="text/event-stream"),
    ]


def test_the_headers_of_every_stream(api: Api, story: Stream):
    for stream in [story, *streaming_get(api, story.worker_id)]:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert stream.headers["x-handinger-worker-id"] == story.worker_id
        assert stream.headers["x-request-id"]


def test_a_post_tells_its_worker_and_turn_in_its_headers(api: Api, story: Stream):
    turn_id = story.headers["x-handinger-turn-id"]
    assert api.turn(story.worker_id, turn_id)["status"] == "completed"


def test_the_three_ways_to_watch_are_one(api: Api, story: Stream):
    streams = [stream.read() for stream in streaming_get(api, story.worker_id)]
    assert streams[0].received == streams[1].received == streams[2].received


def test_a_turn_tells_all_that_happens_in_order(story: Stream):
    order: list[str] = []
    for kind in story.types:
        if order[-1:] != [kind]:  # How a text is cut is nobody's business.
            order.append(kind)
    assert order == [
        "start",
        *("start-step", "reasoning-start", "reasoning-delta", "reasoning-end"),
        *("text-start", "text-delta", "text-end"),
        *("tool-input-start", "tool-input-delta", "tool-input-available") * 2,
        *_in_either_order(order),
        *("finish-step", "start-step"),
        *("tool-input-start", "tool-input-delta", "tool-input-available"),
        *("tool-output-available", "finish-step", "start-step"),
        *("text-start", "text-delta", "text-end"),
        *("finish-step", "data-worker", "finish"),
    ]


def _in_either_order(order: list[str]) -> list[str]:
    """Two tools ran side by side; a file is told with the result of the call that wrote it."""
    written = ["tool-output-available", "file"]
    failed_first = order.index("tool-output-error") < order.index("tool-output-available")
    return ["tool-output-error", *written] if failed_first else [*written, "tool-output-error"]


def test_start_names_the_message_the_worker_and_the_turn(api: Api, story: Stream):
    start = story.events[0]
    assert start["messageMetadata"] == {
        "workerId": story.worker_id,
        "turnId": story.headers["x-handinger-turn-id"],
    }
    message = stored_message(api.worker(story.worker_id), start["messageId"])
    assert message["metadata"]["turnId"] == story.headers["x-handinger-turn-id"]


def test_the_events_add_up_to_the_stored_message(api: Api, story: Stream):
    fold = folded(story)
    worker = api.worker(story.worker_id)
    check_same(fold, worker)
    assert [part["text"] for part in fold.parts if part["type"] == "text"] == [
        "I write.",
        "Done: naïve 👩🏽‍🚀\r\n日本語.",
    ]
    assert [part["text"] for part in fold.parts if part["type"] == "reasoning"] == [
        "First I write."
    ]
    tools = [part for part in fold.parts if part["type"].startswith("tool-")]
    assert [(tool["type"], tool["state"], tool["input"]) for tool in tools] == [
        ("tool-write_file", "output-available", WRITE.arguments),
        ("tool-read_file", "output-error", READ_MISSING.arguments),
        ("tool-list_files", "output-available", {}),
    ]
    assert [part["url"] for part in fold.parts if part["type"] == "file"] == [
        file["url"] for file in worker["files"]
    ]


def test_data_worker_is_what_a_call_without_streaming_returns(api: Api, story: Stream):
    assert folded(story).worker == api.worker(story.worker_id)


def test_every_id_is_its_own(story: Stream):
    ids = [received.id for received in story.received]
    assert len(set(ids)) == len(ids)


def test_a_post_tells_only_its_own_turn(api: Api, scripts: Scripts, story: Stream):
    worker_id = api.create(scripts(Step(text="one"))).json()["id"]
    running, waiting = scripts.held("two"), scripts.held("three")
    first = post(api, running, to=worker_id)
    running.wait_for(1)
    second = post(api, waiting, to=worker_id)
    second.wait_for("start")
    running.open()
    waiting.open()
    for stream, text in ((first, "two"), (second, "three")):
        stream.read()
        assert "data-message" not in stream.types
        fold = folded(stream)
        assert fold.metadata is not None
        assert fold.metadata["turnId"] == stream.headers["x-handinger-turn-id"]
        assert [part.get("text") for part in fold.parts] == [None, text]
        assert fold.worker is not None
        assert fold.worker["output_text"] == text


def test_messages_false_leaves_them_out_of_data_worker(api: Api, scripts: Scripts):
    body = {"input": scripts(Step(text="a")).input, "stream": True}
    stream = Stream(api, "POST", "/api/workers?messages=false", body=body).read()
    worker = folded(stream).worker
    assert worker is not None
    assert worker["messages"] == []


# How a turn ends.


def cancelled(api: Api, scripts: Scripts) -> Stream:
    scripted = scripts.new()
    gate = (2, scripted.gate())
    held = Step(text=["Half ", "a ", "sentence."], gate_after_chunks=gate)
    scripted.model.script(scripted.name, [*STEPS[:1], held])
    stream = post(api, scripted).wait_for_text("Half a")
    api.client.post(f"/api/workers/{stream.worker_id}/cancel").raise_for_status()
    return stream


def cancelled_in_a_tools_input(api: Api, scripts: Scripts) -> Stream:
    scripted = scripts.new()
    call = ToolCall("write_file", {"path": "a.txt", "content": "never written"})
    held = Step(text="I write.", tool_calls=[call], gate_after_chunks=(3, scripted.gate()))
    scripted.model.script(scripted.name, [held])
    stream = post(api, scripted).wait_for("tool-input-delta")
    api.client.post(f"/api/workers/{stream.worker_id}/cancel").raise_for_status()
    return stream


def failed(api: Api, scripts: Scripts) -> Stream:
    return post(api, scripts(*STEPS[:1], Step(fail_always=HttpError(400))))


def failed_at_once(api: Api, scripts: Scripts) -> Stream:
    return post(api, scripts(Step(fail_always=HttpError(401))))


def out_of_budget(api: Api, scripts: Scripts) -> Stream:
    return post(api, scripts(*STEPS[1:2] * 9, after_last="repeat"), budget="low")


def refused_tools_at_the_end(api: Api, scripts: Scripts) -> Stream:
    last = Step(text="I would go on.", tool_calls=[WRITE])
    script = scripts(STEPS[1], after_last="repeat", when_tool_choice_none=last)
    return post(api, script, budget="low")


def cut_at_the_output_limit(api: Api, scripts: Scripts) -> Stream:
    return post(api, scripts(Step(text="Half a sen", finish_reason="length")))


def only_thoughts(api: Api, scripts: Scripts) -> Stream:
    return post(api, scripts(Step(reasoning=["Hm."])))


@pytest.mark.parametrize(
    ("run", "terminal"),
    [
        (cancelled, "abort"),
        (cancelled_in_a_tools_input, "abort"),
        (failed, "error"),
        (failed_at_once, "error"),
        (out_of_budget, "finish"),
        (refused_tools_at_the_end, "finish"),
        (cut_at_the_output_limit, "finish"),
        (only_thoughts, "error"),
    ],
)
def test_however_a_turn_ends_its_events_add_up(
    api: Api, scripts: Scripts, run: Callable[[Api, Scripts], Stream], terminal: str
):
    stream = run(api, scripts).read()
    fold = folded(stream)
    worker = api.worker(stream.worker_id)
    assert fold.terminal is not None
    assert fold.terminal["type"] == terminal
    assert sum(kind in TERMINAL for kind in stream.types) == 1
    assert stream.types[-2:] == ["data-worker", terminal]
    assert fold.worker == worker
    check_same(fold, worker)
    if terminal == "error":
        assert fold.terminal["errorText"] == worker["error"]["message"]
    late = watch(api, stream.worker_id).read()
    assert late.events[-2]["data"] == stored_message(worker, fold.id)


def test_what_was_said_before_a_cancel_stays_told(api: Api, scripts: Scripts):
    fold = folded(cancelled(api, scripts).read())
    assert fold.parts[-1] == {"type": "text", "text": "Half a ", "state": "done"}
    assert fold.retries == 0


def test_a_call_that_was_about_to_be_made_is_withdrawn_by_a_cancel(api: Api, scripts: Scripts):
    fold = folded(cancelled_in_a_tools_input(api, scripts).read())
    assert fold.parts[1:] == [{"type": "text", "text": "I write.", "state": "done"}]
    assert fold.retries == 1


@pytest.mark.parametrize(
    "arguments",
    [
        '{"path": ',  # half an object
        '{"path": "a.txt", "content": NaN}',
        '{"path": "a\\ud83d.txt", "content": "half a character"}',
        '{"path": "a\\u0000.txt", "content": "a NUL"}',
        "[" * 3000,
    ],
    ids=["half", "nan", "surrogate", "nul", "deep"],
)
def test_what_a_model_gets_wrong_about_a_tool_is_told_as_it_is(
    api: Api, scripts: Scripts, arguments: str
):
    call = ToolCall("write_file", arguments)
    stream = post(api, scripts(Step(tool_calls=[call]), Step(text="Sorry."))).read()
    fold = folded(stream)
    check_same(fold, api.worker(stream.worker_id))
    tool = next(part for part in fold.parts if part["type"] == "tool-write_file")
    assert tool["state"] == "output-error"
    deltas = [event["inputTextDelta"] for event in stream.events if "inputTextDelta" in event]
    assert "".join(deltas) == arguments


def test_a_model_that_repeats_the_ids_of_its_calls(api: Api, scripts: Scripts):
    twice = [ToolCall("list_files", {"path": path}, id="same") for path in (".", "..")]
    stream = post(api, scripts(Step(tool_calls=twice), Step(tool_calls=twice), Step(text="ok")))
    fold = folded(stream.read())
    check_same(fold, api.worker(stream.worker_id))
    tools = [part for part in fold.parts if part["type"] == "tool-list_files"]
    assert [tool["input"]["path"] for tool in tools] == [".", "..", ".", ".."]
    assert len({tool["toolCallId"] for tool in tools}) == 4


# Watching a worker.


@pytest.fixture
def worker_id(api: Api, scripts: Scripts) -> str:
    """A worker with two turns that have ended, the second with tools."""
    worker_id: str = api.create(scripts(Step(text="one"))).json()["id"]
    api.go_on(worker_id, scripts(*STEPS))
    return worker_id


def test_an_idle_worker_its_messages_the_worker_and_no_more(api: Api, worker_id: str):
    stream = watch(api, worker_id).read()
    worker = api.worker(worker_id)
    assert stream.types == ["data-message"] * 4 + ["data-worker"]
    assert [event["data"] for event in stream.events] == [*worker["messages"], worker]


def test_an_idle_worker_has_nothing_to_tell_without_messages(api: Api, worker_id: str):
    stream = watch(api, worker_id, messages=False).read()
    assert stream.status == 204
    assert stream.received == []


def test_a_busy_worker_messages_then_turn_after_turn_until_it_is_idle(
    api: Api, scripts: Scripts, worker_id: str
):
    running, waiting, late = scripts.held("three"), scripts.held("four"), scripts.held("five")
    api.queue(worker_id, running)
    running.wait_for(1)
    api.queue(worker_id, waiting)
    stream = watch(api, worker_id).wait_for("start")
    before = list(stream.types)
    assert before == ["data-message"] * 5 + ["start"] + before[6:]

    running.open()
    waiting.wait_for(1)
    api.queue(worker_id, late)  # Accepted while it watches.
    waiting.open()
    late.wait_for(1)
    assert not stream.has_ended
    late.open()
    stream.read()

    worker = api.worker(worker_id)
    whole = told(stream.received)
    assert len(whole.turns) == 3
    assert whole.messages[:4] == worker["messages"][:4]
    assert whole.messages[4:] == worker["messages"][4::2]
    for turn, text in zip(whole.turns, ("three", "four", "five"), strict=True):
        check_same(folded(turn), worker)
        assert folded(turn).parts[-1]["text"] == text


def test_without_messages_only_the_turn_that_runs_then_close(
    api: Api, scripts: Scripts, worker_id: str
):
    running, waiting = scripts.held("three"), scripts.held("four")
    turn_id = api.queue(worker_id, running)
    running.wait_for(1)
    api.queue(worker_id, waiting)
    stream = watch(api, worker_id, messages=False).wait_for("start")
    running.open()
    fold = folded(stream.read())
    assert "data-message" not in stream.types
    assert fold.metadata is not None
    assert fold.metadata["turnId"] == turn_id
    assert fold.worker is not None
    assert fold.worker["messages"] == []
    assert fold.worker["running"] is True
    waiting.open()
    check_same(fold, api.wait_until_idle(worker_id))


def test_a_turn_that_was_cancelled_while_it_waited_is_told_as_such(
    api: Api, scripts: Scripts, worker_id: str
):
    running, waiting = scripts.held("three"), scripts.held("never")
    api.queue(worker_id, running)
    running.wait_for(1)
    stream = post(api, waiting, to=worker_id).wait_for("start")
    turn_id = stream.headers["x-handinger-turn-id"]
    cancel = api.client.post(f"/api/workers/{worker_id}/cancel", json={"turnId": turn_id})
    assert cancel.status_code == 200
    fold = folded(stream.read())
    assert fold.terminal == {"type": "abort"}
    assert fold.parts == []
    running.open()
    check_same(fold, api.wait_until_idle(worker_id))


def test_a_reader_of_a_worker_that_is_deleted_is_let_go(api: Api, scripts: Scripts):
    scripted = scripts.held()
    stream = post(api, scripted).wait_for("start-step")
    watching = watch(api, stream.worker_id).wait_for("start-step")
    assert api.client.delete(f"/api/workers/{stream.worker_id}").json() == {"deleted": True}
    stream.read()
    watching.read()
    assert "finish" not in stream.types


# Readers.


def gated(scripts: Scripts) -> Scripted:
    """A turn with a tool and then an answer that stops in the middle."""
    scripted = scripts.new()
    held = Step(text=["Half ", "a ", "sentence."], gate_after_chunks=(2, scripted.gate()))
    scripted.model.script(scripted.name, [STEPS[0], held])
    return scripted


def test_readers_who_join_at_different_times_get_the_same_story(api: Api, scripts: Scripts):
    scripted = gated(scripts)
    first = post(api, scripted).wait_for_text("Half a")
    joined = [watch(api, first.worker_id, messages=messages) for messages in (True, False) * 3]
    for stream in joined:
        stream.wait_for_text("Half a")
    scripted.open()
    late = watch(api, first.worker_id)
    folds = [folded(stream.read()) for stream in [first, *joined]]
    api.wait_until_idle(first.worker_id)
    for fold in folds:
        assert fold.parts == folds[0].parts
        assert fold.id == folds[0].id
        assert fold.terminal == {"type": "finish"}
    check_same(folds[0], api.worker(first.worker_id))
    late.read()
    message = late.events[-2]["data"] if "start" not in late.types else folded(late).parts
    assert message in (stored_message(api.worker(first.worker_id), folds[0].id), folds[0].parts)


def test_live_text_comes_while_the_model_still_speaks(api: Api, scripts: Scripts):
    scripted = gated(scripts)
    stream = post(api, scripted).wait_for_text("Half a")
    assert scripted.requests[-1].ended_at is None
    assert all(request.stream for request in scripted.requests)
    scripted.open()
    check_same(folded(stream.read()), api.worker(stream.worker_id))


def test_what_nobody_reads_is_not_streamed_and_told_in_one_piece_later(api: Api, scripts: Scripts):
    scripted = scripts.new()
    scripted.model.script(
        scripted.name,
        [
            Step(text=["In ", "one ", "piece."], tool_calls=[WRITE], gate=scripted.gate("first")),
            Step(text=["As ", "it ", "comes."], gate_after_chunks=(2, scripted.gate("second"))),
        ],
    )
    worker_id: str = api.start(scripted)["id"]
    scripted.wait_for(1)
    late = watch(api, worker_id).wait_for("start-step")
    scripted.open("first")
    late.wait_for_text("As it")
    scripted.open("second")
    late.read()
    assert [request.stream for request in scripted.requests] == [False, True]
    deltas = [event["delta"] for event in late.events if event["type"] == "text-delta"]
    assert deltas[0] == "In one piece."
    turn = told(late.received).turns[0]
    check_same(folded(turn), api.worker(worker_id))


def test_a_reader_who_hangs_up_disturbs_nobody(api: Api, scripts: Scripts):
    scripted = gated(scripts)
    stays = post(api, scripted).wait_for_text("Half")
    leaves = watch(api, stays.worker_id).wait_for_text("Half")
    leaves.cut_off()
    scripted.open()
    check_same(folded(stays.read()), api.worker(stays.worker_id))


# Repeated model calls.


def repeated(scripts: Scripts, *, failures: int = 1) -> Scripted:
    """A turn whose second model call breaks off after `Half a `; the third waits at the gate."""
    scripted = scripts.new()
    broken = Step(
        text=["Half ", "a ", "sentence ", "and more."],
        tool_calls=[ToolCall("list_files")],
        attempts=[HangUpAfterChunks(2)] * failures,
        # Slow enough that what came before the hang-up is read, and not lost with the connection.
        chunk_delay_s=0.2,
    )
    steps = [STEPS[0], broken, Step(text="Done.", gate=scripted.gate())]
    scripted.model.script(scripted.name, steps)
    return scripted


def test_a_call_that_breaks_off_in_mid_stream_is_withdrawn_and_told_anew(
    api: Api, scripts: Scripts
):
    scripted = repeated(scripts, failures=2)
    scripted.open()
    stream = post(api, scripted).read()
    fold = folded(stream)
    assert fold.retries == 2
    assert stream.text.count("Half ") == 3
    check_same(fold, api.worker(stream.worker_id))
    texts = [part["text"] for part in fold.parts if part["type"] == "text"]
    assert texts[1:] == ["Half a sentence and more.", "Done."]


def test_who_reconnects_with_an_id_of_withdrawn_text_is_told_to_drop_it(api: Api, scripts: Scripts):
    scripted = repeated(scripts)
    whole = post(api, scripted).wait_for("data-retry")
    retry = whole.types.index("data-retry")
    begun = max(i for i, kind in enumerate(whole.types[:retry]) if kind == "start-step")
    withdrawn = range(begun, retry)
    assert len(withdrawn) >= 2

    def resumed() -> list[tuple[int, Stream]]:
        ids = [(index, whole.received[index].id) for index in withdrawn]
        return [(i, watch(api, whole.worker_id, last_event_id=id)) for i, id in ids]

    while_running = resumed()
    scripted.open()
    whole.read()
    worker = api.worker(whole.worker_id)
    for index, stream in [*while_running, *resumed()]:
        stream.read()
        assert stream.types[0] == "data-retry"
        fold = folded(stream, into=folded(whole.received[: index + 1]))
        check_same(fold, worker)
        assert fold.retries == 1


def test_who_joins_after_a_withdrawal_hears_nothing_of_it(api: Api, scripts: Scripts):
    scripted = repeated(scripts)
    first = post(api, scripted).wait_for("data-retry")
    late = watch(api, first.worker_id, messages=False)
    scripted.open()
    fold = folded(late.read())
    assert fold.retries == 0
    assert late.text.count("Half") == 1
    check_same(fold, api.worker(first.worker_id))


@pytest.mark.slow
def test_a_ping_comes_when_nothing_happens_for_fifteen_seconds(api: Api, scripts: Scripts):
    scripted = scripts.held()
    stream = post(api, scripted).wait_for("start-step")
    wait_until(lambda: stream.comments, timeout_s=17)
    assert stream.comments == [b": ping\n"]
    scripted.open()
    check_same(folded(stream.read()), api.worker(stream.worker_id))
