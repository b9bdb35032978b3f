"""Schedules, raw answers, options of single requests, paging and following; both clients."""

import datetime
from typing import Any

import pytest

from handinger import (
    APIResponse,
    APIResponseError,
    CronSchedule,
    DelayedSchedule,
    HandingerError,
    IntervalSchedule,
    NotFoundError,
    Schedule,
    ScheduledSchedule,
    TextDeltaEvent,
    Worker,
    WorkerEvent,
    WorkerSchedules,
)
from tests.sdk.faces import AsyncFace, Face, SyncFace
from tests.sdk.stub import TURN_ID, WORKER_ID, Stub, events, frame, reply, turn_frames, worker

ONE = f"/api/workers/{WORKER_ID}"
SCHEDULES = f"{ONE}/schedules"
UPDATES = f"GET {ONE}/stream"

FRAMES = turn_frames()

KINDS: list[tuple[dict[str, Any], dict[str, Any], type[Schedule]]] = [
    (
        {"type": "scheduled", "date": datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC)},
        {"type": "scheduled", "date": "2030-01-02T00:00:00+00:00"},
        ScheduledSchedule,
    ),
    (
        {"type": "delayed", "delay_in_seconds": 60},
        {"type": "delayed", "delayInSeconds": 60},
        DelayedSchedule,
    ),
    (
        {"type": "cron", "cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
        {"type": "cron", "cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
        CronSchedule,
    ),
    (
        # The names of the wire are understood as well.
        {"type": "interval", "intervalSeconds": 5},
        {"type": "interval", "intervalSeconds": 5},
        IntervalSchedule,
    ),
]


@pytest.mark.parametrize(("when", "sent", "kind"), KINDS)
def test_each_kind_of_schedule_is_created(
    stub: Stub, face: Face, when: dict[str, Any], sent: dict[str, Any], kind: type[Schedule]
):
    answer = {"id": "sch_1", "input": "Go.", "budget": "low", "nextRunAt": "2030-01-02T00:00:00Z"}
    stub.on(f"POST {SCHEDULES}", reply({**answer, **sent}))
    made = face.call("schedules.create", WORKER_ID, input="Go.", when=when, budget="low")
    assert type(made) is kind
    assert (made.next_run_at, made.budget) == ("2030-01-02T00:00:00Z", "low")
    (request,) = stub.requests
    assert request.json == {"input": "Go.", "budget": "low", "when": sent}
    assert request.headers["idempotency-key"]


def test_schedules_are_listed_by_their_kind_and_unknown_ones_too(stub: Stub, face: Face):
    listed = [
        {"id": "sch_1", "type": "cron", "cron": "* * * * *", "timezone": "UTC"},
        {"id": "sch_2", "type": "lunar", "phase": "full"},
    ]
    stub.on(f"GET {SCHEDULES}", reply({"schedules": listed, "workerId": WORKER_ID}))
    found: WorkerSchedules = face.call("schedules.list", WORKER_ID)
    cron, other = found.schedules
    assert isinstance(cron, CronSchedule)
    assert cron.cron == "* * * * *"
    assert (type(other), other.type) == (Schedule, "lunar")
    assert found.worker_id == WORKER_ID
    assert found.to_dict()["schedules"] == listed


def test_a_schedule_is_cancelled(stub: Stub, face: Face):
    stub.on(f"DELETE {SCHEDULES}/sch_1", reply({"cancelled": True}))
    assert face.call("schedules.cancel", "sch_1", worker_id=WORKER_ID).cancelled


def test_the_address_is_a_string(stub: Stub, face: Face):
    stub.on(f"GET {ONE}/email", reply("w-1@example.test"), reply({"a": 1}))
    assert face.call("retrieve_email", WORKER_ID) == "w-1@example.test"
    with pytest.raises(APIResponseError, match="no JSON string"):
        face.call("retrieve_email", WORKER_ID)


def test_a_raw_answer_has_status_headers_and_what_was_read(stub: Stub, face: Face):
    stub.on("POST /api/workers", reply(worker(), 202, X_Kind="test"))
    answer: APIResponse[Worker] = face.call("with_raw_response.create", input="a", background=True)
    assert (answer.status_code, answer.headers["X-Kind"]) == (202, "test")
    assert (answer.request_id, answer.worker_id, answer.turn_id) == ("req_1", WORKER_ID, TURN_ID)
    assert answer.json()["id"] == answer.parse().id == WORKER_ID
    assert answer.parse().to_dict() == answer.json()


def test_raw_answers_of_schedules(stub: Stub, face: Face):
    stub.on(f"DELETE {SCHEDULES}/sch_1", reply({"cancelled": True}))
    path = "with_raw_response.schedules.cancel"
    assert face.call(path, "sch_1", worker_id=WORKER_ID).json() == {"cancelled": True}


def test_errors_are_raised_for_raw_answers_too(stub: Stub, face: Face):
    stub.on(f"GET {ONE}", reply({"error": "Not there.", "code": "not_found"}, 404))
    with pytest.raises(NotFoundError) as caught:
        face.call("with_raw_response.retrieve", WORKER_ID)
    assert caught.value.request_id == "req_1"


def test_what_a_single_request_adds(stub: Stub, face: Face):
    stub.on("POST /api/workers", reply(worker()))
    face.call(
        "create",
        input="a",
        extra_headers={"Idempotency-Key": "mine", "X-Team": "blue"},
        extra_query={"messages": "false"},
        extra_body={"later": True, "input": "b"},
        timeout=5,
    )
    (request,) = stub.requests
    assert request.target == "/api/workers?messages=false"
    assert request.json == {"input": "b", "later": True}
    assert (request.headers["idempotency-key"], request.headers["x-team"]) == ("mine", "blue")


def test_later_connections_carry_what_the_first_did(stub: Stub, face: Face):
    stub.on("POST /api/workers", events(*FRAMES[:4], cut=True))
    stub.on(UPDATES, events(*FRAMES[4:]))
    extra = {"extra_headers": {"X-Team": "blue"}, "extra_body": {"a": 1}}
    told, _ = face.stream("create", input="a", stream=True, **extra)
    assert len(told) == len(FRAMES)
    assert [request.headers["x-team"] for request in stub.requests] == ["blue", "blue"]
    assert stub.requests[1].body == b""


def test_all_pages_are_gone_through(stub: Stub, face: Face):
    pages = [
        {"workers": [worker(id="wrk_1"), worker(id="wrk_2")], "nextCursor": "c"},
        {"workers": [worker(id="wrk_3")], "nextCursor": None},
    ]
    stub.on("GET /api/workers", *map(reply, pages))
    found = face.collect(face.call("iterate", status="completed"))
    assert [one.id for one in found] == ["wrk_1", "wrk_2", "wrk_3"]
    assert stub.requests[1].target == "/api/workers?limit=100&cursor=c&status=completed"


def test_all_turns_are_gone_through(stub: Stub, face: Face):
    turns = [{"turns": [{"id": f"trn_{n}"}], "nextCursor": "c" if n else None} for n in (1, 0)]
    stub.on(f"GET {ONE}/turns", *map(reply, turns))
    assert [turn.id for turn in face.collect(face.call("iterate_turns", WORKER_ID))] == [
        "trn_1",
        "trn_0",
    ]


def test_run_follows_the_turn_to_its_end_and_gives_the_worker(stub: Stub, face: Face):
    stub.on("POST /api/workers", events(*FRAMES[:4], cut=True))
    stub.on(UPDATES, events(*FRAMES[4:]))
    told: list[Any] = []
    done: Worker = face.call("run", "a", budget="low", on_event=told.append)
    assert done.output_text == "Forty-two."
    assert [event.delta for event in told if isinstance(event, TextDeltaEvent)] == [
        "Forty",
        "-two.",
    ]
    assert isinstance(told[-2], WorkerEvent)
    assert stub.requests[0].json == {"input": "a", "budget": "low", "stream": True}


def test_run_passes_on_what_the_callback_raises(stub: Stub, face: Face):
    stub.on("POST /api/workers", events(*FRAMES))

    def refuse(event: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        face.call("run", "a", on_event=refuse)


def test_wait_gives_the_worker_once_it_is_idle(stub: Stub, face: Face):
    stub.on(UPDATES, events(*FRAMES))
    assert face.call("wait", WORKER_ID).output_text == "Forty-two."


def test_a_worker_from_a_client_can_be_followed(stub: Stub, face: Face):
    stub.on("POST /api/workers", reply(worker(status="pending", running=True), 202))
    stub.on(UPDATES, events(*FRAMES[:3], cut=True), events(*FRAMES[3:]))
    made: Worker = face.call("create", input="a", background=True)
    told = face.collect(made.follow())
    assert len(told) == len(FRAMES)


def test_a_worker_of_a_list_can_be_followed(stub: Stub, face: Face):
    stub.on("GET /api/workers", reply({"workers": [worker()], "nextCursor": None}))
    stub.on(UPDATES, events(frame("data-worker", data=worker(), transient=True)))
    (found,) = face.call("list").workers
    assert face.collect(found.follow())[0].worker.id == WORKER_ID


def test_a_worker_from_nowhere_cannot_be_followed():
    with pytest.raises(HandingerError, match="came from no client"):
        Worker(id=WORKER_ID).follow()


def test_following_in_the_wrong_kind_of_program_says_so(stub: Stub):
    stub.on(f"GET {ONE}", reply(worker()), reply(worker()))
    blocking, asynchronous = SyncFace(stub.url), AsyncFace(stub.url)
    try:
        with pytest.raises(HandingerError, match="without async"):
            asynchronous.collect(blocking.call("retrieve", WORKER_ID).follow())
        with pytest.raises(HandingerError, match="use `async for`"):
            blocking.collect(asynchronous.call("retrieve", WORKER_ID).follow())
    finally:
        blocking.close()
        asynchronous.close()
