"""What streams tell, and what happens when a connection is lost; each test judges both faces."""

import threading
from typing import Any

import pytest

from handinger import APIConnectionError, APIResponseError, Handinger, NotFoundError
from tests.sdk.faces import KEY, Face
from tests.sdk.stub import (
    IDS,
    TURN_ID,
    WORKER_ID,
    Stub,
    events,
    frame,
    hang_up,
    raw,
    reply,
    turn_frames,
    worker,
)

POST = "POST /api/workers"
UPDATES = f"GET /api/workers/{WORKER_ID}/stream"

FRAMES = turn_frames()
TYPES = [
    "start",
    "start-step",
    "text-start",
    "text-delta",
    "text-delta",
    "text-end",
    "finish-step",
    "data-worker",
    "finish",
]


def types(told: list[Any]) -> list[str]:
    return [event.type for event in told]


def last_ids(stub: Stub) -> list[str | None]:
    return [request.headers.get("last-event-id") for request in stub.requests]


def test_a_turn_is_told_to_its_end(stub: Stub, face: Face):
    stub.on(POST, events(*FRAMES))
    told, stream = face.stream("create", input="a", stream=True)
    assert types(told) == TYPES
    assert told[3].data == {"type": "text-delta", "id": "3", "delta": "Forty"}
    assert (told[3].id, told[3].turn_id) == (f"{TURN_ID}-1.0.3.5", TURN_ID)
    assert told[-2].worker is not None
    assert told[-2].worker.output_text == "Forty-two."
    assert (stream.worker_id, stream.turn_id) == (WORKER_ID, TURN_ID)
    assert stream.last_event_id == f"{TURN_ID}-1.0.6.1"
    assert stream.request_id == "req_1"
    (request,) = stub.requests
    assert request.json == {"input": "a", "stream": True}
    assert request.headers["accept"] == "text/event-stream"


def test_continue_streams_too(stub: Stub, face: Face):
    stub.on(f"POST /api/workers/{WORKER_ID}", events(*FRAMES))
    told, _ = face.stream("continue_", WORKER_ID, input="b", stream=True)
    assert types(told) == TYPES


@pytest.mark.parametrize("told_before", range(1, len(FRAMES)))
def test_a_lost_connection_is_taken_up_where_it_stopped(stub: Stub, face: Face, told_before: int):
    stub.on(POST, events(*FRAMES[:told_before], cut=True))
    stub.on(UPDATES, events(*FRAMES[told_before:]))
    told, _ = face.stream("create", input="a", stream=True)
    assert types(told) == TYPES
    assert last_ids(stub) == [None, told[told_before - 1].id]


def test_a_stream_that_ends_properly_before_its_turn_counts_as_lost(stub: Stub, face: Face):
    stub.on(POST, events(*FRAMES[:3]))
    stub.on(UPDATES, events(*FRAMES[3:]))
    assert types(face.stream("create", input="a", stream=True)[0]) == TYPES


def test_an_event_that_was_cut_in_the_middle_is_told_once(stub: Stub, face: Face):
    stub.on(POST, events(FRAMES[0], FRAMES[1][:-10], cut=True))
    stub.on(UPDATES, events(*FRAMES[1:]))
    assert types(face.stream("create", input="a", stream=True)[0]) == TYPES


def test_before_the_first_event_the_same_request_is_sent_again(stub: Stub, face: Face):
    stub.on(POST, hang_up(), events(cut=True), events(*FRAMES))
    assert types(face.stream("create", input="a", stream=True)[0]) == TYPES
    assert len(stub.requests) == 3
    assert len({request.headers["idempotency-key"] for request in stub.requests}) == 1


