"""Schedules, mails, usage, raw answers, options of single requests, paging; both clients."""

import datetime
import inspect
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from handinger import (
    APIResponse,
    APIResponseError,
    AsyncHandinger,
    CronSchedule,
    DelayedSchedule,
    Handinger,
    HandingerError,
    IntervalSchedule,
    NotFoundError,
    Schedule,
    ScheduledSchedule,
    SkippedFiring,
    TextDeltaEvent,
    Worker,
    WorkerEvent,
    WorkerSchedules,
)
from handinger.sdk import operations
from tests.sdk.faces import KEY, AsyncFace, Face, SyncFace
from tests.sdk.stub import TURN_ID, WORKER_ID, Stub, events, frame, raw, reply, turn_frames, worker

ROOT = Path(__file__).parents[2]
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


SKIPPED: dict[str, Any] = {"reason": "missed", "message": "No server ran.", "times": 3}
DETAILS: dict[str, Any] = {
    "id": "sch_1",
    "type": "cron",
    "cron": "@daily",
    "timezone": "UTC",
    "input": "Go.",
    "budget": "low",
    "nextRunAt": "2030-01-03T00:00:00.000Z",
    "paused": True,
    "createdAt": "2030-01-01T00:00:00.000Z",
    "createdBy": "agent",
    "firings": [
        {
            "dueAt": "2030-01-02T00:00:00.000Z",
            "firedAt": "2030-01-02T00:00:00.100Z",
            "turnId": None,
            "skipped": SKIPPED,
        }
    ],
    "nextRuns": ["2030-01-03T00:00:00.000Z"],
}


def test_a_schedule_is_retrieved_with_what_came_of_it(stub: Stub, face: Face):
    stub.on(f"GET {SCHEDULES}/sch_1", reply(DETAILS))
    found = face.call("schedules.retrieve", "sch_1", worker_id=WORKER_ID)
    assert isinstance(found, CronSchedule)
    assert (found.paused, found.created_by, len(found.next_runs)) == (True, "agent", 1)
    (firing,) = found.firings
    assert (firing.turn_id, firing.skipped) == (None, SkippedFiring(**SKIPPED))
    assert found.to_dict() == DETAILS


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        ({"paused": False}, {"paused": False}),
        ({"input": "Go on.", "budget": "high"}, {"input": "Go on.", "budget": "high"}),
        (
            {"when": {"type": "delayed", "delay_in_seconds": 60}},
            {"when": {"type": "delayed", "delayInSeconds": 60}},
        ),
        ({}, {}),
    ],
)
def test_a_schedule_is_sent_what_changes_and_nothing_else(
    stub: Stub, face: Face, changes: dict[str, Any], sent: dict[str, Any]
):
    stub.on(f"PATCH {SCHEDULES}/sch_1", reply(DETAILS))
    assert face.call("schedules.update", "sch_1", worker_id=WORKER_ID, **changes).id == "sch_1"
    assert stub.requests[0].json == sent


MAIL: dict[str, Any] = {
    "id": "eml_1",
    "direction": "in",
    "status": "turn",
    "from": "ada@example.org",
    "to": "worker+1@example.org",
    "subject": "A task",
    "messageId": "<1@example.org>",
    "turnId": "trn_1",
    "size": 100,
    "attempts": None,
    "error": None,
    "verdict": {"verified": True},
    "createdAt": "2030-01-01T00:00:00.000Z",
    "deliveredAt": None,
}


def test_mails_are_listed_page_by_page(stub: Stub, face: Face):
    pages = [
        {"emails": [MAIL], "nextCursor": "c"},
        {"emails": [{**MAIL, "id": "eml_2"}], "nextCursor": None},
    ]
    stub.on(f"GET {ONE}/emails", *map(reply, [pages[0], *pages]))
    page = face.call("emails.list", WORKER_ID, limit=1)
    assert page.to_dict() == pages[0]
    assert (page.emails[0].from_, page.emails[0].turn_id) == ("ada@example.org", "trn_1")
    found = face.collect(face.call("emails.iterate", WORKER_ID))
    assert [mail.id for mail in found] == ["eml_1", "eml_2"]
    assert [request.target.partition("?")[2] for request in stub.requests] == [
        "limit=1",
        "limit=100",
        "limit=100&cursor=c",
    ]


def test_a_mail_is_given_as_it_came(stub: Stub, face: Face):
    stub.on(f"GET {ONE}/emails/eml_1", raw(b"From: a\r\n\r\n\xff", Content_Type="message/rfc822"))
    mail = face.call("emails.retrieve", "eml_1", worker_id=WORKER_ID)
    assert (mail.read(), mail.media_type) == (b"From: a\r\n\r\n\xff", "message/rfc822")


