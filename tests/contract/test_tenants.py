"""Nobody sees, or can tell that there is, anything of another organization (0)."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from tests.contract.routes import COLLECTIONS, OPEN, Route, routes, worker_routes
from tests.contract.wire import Json, error_in, turns_in, worker_in, workers_in
from tests.contract.world import Api, Scripted, Scripts
from tests.support.model_server import Step, ToolCall

NO_WORKER = "wrk_" + "0" * 32
NO_TURN = "trn_" + "0" * 32
NO_SCHEDULE = "sch_" + "0" * 32
NO_EMAIL = "eml_" + "0" * 32


@dataclass(frozen=True)
class Foreign:
    """A worker of somebody else, with everything that a path can name, while it works."""

    owner: Api
    worker_id: str
    turn_id: str
    schedule_id: str
    second: Scripted

    @property
    def values(self) -> dict[str, str]:
        """Where its parts are; a new path parameter needs one of these."""
        return {
            "workerId": self.worker_id,
            "turnId": self.turn_id,
            "scheduleId": self.schedule_id,
            "filePath": "secret.txt",
            "emailId": NO_EMAIL,  # mails that exist are tried in tests/email
        }


NOTHING = {
    "workerId": NO_WORKER,
    "turnId": NO_TURN,
    "scheduleId": NO_SCHEDULE,
    "filePath": "nothing.txt",
    "emailId": NO_EMAIL,
}


@pytest.fixture(scope="module")
def foreign(api: Api, scripts: Scripts) -> Iterator[Foreign]:
    write = ToolCall("write_file", {"path": "secret.txt", "content": "secret"})
    worker = worker_in(api.create(scripts(Step(tool_calls=[write]), Step(text="secret"))))
    second = scripts.held("secret")
    api.queue(worker["id"], second)
    second.wait_for(1)
    api.queue(worker["id"], second)
    turn_id = api.turns(worker["id"])[0]["id"]
    when = {"type": "delayed", "delayInSeconds": 86_400}
    schedule = api.client.post(
        f"/api/workers/{worker['id']}/schedules", json={"input": "secret", "when": when}
    ).json()
    yield Foreign(api, worker["id"], turn_id, schedule["id"], second)
    second.open()
    api.wait_until_idle(worker["id"])


def _send(api: Api, route: Route, values: dict[str, str]) -> httpx2.Response:
    return api.client.request(route.method, route.target(values), json=route.body)


def _without_ids(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(value, f"<{name}>")
    return text


@pytest.mark.parametrize("route", worker_routes(), ids=str)
def test_a_foreign_worker_is_not_found_with_the_words_for_one_that_never_was(
    other: Api, foreign: Foreign, route: Route
):
    before = _everything(foreign)
    answer = _send(other, route, foreign.values)
    nothing = _send(other, route, NOTHING)
    assert (answer.status_code, nothing.status_code) == (404, 404)
    assert _without_ids(answer.text, foreign.values) == _without_ids(nothing.text, NOTHING)
    varying = ("date", "x-request-id", "content-length")
    headers = [
        {name: value for name, value in response.headers.items() if name not in varying}
        for response in (answer, nothing)
    ]
    assert headers[0] == headers[1]
    if route.method != "HEAD":
        error_in(answer, 404, "not_found")
    assert _everything(foreign) == before


@pytest.mark.parametrize(
    "route", [route for route in worker_routes() if "{turnId}" in route.path], ids=str
)
def test_a_foreign_turn_is_not_found_at_an_own_worker(
    other: Api, foreign: Foreign, scripts: Scripts, route: Route
):
    own = worker_in(other.create(scripts(Step(text="x"))))
    values = {**foreign.values, "workerId": own["id"]}
    error_in(_send(other, route, values), 404, "not_found")


@pytest.mark.parametrize(
    "route", [route for route in worker_routes() if "{scheduleId}" in route.path], ids=str
)
def test_a_foreign_schedule_is_not_found_at_an_own_worker(
    other: Api, foreign: Foreign, scripts: Scripts, route: Route
):
    own = worker_in(other.create(scripts(Step(text="x"))))
    values = {**foreign.values, "workerId": own["id"]}
    error_in(_send(other, route, values), 404, "not_found")


def test_a_foreign_turn_cannot_be_cancelled_through_an_own_worker(
    other: Api, foreign: Foreign, scripts: Scripts
):
    own = worker_in(other.create(scripts(Step(text="x"))))
    running = foreign.owner.turns(foreign.worker_id)[1]
    assert running["status"] == "running"
    for turn_id in (running["id"], NO_TURN):
        answer = other.client.post(f"/api/workers/{own['id']}/cancel", json={"turnId": turn_id})
        assert turn_id in error_in(answer, 404, "not_found")["error"]
    assert foreign.owner.turns(foreign.worker_id)[1]["status"] == "running"


def test_every_route_is_either_about_a_worker_or_a_known_collection():
    others = {(route.method, route.path) for route in routes() if "{workerId}" not in route.path}
    assert others == COLLECTIONS | OPEN


def test_lists_tell_of_the_callers_own_workers_only(api: Api, other: Api, foreign: Foreign):
    mine = {worker["id"] for worker in _all_workers(other)}
    yours = {worker["id"] for worker in _all_workers(api)}
    assert foreign.worker_id in yours
    assert not mine & yours


def test_a_cursor_of_another_organization_shows_nothing_of_it(
    api: Api, other: Api, foreign: Foreign, scripts: Scripts
):
    worker_in(api.create(scripts(Step(text="One more, so that there is a next page."))))
    cursor = workers_in(api.client.get("/api/workers", params={"limit": 1}))["nextCursor"]
    assert cursor
    page = workers_in(other.client.get("/api/workers", params={"cursor": cursor}))
    assert foreign.worker_id not in {worker["id"] for worker in page["workers"]}


@pytest.mark.parametrize(
    "route",
    [route for route in routes() if (route.method, route.path) not in OPEN],
    ids=str,
)
@pytest.mark.parametrize("authorization", [None, "Bearer hdg_live_" + "x" * 43])
def test_every_route_wants_a_key(
    api: Api, foreign: Foreign, route: Route, authorization: str | None
):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = httpx2.request(
        route.method,
        api.server.base_url + route.target(foreign.values),
        json=route.body,
        headers=headers,
    )
    assert answer.status_code == 401
    if route.method != "HEAD":
        error_in(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def _everything(foreign: Foreign) -> list[Json]:
    """All of the worker that must not change by what others do."""
    worker = foreign.owner.worker(foreign.worker_id)
    worker["usage"]["durationMs"] = 0
    turns = turns_in(foreign.owner.client.get(f"/api/workers/{foreign.worker_id}/turns"))["turns"]
    for turn in turns:
        turn["usage"]["durationMs"] = 0
    file = foreign.owner.client.get(f"/api/workers/{foreign.worker_id}/files/secret.txt")
    assert file.text == "secret"
    schedule = f"/api/workers/{foreign.worker_id}/schedules/{foreign.schedule_id}"
    return [worker, *turns, foreign.owner.client.get(schedule).json()]


def _all_workers(api: Api) -> list[Json]:
    found: list[Json] = []
    query: dict[str, str | int] = {"limit": 100}
    while True:
        page = workers_in(api.client.get("/api/workers", params=query))
        found += page["workers"]
        if page["nextCursor"] is None:
            return found
        query["cursor"] = page["nextCursor"]