def test_after_a_reconnect_other_turns_are_skipped(stub: Stub, face: Face):
    other = [frame("start", "0.0.1.1", turn="trn_1"), frame("finish", "1.0.6.1", turn="trn_1")]
    stub.on(POST, events(*FRAMES[:4], cut=True))
    stub.on(UPDATES, events(*other, *FRAMES[4:6], cut=True), events(*FRAMES[6:], *other))
    told, stream = face.stream("create", input="a", stream=True)
    assert types(told) == TYPES
    assert {event.turn_id for event in told} == {TURN_ID}
    assert stream.last_event_id == told[-1].id


@pytest.mark.parametrize("end", ["finish", "abort", "error"])
def test_each_terminal_event_ends_the_stream_at_once(stub: Stub, end: str):
    # The connection stays open behind it, and nobody waits for more.
    hold = threading.Event()
    stub.on(POST, events(*FRAMES[:-1], frame(end, "1.0.6.1"), hold=hold))
    with Handinger(api_key=KEY, base_url=stub.url) as client:
        told = list(client.workers.create(input="a", stream=True))
    hold.set()
    assert types(told) == [*TYPES[:-1], end]


def test_without_progress_the_stream_gives_up(stub: Stub, face: Face):
    stub.on(POST, events(*FRAMES[:2], cut=True))
    stub.on(UPDATES, *[hang_up()] * 20)
    with pytest.raises(APIConnectionError):
        face.stream("create", input="a", stream=True)
    assert len(stub.requests) == 1 + 8


def test_progress_renews_the_patience(stub: Stub, face: Face):
    deltas = [frame("text-delta", f"1.0.3.{n}", id="3", delta="x") for n in range(1, 31)]
    lost = [events(delta, cut=True) for delta in deltas]
    stub.on(POST, events(*FRAMES[:3], cut=True))
    stub.on(UPDATES, *lost, events(*FRAMES[5:]))
    told, _ = face.stream("create", input="a", stream=True)
    assert types(told).count("text-delta") == 30
    assert types(told)[-1] == "finish"


def test_a_server_that_restarts_is_waited_for(stub: Stub, face: Face):
    stub.on(POST, events(*FRAMES[:2], cut=True))
    away = reply({"error": "Shutting down.", "code": "unavailable"}, 503)
    stub.on(UPDATES, away, hang_up(), raw(b"", 502), events(*FRAMES[2:]))
    assert types(face.stream("create", input="a", stream=True)[0]) == TYPES


def test_a_worker_that_was_deleted_meanwhile_is_not_found(stub: Stub, face: Face):
    stub.on(POST, events(*FRAMES[:2], cut=True))
    stub.on(UPDATES, reply({"error": "No such worker.", "code": "not_found"}, 404))
    with pytest.raises(NotFoundError, match="No such worker"):
        face.stream("create", input="a", stream=True)


def test_a_refused_request_is_raised_by_the_call_itself(stub: Stub, face: Face):
    stub.on(POST, reply({"error": "Too long.", "code": "invalid_input"}, 422))
    with pytest.raises(Exception, match="Too long"):
        face.call("create", input="a", stream=True)


def test_updates_are_told_until_the_server_closes(stub: Stub, face: Face):
    said = {"id": "msg_0", "role": "user", "parts": [{"type": "text", "text": "a"}]}
    before = frame("data-message", "0.0.0.1", turn="trn_1", data=said, transient=True)
    stub.on(UPDATES, events(before, *FRAMES, *turn_frames("More.")))
    told, stream = face.stream("stream_updates", WORKER_ID)
    assert types(told) == ["data-message", *TYPES, *TYPES]
    assert told[0].message is not None
    assert told[0].message.text == "a"
    assert (stream.worker_id, stream.turn_id) == (WORKER_ID, None)
    assert stub.requests[0].target == f"/api/workers/{WORKER_ID}/stream"


def test_updates_of_an_idle_worker_end_by_themselves(stub: Stub, face: Face):
    stub.on(UPDATES, events(frame("data-worker", "1.0.5.1", data=worker())))
    assert types(face.stream("stream_updates", WORKER_ID)[0]) == ["data-worker"]
    assert len(stub.requests) == 1