SPENT = {"costs": {"modelCostUsd": 0.5}, "usage": {"steps": 3, "totalTokens": 10, "costUsd": 0.5}}


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ({}, ""),
        ({"group_by": "model"}, "groupBy=model"),
        (
            {"from_": datetime.date(2026, 1, 1), "to": "2026-02-01"},
            "from=2026-01-01&to=2026-02-01",
        ),
        # A plus sign in a query would be a space.
        (
            {"from_": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)},
            "from=2026-01-01T00%3A00%3A00%2B00%3A00",
        ),
    ],
)
def test_usage_is_summed_up(stub: Stub, face: Face, asked: dict[str, Any], query: str):
    told = {
        "from": "2026-01-01T00:00:00.000Z",
        "to": "2026-02-01T00:00:00.000Z",
        "groupBy": "model",
        "groups": [{"key": "demo", **SPENT}],
        "total": SPENT,
        "balanceCredits": 7,
        "monthlyCapUsd": None,
        "monthUsd": None,
    }
    stub.on("GET /api/usage", reply(told))
    report = face.call("usage.retrieve", **asked)
    assert report.to_dict() == told
    assert (report.groups[0].key, report.groups[0].usage.steps) == ("demo", 3)
    assert (report.total.costs.model_cost_usd, report.balance_credits) == (0.5, 7)
    assert report.from_.startswith("2026-01-01")
    assert stub.requests[0].target.partition("?")[2] == query


@pytest.mark.parametrize("allow", [["ada@example.org", "example.com"], [], None])
def test_email_settings_are_read_and_replaced(stub: Stub, face: Face, allow: list[str] | None):
    told = {"allow": allow or ["server.example"], "isDefault": allow is None}
    stub.on("GET /api/email-settings", reply(told))
    stub.on("PUT /api/email-settings", reply(told))
    assert face.call("email_settings.retrieve").allow == told["allow"]
    assert face.call("email_settings.update", allow=allow).is_default == (allow is None)
    assert stub.requests[1].json == {"allow": allow}


@pytest.mark.parametrize(
    "path", ["usage.with_raw_response.retrieve", "email_settings.with_raw_response.retrieve"]
)
def test_raw_answers_of_the_organization(stub: Stub, face: Face, path: str):
    stub.on("GET /api/usage", reply({"balanceCredits": 1}))
    stub.on("GET /api/email-settings", reply({"balanceCredits": 1}))
    answer = face.call(path)
    assert (answer.status_code, answer.json()) == (200, {"balanceCredits": 1})


# What is for others than callers of the SDK: probes, mail providers, readers of a mail.
NOT_FOR_CALLERS = {
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "POST /api/inbound-email",
    "GET /api/email-files/{token}/{number}",
}
GIVEN: dict[str, Any] = {
    "worker_id": "{workerId}",
    "turn_id": "{turnId}",
    "schedule_id": "{scheduleId}",
    "email_id": "{emailId}",
    "path": "{filePath}",
    "when": {},
    "allow": [],
}


def asked_by(operation: Any) -> str:
    """The route of a function of `operations`."""
    parameters = inspect.signature(operation).parameters.values()
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    made = operation(**{name: GIVEN.get(name, "a") for name in needed})
    request = getattr(made, "request", made)
    return f"{request.method} {unquote(request.path)}"


def test_every_route_for_callers_can_be_asked():
    described: dict[str, Any] = json.loads((ROOT / "openapi.json").read_text())["paths"]
    routes = {f"{method.upper()} {path}" for path, of in described.items() for method in of}
    asked = {
        asked_by(function)
        for name, function in inspect.getmembers(operations, inspect.isfunction)
        if function.__module__ == operations.__name__ and name != "streamed" and name[0] != "_"
    }
    assert asked == routes - NOT_FOR_CALLERS


def methods_of(given: Any) -> set[str]:
    return {name for name in dir(given) if not name.startswith("_")}


STREAMED = {"stream_updates", "run", "wait", "download_file", "iterate", "iterate_turns", "follow"}


@pytest.mark.parametrize(
    "path", ["", "workers", "workers.schedules", "workers.emails", "usage", "email_settings"]
)
def test_both_clients_have_the_same_methods_also_for_raw_answers(path: str):
    blocking: Any = Handinger(api_key=KEY)
    asynchronous: Any = AsyncHandinger(api_key=KEY)
    for name in filter(None, path.split(".")):
        blocking, asynchronous = getattr(blocking, name), getattr(asynchronous, name)
    assert methods_of(blocking) == methods_of(asynchronous)
    if path:
        raw_ones = methods_of(blocking.with_raw_response)
        assert raw_ones == methods_of(asynchronous.with_raw_response)
        assert raw_ones == methods_of(blocking) - STREAMED - {"with_raw_response"}


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
