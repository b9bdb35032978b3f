"""Schedules over HTTP: what they look like, and what is refused (1.2, 1.4)."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx2
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.conftest import Connect, StartServer
from tests.contract.test_hostile import ANY_JSON, ANY_TEXT, FUZZ, JSON
from tests.contract.wire import Json, error_in, worker_in
from tests.contract.world import Api, Scripted, Scripts, wait_until
from tests.support.model_server import Step, ToolCall

NO_SCHEDULE = "sch_" + "0" * 32


@pytest.fixture
def worker_id(api: Api, scripts: Scripts) -> str:
    return worker_in(api.create(scripts(Step(text="ready"))))["id"]


def _path(worker_id: str, schedule_id: str = "") -> str:
    return f"/api/workers/{worker_id}/schedules" + (f"/{schedule_id}" if schedule_id else "")


def post(api: Api, worker_id: str, when: Any, **fields: Any) -> httpx2.Response:
    body = {"input": "Tick.", "when": when, **fields}
    return api.client.post(_path(worker_id), json=body)


def made(api: Api, worker_id: str, when: Any, **fields: Any) -> Json:
    answer = post(api, worker_id, when, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def moment(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


IN_A_DAY: Json = {"type": "delayed", "delayInSeconds": 86_400}


def test_one_of_each_type_is_listed_soonest_first(api: Api, worker_id: str):
    date = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    whens = [
        {"type": "scheduled", "date": date},
        {"type": "delayed", "delayInSeconds": 86_400},
        {"type": "interval", "intervalSeconds": 7200},
        {"type": "cron", "cron": "0 9 * * *", "timezone": "Europe/Madrid"},
    ]
    schedules = [made(api, worker_id, when, budget="low") for when in whens]
    for schedule, when in zip(schedules, whens, strict=True):
        own = {name: value for name, value in when.items() if name != "date"}
        assert schedule == {
            "id": schedule["id"],
            "input": "Tick.",
            "budget": "low",
            "nextRunAt": schedule["nextRunAt"],
            "paused": False,
            **own,
        }
    listed = api.client.get(_path(worker_id)).json()
    assert listed["workerId"] == worker_id
    assert listed["schedules"] == sorted(schedules, key=lambda one: one["nextRunAt"])


def test_a_delayed_one_fires_once_and_leaves_the_list(api: Api, scripts: Scripts, worker_id: str):
    script = scripts(Step(text="tock"))
    schedule = made(api, worker_id, {"type": "delayed", "delayInSeconds": 1}, input=script.input)
    path = _path(worker_id, schedule["id"])
    details = wait_until(lambda: (d := api.client.get(path).json())["firings"] and d)
    (firing,) = details["firings"]
    assert firing["dueAt"] == schedule["nextRunAt"] <= firing["firedAt"]
    assert firing["skipped"] is None
    assert (details["nextRunAt"], details["nextRuns"]) == (None, [])
    turn = wait_until(lambda: _ended(api, worker_id, firing["turnId"]))
    assert (turn["source"], turn["output_text"]) == ("schedule", "tock")
    said = [m["metadata"]["source"] for m in api.worker(worker_id)["messages"]]
    assert said == ["api", "api", "schedule", "schedule"]
    assert api.client.get(_path(worker_id)).json()["schedules"] == []
    for method in ("DELETE", "PATCH"):
        error_in(api.client.request(method, path, json={}), 404, "not_found")


def _ended(api: Api, worker_id: str, turn_id: str) -> Json | None:
    turn = api.client.get(f"/api/workers/{worker_id}/turns/{turn_id}").json()
    return turn if turn["status"] == "completed" else None


def _call(scripts: Scripts, tool: str, arguments: Json, *, then: str = "done") -> Any:
    return scripts(Step(tool_calls=[ToolCall(tool, arguments)]), Step(text=then))


def _results(script: Scripted) -> list[str]:
    """What the model was told that its tools did."""
    last = script.requests[-1]
    return [str(message["content"]) for message in last.messages if message["role"] == "tool"]


def test_an_agent_schedules_lists_and_cancels(api: Api, scripts: Scripts):
    when: Json = {"type": "cron", "cron": "0 9 * * MON", "timezone": "Europe/Madrid"}
    script = scripts(
        Step(tool_calls=[ToolCall("schedule", {"input": " Remind me. ", "when": when})]),
        Step(tool_calls=[ToolCall("list_schedules", {})]),
        Step(text="done"),
    )
    worker = worker_in(api.create(script))
    made_, listed = (json.loads(result) for result in _results(script))
    (schedule,) = api.client.get(_path(worker["id"])).json()["schedules"]
    assert made_ == schedule == listed[0]
    assert (schedule["input"], schedule["budget"]) == ("Remind me.", "standard")
    assert moment(schedule["nextRunAt"]).astimezone(ZoneInfo("Europe/Madrid")).hour == 9
    details = api.client.get(_path(worker["id"], schedule["id"])).json()
    assert details["createdBy"] == "agent"
    cancel = _call(scripts, "cancel_schedule", {"schedule_id": schedule["id"]})
    api.go_on(worker["id"], cancel)
    assert [json.loads(result) for result in _results(cancel)[-1:]] == [{"cancelled": True}]
    assert api.client.get(_path(worker["id"])).json()["schedules"] == []
    again = _call(scripts, "cancel_schedule", {"schedule_id": schedule["id"]})
    api.go_on(worker["id"], again)
    assert "You have no schedule" in _results(again)[-1]


def test_a_turn_of_an_agents_own_schedule_says_so(api: Api, scripts: Scripts):
    later = scripts(Step(text="later"))
    when = {"type": "delayed", "delayInSeconds": 1}
    worker = worker_in(api.create(_call(scripts, "schedule", {"input": later.input, "when": when})))
    turn = wait_until(
        lambda: next((t for t in api.turns(worker["id"]) if t["output_text"] == "later"), None)
    )
    assert turn["source"] == "agent"
    assert api.worker(worker["id"])["messages"][-1]["metadata"]["source"] == "agent"


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"type": "interval", "intervalSeconds": 59}, "at most every 60 seconds"),
        ({"type": "cron", "cron": "61 * * * *"}, "minute '61'"),
        ({"type": "scheduled", "date": "2020-01-01T00:00:00Z"}, "in the past"),
        ({"type": "never"}, "scheduled"),
    ],
)
def test_what_an_agent_may_not_schedule_is_told_to_it(
    api: Api, scripts: Scripts, when: Json, expected: str
):
    script = _call(scripts, "schedule", {"input": "x", "when": when})
    worker = worker_in(api.create(script))
    assert expected in _results(script)[-1]
    assert worker["output_text"] == "done"
    assert api.client.get(_path(worker["id"])).json()["schedules"] == []


def test_a_turn_that_an_agent_gave_itself_cannot_wake_it_at_once_again(api: Api, scripts: Scripts):
    soon = {"type": "delayed", "delayInSeconds": 1}
    second = _call(scripts, "schedule", {"input": "x", "when": soon}, then="second")
    first = _call(scripts, "schedule", {"input": second.input, "when": soon})
    worker = worker_in(api.create(first))
    wait_until(lambda: any(t["output_text"] == "second" for t in api.turns(worker["id"])))
    assert "at most every 60 seconds" in _results(second)[-1]


def test_an_agent_may_have_twenty_schedules_of_its_own(api: Api, scripts: Scripts, worker_id: str):
    made(api, worker_id, IN_A_DAY)  # Somebody else's does not count.
    call = ToolCall("schedule", {"input": "x", "when": IN_A_DAY})
    script = scripts(Step(tool_calls=[call] * 21), Step(text="done"))
    api.go_on(worker_id, script)
    assert ["id" in json.loads(result) for result in _results(script)[-21:]] == [True] * 20 + [
        False
    ]
    assert "20 may be" in _results(script)[-1]
    assert len(api.client.get(_path(worker_id)).json()["schedules"]) == 21


# Changing one


def patch(api: Api, worker_id: str, schedule_id: str, **fields: Any) -> httpx2.Response:
    return api.client.patch(_path(worker_id, schedule_id), json=fields)


def test_a_change_leaves_the_rest_as_it_is(api: Api, worker_id: str):
    schedule = made(api, worker_id, {"type": "interval", "intervalSeconds": 7200}, budget="low")
    changed = patch(api, worker_id, schedule["id"], input=" Tock. ", budget="high").json()
    assert changed == {**schedule, "input": "Tock.", "budget": "high"}
    assert patch(api, worker_id, schedule["id"]).json() == changed
    paused = patch(api, worker_id, schedule["id"], paused=True).json()
    assert paused == {**changed, "paused": True}
    (listed,) = api.client.get(_path(worker_id)).json()["schedules"]
    assert listed == paused
    assert patch(api, worker_id, schedule["id"], paused=False).json() == changed
    when = {"type": "cron", "cron": "0 9 * * MON", "timezone": "Europe/Madrid"}
    anew = patch(api, worker_id, schedule["id"], when=when).json()
    assert anew == {
        "id": schedule["id"],
        "input": "Tock.",
        "budget": "high",
        "paused": False,
        "nextRunAt": anew["nextRunAt"],
        **when,
    }
    assert moment(anew["nextRunAt"]).astimezone(ZoneInfo("Europe/Madrid")).weekday() == 0


def test_nobody_elses_schedule_can_be_read_changed_or_cancelled(
    api: Api, other: Api, scripts: Scripts, worker_id: str
):
    schedule = made(api, worker_id, IN_A_DAY)
    second = worker_in(api.create(scripts(Step(text="ready"))))["id"]
    for who, whose, which in (
        (other, worker_id, schedule["id"]),
        (api, second, schedule["id"]),
        (api, worker_id, NO_SCHEDULE),
    ):
        for method in ("GET", "PATCH", "DELETE"):
            body = {"paused": True} if method == "PATCH" else None
            answer = who.client.request(method, _path(whose, which), json=body)
            error_in(answer, 404, "not_found")
    error_in(other.client.get(_path(worker_id)), 404, "not_found")
    error_in(post(other, worker_id, IN_A_DAY), 404, "not_found")
    assert api.client.get(_path(worker_id)).json()["schedules"] == [schedule]


INVALID: list[tuple[Json, list[str | int], str]] = [
    ({"input": " "}, ["input"], "must not be empty"),
    ({"budget": "vast"}, ["budget"], "low"),
    ({"when": {"type": "never"}}, ["when"], "scheduled"),
    ({"when": {"type": "cron", "cron": "0 25 * * *"}}, ["when", "cron"], "the hour '25'"),
    ({"when": {"type": "cron", "cron": "0 0 30 2 *"}}, ["when", "cron"], "never fires"),
    (
        {"when": {"type": "cron", "cron": "@daily", "timezone": "Madrid"}},
        ["when", "timezone"],
        "is no IANA time zone",
    ),
    (
        {"when": {"type": "scheduled", "date": "2020-01-01T00:00:00Z"}},
        ["when", "date"],
        "in the past",
    ),
    ({"when": {"type": "scheduled", "date": "tomorrow"}}, ["when", "date"], "ISO 8601"),
    ({"when": {"type": "delayed", "delayInSeconds": 0}}, ["when", "delayInSeconds"], "1"),
    ({"when": {"type": "interval", "intervalSeconds": 1.5}}, ["when", "intervalSeconds"], ""),
    ({"when": {"type": "interval"}}, ["when", "intervalSeconds"], ""),
]


@pytest.mark.parametrize(("fields", "path", "message"), INVALID)
def test_what_is_wrong_is_named_by_its_path(
    api: Api, worker_id: str, fields: Json, path: list[str | int], message: str
):
    schedule = made(api, worker_id, IN_A_DAY)
    answers = [
        post(api, worker_id, **{"when": IN_A_DAY, **fields}),
        patch(api, worker_id, schedule["id"], **fields),
    ]
    for answer in answers:
        error = error_in(answer, 422, "invalid_input")
        (detail,) = error["details"]
        assert detail["path"] == path
        assert message in detail["message"]
    assert api.client.get(_path(worker_id)).json()["schedules"] == [schedule]


def test_a_repeated_request_makes_one_schedule(api: Api, worker_id: str):
    headers = {"Idempotency-Key": worker_id}
    body: Json = {"input": "Tick.", "when": IN_A_DAY}
    sent = [
        api.beside(api.client.post, _path(worker_id), json=body, headers=headers) for _ in range(4)
    ]
    answers = [one.result(timeout=30) for one in sent]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.text for answer in answers}) == 1
    assert api.client.get(_path(worker_id)).json()["schedules"] == [answers[0].json()]
    changed = {**body, "input": "Tock."}
    answer = api.client.post(_path(worker_id), json=changed, headers=headers)
    error_in(answer, 422, "idempotency_key_reused")


def test_a_hundred_may_have_something_to_do_yet(api: Api, worker_id: str):
    sent = [api.beside(post, api, worker_id, IN_A_DAY) for _ in range(100)]
    ids = [one.result(timeout=60).json()["id"] for one in sent]
    error = error_in(post(api, worker_id, IN_A_DAY), 409, "too_many_schedules")
    assert "100" in error["error"]
    assert api.client.delete(_path(worker_id, ids[0])).json() == {"cancelled": True}
    made(api, worker_id, IN_A_DAY)


# Whatever is sent, or stored


def test_one_that_cannot_be_read_is_listed_with_the_reason(
    api: Api, worker_id: str, database: psycopg.Connection
):
    daily = {"type": "cron", "cron": "@daily", "timezone": "Europe/Madrid"}
    sound, broken = (made(api, worker_id, daily) for _ in range(2))
    database.execute(
        "UPDATE schedules SET timing = replace(timing::text, 'Madrid', 'Atlantis')::json"
        " WHERE id = %s",
        [broken["id"]],
    )
    listed = {one["id"]: one for one in api.client.get(_path(worker_id)).json()["schedules"]}
    assert listed[sound["id"]] == sound
    error = listed[broken["id"]].pop("error")
    assert "timezone: 'Europe/Atlantis' is no IANA time zone" in error
    assert listed[broken["id"]] == {**broken, "timezone": "Europe/Atlantis"}
    assert api.client.get(_path(worker_id, broken["id"])).json()["error"] == error
    assert patch(api, worker_id, broken["id"], when=daily).json() == broken
    assert api.client.delete(_path(worker_id, broken["id"])).json() == {"cancelled": True}


FEWER = settings(FUZZ, max_examples=25)
_TERMS = st.sampled_from(["*", "0", "*/5", "1-5", "MON", "jan", "5/25", "59", "7", "31"])
_ODD_TERMS = st.text("0123456789*/,-?#LWAJ@ ", max_size=6)
EXPRESSIONS = (
    st.lists(_TERMS, min_size=5, max_size=5).map(" ".join)
    | st.lists(_TERMS | _ODD_TERMS, max_size=7).map(" ".join)
    | st.sampled_from(["@daily", "@reboot", "0 0 30 2 *", "*," * 2000 + "* * * * *"])
    | ANY_TEXT
)
ZONES = st.sampled_from(["UTC", "Europe/Madrid", "../../etc/passwd", "x" * 70, "", "\0"]) | ANY_TEXT
DATES = (
    st.datetimes().map(datetime.isoformat)
    | st.sampled_from([
        "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2039-02-30T00:00", "2039-W01-1",
        "2039-05-01T09:00:00", "2039-05-01T09:00:00.123456789Z", "20390501T090000+0200",
    ])
    | ANY_TEXT
)  # fmt: skip
SECONDS = st.sampled_from([1, 60, 31_536_000, 31_536_001, 0, -1, 1e3, "60", True]) | ANY_JSON
TYPES = st.sampled_from(["scheduled", "delayed", "cron", "interval"])
WHENS = (
    st.fixed_dictionaries(
        {
            "type": TYPES | ANY_JSON,
            "date": DATES | ANY_JSON,
            "delayInSeconds": SECONDS,
            "cron": EXPRESSIONS | ANY_JSON,
            "intervalSeconds": SECONDS,
        },
        optional={"timezone": ZONES | ANY_JSON},
    )
    | ANY_JSON
)
BODIES = (
    st.fixed_dictionaries(
        {"when": WHENS},
        optional={
            "input": st.just("Tick.") | ANY_JSON,
            "budget": st.sampled_from(["low", "vast"]) | ANY_JSON,
            "paused": st.booleans() | ANY_JSON,
        },
    )
    | ANY_JSON
)


@FEWER
@given(body=BODIES)
def test_no_body_gives_a_5xx_and_what_is_refused_changes_nothing(
    api: Api, resting: str, body: object
):
    kept = made(api, resting, {"type": "scheduled", "date": "2039-05-01T09:00:00Z"})
    content = json.dumps(body).encode()
    created, changed = (
        api.client.request(method, path, content=content, headers=JSON)
        for method, path in (("POST", _path(resting)), ("PATCH", _path(resting, kept["id"])))
    )
    listed = {one["id"]: one for one in api.client.get(_path(resting)).json()["schedules"]}
    expected: Json = {}
    for answer in (created, changed):
        if answer.status_code == 200:
            # One that fires soon may have done so.
            expected[answer.json()["id"]] = listed.get(answer.json()["id"])
        else:
            assert answer.status_code in (400, 422), (answer.text, content)
            error_in(answer, answer.status_code)
    if changed.status_code != 200:
        expected[kept["id"]] = kept
    assert {**expected, **listed} == expected
    for schedule_id in {*expected, kept["id"]}:
        assert api.client.delete(_path(resting, schedule_id)).status_code in (200, 404)


@pytest.fixture(scope="module")
def resting(api: Api, scripts: Scripts) -> str:
    """A worker whose further turns say anything."""
    return worker_in(api.create(scripts(Step(text="ready"))))["id"]


@FEWER
@given(schedule_id=ANY_TEXT, body=ANY_JSON)
def test_no_id_gives_a_5xx(api: Api, resting: str, schedule_id: str, body: object):
    name = quote(schedule_id, safe="", errors="replace")
    path = f"{_path(resting)}/{name}"
    for method in ("GET", "PATCH", "DELETE"):
        content = json.dumps(body).encode() if method == "PATCH" else None
        answer = api.client.request(method, path, content=content, headers=JSON)
        assert answer.status_code < 500, (answer.text, schedule_id)


# A conversation


@pytest.fixture(scope="module")
def demo(new_server: StartServer, connect: Connect) -> Api:
    """Of a server with the demo model."""
    server = new_server("demo_schedules", {"HANDINGER_MODEL": "demo"})
    return connect(server, server.key)


def test_remind_me_every_monday_at_9_in_madrid(demo: Api):
    worker = worker_in(demo.create("Remind me every Monday at 9 in Madrid to water the plants"))
    assert "I scheduled this" in worker["output_text"]
    (schedule,) = demo.client.get(_path(worker["id"])).json()["schedules"]
    assert (schedule["type"], schedule["timezone"]) == ("cron", "Europe/Madrid")
    details = demo.client.get(_path(worker["id"], schedule["id"])).json()
    assert details["createdBy"] == "agent"
    assert len(details["nextRuns"]) == 10
    for text in details["nextRuns"]:
        local = moment(text).astimezone(ZoneInfo("Europe/Madrid"))
        assert (local.weekday(), local.hour, local.minute) == (0, 9, 0)
    listed = worker_in(demo.go_on(worker["id"], "List my schedules"))
    assert schedule["id"] in listed["output_text"]
    worker_in(demo.go_on(worker["id"], "Cancel the schedule"))
    assert demo.client.get(_path(worker["id"])).json()["schedules"] == []


def test_a_schedule_made_while_its_worker_goes_is_made_or_not_found(api: Api, scripts: Scripts):
    instruction = scripts(Step(text="x"), after_last="repeat")
    seen: set[int] = set()
    for _ in range(5):
        worker_id = worker_in(api.create(instruction))["id"]
        posts = [api.beside(post, api, worker_id, IN_A_DAY) for _ in range(8)]
        deleted = api.beside(api.client.delete, f"/api/workers/{worker_id}")
        posts += [api.beside(post, api, worker_id, IN_A_DAY) for _ in range(8)]
        seen |= {answer.result().status_code for answer in posts}
        assert deleted.result().status_code == 200
    assert seen <= {200, 404}, seen