def test_updates_after_a_place_without_messages(stub: Stub, face: Face):
    stub.on(UPDATES, events(*FRAMES[2:4], cut=True), events(*FRAMES[4:]))
    told, _ = face.stream(
        "stream_updates", WORKER_ID, last_event_id=f"{TURN_ID}-1.0.2.1", messages=False
    )
    assert types(told) == TYPES[2:]
    assert last_ids(stub) == [f"{TURN_ID}-1.0.2.1", told[1].id]
    assert {request.target.partition("?")[2] for request in stub.requests} == {"messages=false"}


def test_updates_that_are_lost_between_turns_go_on(stub: Stub, face: Face):
    stub.on(UPDATES, events(*FRAMES, cut=True), events())
    told, _ = face.stream("stream_updates", WORKER_ID)
    assert types(told) == TYPES
    assert last_ids(stub) == [None, told[-1].id]


SAID = {"id": "msg_0", "role": "user", "parts": []}


@pytest.mark.parametrize(
    ("told_before", "is_end"),
    [
        # A server that shuts down ends its streams properly, wherever they stand.
        ([], True),
        ([frame("data-message", "0.0.0.1", data=SAID)], False),
        ([frame("data-message", "0.0.0.1", data=SAID), FRAMES[0]], False),
        ([frame("data-message", "0.0.0.1", data=SAID), FRAMES[-2]], True),
        # Inside a turn its terminal event must still come.
        (FRAMES[:-1], False),
        (FRAMES, True),
        ([*FRAMES, frame("data-message", "0.0.0.1", data=SAID, turn="trn_9")], False),
    ],
)
def test_updates_may_end_only_where_the_story_does(
    stub: Stub, face: Face, told_before: list[bytes], is_end: bool
):
    stub.on(UPDATES, events(*told_before), events(FRAMES[-1]))
    told, _ = face.stream("stream_updates", WORKER_ID)
    assert len(told) == len(told_before) + (not is_end)
    assert len(stub.requests) == 1 + (not is_end)


def test_nothing_to_tell_is_an_empty_stream(stub: Stub, face: Face):
    stub.on(UPDATES, raw(b"", 204, **IDS))
    assert face.stream("stream_updates", WORKER_ID, messages=False)[0] == []


def test_the_wished_delay_before_a_reconnect_is_kept(stub: Stub, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr("handinger.sdk.drivers.time.sleep", slept.append)
    stub.on(POST, events(b"retry: 2500\n\n", FRAMES[0], cut=True))
    stub.on(UPDATES, events(*FRAMES[1:]))
    with Handinger(api_key=KEY, base_url=stub.url) as client:
        list(client.workers.create(input="a", stream=True))
    assert slept == [pytest.approx(2.5, abs=0.01)]


def test_an_answer_that_is_no_stream_is_told_as_such(stub: Stub, face: Face):
    stub.on(UPDATES, reply(worker()))
    with pytest.raises(APIResponseError, match="no event stream"):
        face.call("stream_updates", WORKER_ID)


@pytest.mark.parametrize("data", [b"data: [DONE]\n\n", b"data: 1\n\n", b"data: {}\n\n"])
def test_what_is_no_event_of_the_api_is_an_error(stub: Stub, face: Face, data: bytes):
    stub.on(UPDATES, events(data))
    with pytest.raises(APIResponseError):
        face.stream("stream_updates", WORKER_ID)


def test_leaving_early_frees_the_connection_and_ends_the_iteration(stub: Stub):
    hold = threading.Event()
    stub.on(POST, events(*FRAMES[:4], hold=hold))
    with Handinger(api_key=KEY, base_url=stub.url) as client:
        with client.workers.create(input="a", stream=True) as stream:
            assert next(stream).type == "start"
        assert list(stream) == []
        assert stream.last_event_id == f"{TURN_ID}-0.0.1.1"
        stream.close()
    hold.set()
    assert len(stub.requests) == 1
