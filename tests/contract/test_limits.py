"""What a server refuses because it is too much, or because it is going down (0)."""

import asyncio
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.contract.conftest import Connect, StartServer, new_key
from tests.contract.wire import error_in, worker_in, workers_in
from tests.contract.world import Api, Scripts, wait_until
from tests.support.model_server import Step
from tests.support.server import HandingerServer

JSON = {"Content-Type": "application/json"}


def _body(size: int) -> bytes:
    """JSON of exactly so many bytes, which is too long an instruction, but no harm else."""
    frame = b'{"input": "", "unknown": ""}'
    return frame[:-2] + b"x" * (size - len(frame)) + frame[-2:]


def test_a_body_of_exactly_the_limit_is_read(narrow_api: Api):
    answer = narrow_api.client.post("/api/workers", content=_body(20_000), headers=JSON)
    error_in(answer, 422, "invalid_input")


@pytest.mark.parametrize(
    "path", ["/api/workers", "/api/workers/{own}", "/api/workers/{own}/cancel"]
)
@pytest.mark.parametrize("size", [20_001, 70_000, 300_000])
def test_a_larger_body_is_413_and_names_the_limit(
    narrow_api: Api, scripts: Scripts, path: str, size: int
):
    worker_id = worker_in(narrow_api.create(scripts(Step(text="x"))))["id"]
    before = workers_in(narrow_api.client.get("/api/workers"))
    target = path.replace("{own}", worker_id)
    answer = narrow_api.client.post(target, content=_body(size), headers=JSON)
    error = error_in(answer, 413, "body_too_large")
    assert "20000" in error["error"]
    assert "HANDINGER_MAX_JSON_BYTES" in error["error"]
    assert workers_in(narrow_api.client.get("/api/workers")) == before


def test_a_larger_body_without_a_length_is_413_too(narrow_api: Api):
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 1000

    answer = narrow_api.client.post("/api/workers", content=chunks(), headers=JSON)
    error_in(answer, 413, "body_too_large")


MANY = 20_001
VALUES = {
    "lists": b"[" + b"[]," * MANY + b"1]",
    "numbers": b"[" + b"1," * MANY + b"1]",
    "names": b"{" + b",".join(b'"%d":{}' % number for number in range(MANY)) + b"}",
    "between texts": b"[" + rb'"a\\\\","\"[",' * MANY + b"1]",
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_more_values_than_may_be_are_413_and_name_the_limit(api: Api, values: bytes):
    """To read many holds up everybody, however few bytes they are."""
    answer = api.client.post(
        "/api/workers", content=b'{"input": "x", "unknown": ' + values + b"}", headers=JSON
    )
    error = error_in(answer, 413, "body_too_large")
    assert "20000 values (HANDINGER_MAX_JSON_VALUES)" in error["error"]


def test_more_values_in_a_field_of_a_form_are_413_too(api: Api):
    answer = api.client.post(
        "/api/workers",
        data={"input": "x", "metadata": VALUES["lists"].decode()},
        files={"files": ("note.txt", b"note")},
    )
    error_in(answer, 413, "body_too_large")


@pytest.mark.parametrize("text", ['"a,[{', "a\\", '\\"[{,', '"'])
def test_what_a_text_has_in_it_is_no_value(api: Api, scripts: Scripts, text: str):
    scripted = scripts(Step(text="done"))
    body = {"input": scripted.input, "unknown": [text * 100_000, text], "metadata": {"a": 1}}
    assert worker_in(api.client.post("/api/workers", json=body))["output_text"] == "done"


def _keyed_requests(text: str) -> list[dict[str, Any]]:
    """The same instruction in both forms, each with a key of its own."""
    forms: list[dict[str, Any]] = [
        {"json": {"input": text}},
        {"data": {"input": text}, "files": {"files": ("note.txt", b"note", "text/plain")}},
    ]
    return [
        {
            **form,
            "headers": {"Prefer": "respond-async", "Idempotency-Key": str(uuid.uuid4())},
        }
        for form in forms
    ]


def test_a_full_queue_is_503_with_the_time_to_come_back(narrow_api: Api, scripts: Scripts):
    """The server runs one turn and lets three wait, of whatever worker."""
    holding = scripts.held()
    started = [narrow_api.start(holding)]
    holding.wait_for(1)
    quick = scripts(Step(text="x"))
    started += [narrow_api.start(quick) for _ in range(3)]
    keyed = _keyed_requests(quick.input)
    first = [narrow_api.client.post("/api/workers", **request) for request in keyed]
    started += [answer.json() for answer in first]

    def refused() -> httpx2.Response | None:
        answer = narrow_api.client.post("/api/workers", content=b"{", headers=JSON)
        assert answer.status_code == 400  # A bad request is bad however full the queue is.
        answer = narrow_api.client.post(
            "/api/workers", json={"input": quick.input}, headers={"Prefer": "respond-async"}
        )
        if answer.status_code == 202:
            started.append(answer.json())
            return None
        return answer

    # The queue is measured every other second.
    answer = wait_until(refused)
    error = error_in(answer, 503, "unavailable")
    assert "HANDINGER_MAX_QUEUED_TURNS" in error["error"]
    assert int(answer.headers["retry-after"]) >= 1
    continued = narrow_api.go_on(started[0]["id"], quick)
    error_in(continued, 503, "unavailable")
    # What needs no turn, or has its turn already, is answered all the same.
    assert narrow_api.client.get("/api/workers").status_code == 200
    for request, made in zip(keyed, first, strict=True):
        again = narrow_api.client.post("/api/workers", **request)
        assert again.status_code == 202
        assert again.headers["x-handinger-turn-id"] == made.headers["x-handinger-turn-id"]
        headers = {**request["headers"], "Idempotency-Key": str(uuid.uuid4())}
        new: dict[str, Any] = {**request, "headers": headers}
        error_in(narrow_api.client.post("/api/workers", **new), 503, "unavailable")

    holding.open()
    for worker in started:
        narrow_api.wait_until_idle(worker["id"])
    wait_until(lambda: narrow_api.create(quick).status_code == 200)


@pytest.fixture(scope="module")
def limited(new_server: StartServer) -> HandingerServer:
    return new_server("limited", {"HANDINGER_RATE_LIMIT": "3/60"})


def test_too_many_requests_of_a_key_are_429_and_say_when_to_come_back(
    limited: HandingerServer, connect: Connect
):
    api = connect(limited, limited.key)
    for _ in range(3):
        assert api.client.get("/api/workers").status_code == 200
    for path in ("/api/workers", "/api/workers/wrk_" + "0" * 32):
        answer = api.client.get(path)
        error = error_in(answer, 429, "rate_limited")
        retry_after = int(answer.headers["retry-after"])
        assert 1 <= retry_after <= 60
        assert answer.headers["ratelimit-policy"] == '"default";q=3;w=60'
        told = re.fullmatch(r'"default";r=0;t=(\d+)', answer.headers["ratelimit"])
        assert told is not None
        assert int(told[1]) == retry_after
        assert str(retry_after) in error["error"]
    # Who has no key uses up nobody's limit, and health has none.
    error_in(httpx2.get(f"{limited.base_url}/api/workers"), 401)
    assert all(httpx2.get(f"{limited.base_url}/healthz").status_code == 200 for _ in range(5))


def test_a_server_that_shuts_down_answers_503_and_finishes_what_runs(
    new_server: StartServer, connect: Connect, scripts: Scripts
):
    server = new_server("stopping", {"HANDINGER_SHUTDOWN_GRACE_S": "12"})
    api = connect(server, server.key)
    idle_id = worker_in(api.create(scripts(Step(text="x"))))["id"]
    holding, late = scripts.held("finished"), scripts(Step(text="late"))
    body = json.dumps({"input": holding.input})
    blocked = api.beside(api.client.post, "/api/workers", content=body, headers=JSON)
    holding.wait_for(1)
    held_id = workers_in(api.client.get("/api/workers"))["workers"][0]["id"]
    waiting_id = api.queue(held_id, late)

    stopping = api.beside(server.terminate)
    # Whoever waits for an answer is told at once, and which turn it was.
    answer = blocked.result()
    error_in(answer, 503, "unavailable")
    assert answer.headers["x-handinger-worker-id"] == held_id
    assert answer.headers["retry-after"]
    for request in (
        lambda: api.client.get("/api/workers"),
        lambda: api.client.get(f"/api/workers/{idle_id}"),
        lambda: api.create(late),
        lambda: api.go_on(idle_id, late),
        lambda: api.client.post(f"/api/workers/{held_id}/cancel"),
        lambda: api.client.delete(f"/api/workers/{idle_id}"),
    ):
        answer = request()
        error = error_in(answer, 503, "unavailable")
        assert "shutting down" in error["error"]
        assert int(answer.headers["retry-after"]) >= 1
    ready = httpx2.get(f"{server.base_url}/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert not stopping.done()

    holding.open()
    assert stopping.result() == 0
    assert late.requests == []

    server.start()
    # The turn that ran is finished, the one that waited is done now, and a retry gets the answer.
    again = api.client.post(
        "/api/workers", content=body, headers={**JSON, "X-Stainless-Retry-Count": "1"}
    )
    assert (again.headers["x-handinger-worker-id"], worker_in(again)["output_text"]) == (
        held_id,
        "finished",
    )
    assert len(holding.requests) == 1
    assert api.wait_until_idle(held_id)["output_text"] == "late"
    assert api.turn(held_id, waiting_id)["output_text"] == "late"
    assert len(api.turns(held_id)) == 2
    assert len(workers_in(api.client.get("/api/workers"))["workers"]) == 2


def test_long_turns_of_one_organization_leave_room_for_another(
    new_server: StartServer, connect: Connect, scripts: Scripts
):
    """Two turns run at once, and one of each organization."""
    server = new_server(
        "fair",
        {
            "HANDINGER_MAX_CONCURRENT_TURNS": "2",
            "HANDINGER_MAX_CONCURRENT_TURNS_PER_ORGANIZATION": "1",
        },
    )
    secret = asyncio.run(
        new_key(server.data_dir, server.environment["HANDINGER_DATABASE_URL"], "another")
    )
    many, few = connect(server, server.key), connect(server, secret)
    holding, following = scripts.held(), scripts(Step(text="next"))
    holder = many.start(holding)
    holding.wait_for(1)
    waiting = many.start(following)

    assert few.create(scripts(Step(text="at once"))).json()["output_text"] == "at once"
    assert many.worker(waiting["id"])["status"] == "pending"
    assert following.requests == []
    holding.open()
    assert many.wait_until_idle(waiting["id"])["output_text"] == "next"
    assert many.worker(holder["id"])["status"] == "completed"
