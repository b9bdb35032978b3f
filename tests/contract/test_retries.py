"""Retries never pay twice: the same request is one turn, however often it is sent (1.2)."""

import http.client
import json
import threading
import uuid
from collections.abc import Callable
from contextlib import closing

import httpx2
import psycopg
import pytest

from tests.contract.wire import error_in, worker_in
from tests.contract.world import Api, Scripts, chunks_of, header, wait_until
from tests.support.model_server import Step

RETRY = {"X-Stainless-Retry-Count": "1"}


def _key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


def _post(api: Api, path: str, headers: dict[str, str], **body: object) -> httpx2.Response:
    return api.client.post(path, json=body, headers=headers)


def _ids(response: httpx2.Response) -> tuple[str, str]:
    return response.headers["x-handinger-worker-id"], response.headers["x-handinger-turn-id"]


def _worker_count(api: Api) -> int:
    count, cursor = 0, None
    while True:
        query = {"limit": 100} | ({"cursor": cursor} if cursor else {})
        page = api.client.get("/api/workers", params=query).json()
        count += len(page["workers"])
        cursor = page["nextCursor"]
        if cursor is None:
            return count


def _delivered(database: psycopg.Connection, turn_id: str) -> bool:
    row = database.execute(
        "SELECT delivered_at IS NOT NULL FROM requests WHERE turn_id = %s", [turn_id]
    ).fetchone()
    assert row is not None
    return row[0]


def _hang_up_on(
    api: Api,
    path: str,
    body: dict[str, object],
    *,
    headers: dict[str, str],
    once: Callable[[], bool] | None = None,
) -> None:
    """Send a request, and be gone as soon as it is read, or something else is true."""

    def is_read() -> bool:
        return api.client.get("/api/workers?limit=1").json()["workers"][0]["running"]

    with closing(http.client.HTTPConnection("127.0.0.1", api.server.port, timeout=20)) as client:
        sent = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json", **headers}
        # The same bytes that the client library would send.
        client.request("POST", path, json.dumps(body, separators=(",", ":")), sent)
        wait_until(once or is_read)


# With a key


@pytest.mark.parametrize("continuing", [False, True])
def test_a_key_joins_the_first_request_while_it_runs(api: Api, scripts: Scripts, continuing: bool):
    path = "/api/workers"
    if continuing:
        path += "/" + worker_in(api.create(scripts(Step(text="x"))))["id"]
    instruction, key = scripts.held("once"), _key()
    answers = [api.beside(_post, api, path, key, input=instruction.input) for _ in range(3)]
    instruction.wait_for(1)
    answers.append(api.beside(_post, api, path, key, input=instruction.input))
    assert not any(answer.done() for answer in answers)
    instruction.open()
    workers = [worker_in(answer.result()) for answer in answers]
    assert workers == [workers[0]] * 4
    assert workers[0]["output_text"] == "once"
    assert len({_ids(answer.result()) for answer in answers}) == 1
    assert len(instruction.requests) == 1


def test_a_key_replays_the_answer_after_the_end(api: Api, scripts: Scripts):
    instruction, key = scripts(Step(text="once")), _key()
    first = _post(api, "/api/workers", key, input=instruction.input)
    count = _worker_count(api)
    for _ in range(2):
        again = _post(api, "/api/workers", key, input=instruction.input)
        assert worker_in(again) == worker_in(first)
        assert _ids(again) == _ids(first)
    assert len(instruction.requests) == 1
    assert _worker_count(api) == count


def test_a_replay_tells_its_own_turn_after_later_ones(api: Api, scripts: Scripts):
    first, second = scripts(Step(text="one")), scripts(Step(text="two"))
    key = _key()
    worker_id = worker_in(_post(api, "/api/workers", key, input=first.input))["id"]
    worker_in(api.go_on(worker_id, second))
    replayed = worker_in(_post(api, "/api/workers", key, input=first.input))
    assert replayed["output_text"] == "one"


@pytest.mark.parametrize("changed", ["input", "budget", "metadata", "path"])
def test_a_key_with_another_request_is_422(api: Api, scripts: Scripts, changed: str):
    instruction, key = scripts(Step(text="x")), _key()
    body = {"input": instruction.input, "budget": "low", "metadata": {"a": 1}}
    path = "/api/workers"
    first = _post(api, path, key, **body)
    turns = api.turns(worker_in(first)["id"])
    match changed:
        case "input":
            body["input"] = instruction.input + "!"
        case "budget":
            body["budget"] = "high"
        case "metadata":
            body["metadata"] = {"a": 2}
        case _:
            path += "/" + first.headers["x-handinger-worker-id"]
    error = error_in(_post(api, path, key, **body), 422, "idempotency_key_reused")
    assert "Idempotency-Key" in error["error"]
    assert api.turns(worker_in(first)["id"]) == turns
    assert len(instruction.requests) == 1


def test_the_order_of_a_bodys_fields_and_its_white_space_do_not_matter(api: Api, scripts: Scripts):
    instruction = scripts(Step(text="x"))
    key = {**_key(), "Content-Type": "application/json"}
    bodies = [
        json.dumps({"input": instruction.input, "metadata": {"a": 1, "b": 2}}),
        json.dumps({"metadata": {"b": 2, "a": 1}, "input": instruction.input}, indent=2),
    ]
    answers = [api.client.post("/api/workers", content=b, headers=key) for b in bodies]
    assert _ids(answers[0]) == _ids(answers[1])


def test_the_same_key_of_another_organization_is_another_request(
    api: Api, other: Api, scripts: Scripts
):
    instruction, key = scripts(Step(text="x")), _key()
    mine = worker_in(_post(api, "/api/workers", key, input=instruction.input))
    yours = worker_in(_post(other, "/api/workers", key, input=instruction.input))
    assert mine["id"] != yours["id"]
    different = worker_in(_post(other, "/api/workers", _key(), input=instruction.input))
    assert different["id"] != yours["id"]
    assert len(instruction.requests) == 3


def test_a_key_is_forgotten_after_a_day(api: Api, scripts: Scripts, database: psycopg.Connection):
    instruction, key = scripts(Step(text="x")), _key()
    first = _post(api, "/api/workers", key, input=instruction.input)
    for age, joins in (("23 hours", True), ("25 hours", False)):
        database.execute(
            f"UPDATE requests SET created_at = now() - interval '{age}'"
            " WHERE idempotency_key = %s".encode(),
            [key["Idempotency-Key"]],
        )
        again = _post(api, "/api/workers", key, input=instruction.input)
        assert (_ids(again) == _ids(first)) is joins


def test_a_request_that_was_refused_does_not_use_up_its_key(api: Api, scripts: Scripts):
    key = _key()
    error_in(_post(api, "/api/workers", key, input=""), 422)
    worker_in(_post(api, "/api/workers", key, input=scripts(Step(text="x")).input))


@pytest.mark.parametrize("value", ["x", "x" * 255, "é", "a b", '"quoted"', "%00"])
def test_a_key_may_be_any_text_of_1_to_255_characters(api: Api, scripts: Scripts, value: str):
    instruction = scripts(Step(text="x"))
    headers = header("Idempotency-Key", value)
    body = {"input": instruction.input}
    answers = [api.client.post("/api/workers", json=body, headers=headers) for _ in range(2)]
    assert _ids(answers[0]) == _ids(answers[1])


@pytest.mark.parametrize("way", ["stream", "async"])
def test_a_key_joins_in_whatever_way_the_answer_is_wanted(api: Api, scripts: Scripts, way: str):
    instruction, key = scripts(Step(text="once")), _key()
    body = {"input": instruction.input, "stream": way == "stream"}
    headers = {**key, "Prefer": "respond-async"} if way == "async" else key
    first, second = (_post(api, "/api/workers", headers, **body) for _ in range(2))
    assert _ids(first) == _ids(second)
    api.wait_until_idle(_ids(first)[0])
    third = _post(api, "/api/workers", headers, **body)
    assert _ids(first) == _ids(third)
    if way == "stream":
        assert "".join(json.loads(chunk).get("delta", "") for chunk in chunks_of(third)) == "once"
    else:
        assert third.status_code == 202
    assert len(instruction.requests) == 1


def test_a_key_starts_anew_once_its_worker_is_deleted(api: Api, scripts: Scripts):
    instruction, key = scripts(Step(text="x")), _key()
    first = worker_in(_post(api, "/api/workers", key, input=instruction.input))
    assert api.client.delete(f"/api/workers/{first['id']}").status_code == 200
    assert worker_in(_post(api, "/api/workers", key, input=instruction.input))["id"] != first["id"]


def test_duplicates_that_arrive_together_make_one_turn(api: Api, scripts: Scripts):
    instruction, key, barrier = scripts(Step(text="once")), _key(), threading.Barrier(10)
    count = _worker_count(api)

    def send() -> tuple[str, str]:
        barrier.wait()
        response = _post(api, "/api/workers", key, input=instruction.input)
        assert worker_in(response)["output_text"] == "once"
        return _ids(response)

    answers = [api.beside(send) for _ in range(10)]
    assert len({answer.result() for answer in answers}) == 1
    assert len(instruction.requests) == 1
    assert _worker_count(api) == count + 1


# Without a key


@pytest.mark.parametrize("continuing", [False, True])
@pytest.mark.parametrize("ended", [False, True])
def test_a_retry_joins_the_request_that_was_hung_up(
    api: Api, scripts: Scripts, continuing: bool, ended: bool
):
    path = "/api/workers"
    if continuing:
        path += "/" + worker_in(api.create(scripts(Step(text="x"))))["id"]
    instruction = scripts.held("once")
    _hang_up_on(api, path, {"input": instruction.input}, headers={})
    instruction.wait_for(1)
    worker_id = api.client.get("/api/workers?limit=1").json()["workers"][0]["id"]
    if ended:
        instruction.open()
        api.wait_until_idle(worker_id)
    answer = api.beside(_post, api, path, RETRY, input=instruction.input)
    instruction.open()
    worker = worker_in(answer.result())
    assert (worker["id"], worker["output_text"]) == (worker_id, "once")
    assert len(instruction.requests) == 1


def test_a_retry_joins_only_the_very_same_request(api: Api, other: Api, scripts: Scripts):
    instruction = scripts.held()
    worker_id = worker_in(api.create(scripts(Step(text="x"))))["id"]
    _hang_up_on(api, "/api/workers", {"input": instruction.input}, headers={})
    instruction.wait_for(1)
    instruction.open()
    hung_up = api.client.get("/api/workers?limit=1").json()["workers"][0]["id"]
    answers = [
        _post(api, "/api/workers", RETRY, input=instruction.input + " "),  # trimmed, but not equal
        _post(api, "/api/workers", RETRY, input=instruction.input, budget="low"),
        _post(api, f"/api/workers/{worker_id}", RETRY, input=instruction.input),
        _post(other, "/api/workers", RETRY, input=instruction.input),
    ]
    assert hung_up not in {worker_in(answer)["id"] for answer in answers}
    assert len({_ids(answer) for answer in answers}) == 4
    # The same one does.
    again = _post(api, "/api/workers", RETRY, input=instruction.input)
    assert worker_in(again)["id"] == hung_up


@pytest.mark.parametrize("count", ["0", "", "-1", "x"])
def test_a_request_that_says_that_it_is_no_retry_joins_nothing(
    api: Api, scripts: Scripts, count: str
):
    instruction = scripts.held()
    _hang_up_on(api, "/api/workers", {"input": instruction.input}, headers={})
    instruction.wait_for(1)
    headers = {"X-Stainless-Retry-Count": count}
    answer = api.beside(_post, api, "/api/workers", headers, input=instruction.input)
    instruction.wait_for(2)
    instruction.open()
    worker_in(answer.result())
    assert len(instruction.requests) == 2


@pytest.mark.parametrize("way", ["blocking", "stream", "async"])
def test_a_retry_does_not_join_a_request_whose_answer_was_delivered(
    api: Api, scripts: Scripts, database: psycopg.Connection, way: str
):
    instruction = scripts(Step(text="x"))
    body = {"input": instruction.input, "stream": way == "stream"}
    headers = {"Prefer": "respond-async"} if way == "async" else {}
    first = _post(api, "/api/workers", headers, **body)
    assert first.status_code in (200, 202)
    # That is noted a moment later.
    wait_until(lambda: _delivered(database, _ids(first)[1]))
    second = _post(api, "/api/workers", {**headers, **RETRY}, **body)
    assert _ids(second)[0] != _ids(first)[0]
    api.wait_until_idle(_ids(second)[0])
    assert len(instruction.requests) == 2


@pytest.mark.parametrize("made", ["turn", "schedule"])
def test_an_answer_at_once_that_nobody_stayed_for_was_not_delivered(
    api: Api, scripts: Scripts, database: psycopg.Connection, made: str
):
    path = "/api/workers/" + worker_in(api.create(scripts(Step(text="x"))))["id"]
    body: dict[str, object] = {"input": scripts(Step(text="once"), after_last="repeat").input}
    if made == "schedule":
        path += "/schedules"
        body["when"] = {"type": "delayed", "delayInSeconds": 3600}
    headers = {"Prefer": "respond-async"}
    with database.transaction():
        # The request waits for this, and its client does not.
        database.execute(f"LOCK TABLE {made}s IN SHARE ROW EXCLUSIVE MODE".encode())
        _hang_up_on(api, path, body, headers=headers, once=lambda: _waits(database, made))
    _note_what_is_delivered(api, scripts, database)
    again = _post(api, path, {**headers, **RETRY}, **body)
    if made == "turn":
        assert again.status_code == 202
        assert [turn["id"] for turn in api.turns(_ids(again)[0])][1:] == [_ids(again)[1]]
        api.wait_until_idle(_ids(again)[0])
    else:
        (listed,) = api.client.get(path).json()["schedules"]
        assert again.json()["id"] == listed["id"]


def _waits(database: psycopg.Connection, made: str) -> bool:
    """Whether a request is about to make it, and waits for a lock."""
    statement = "INSERT INTO turns" if made == "turn" else "DELETE FROM schedules"
    database.execute("SELECT pg_stat_clear_snapshot()")
    asked = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s",
        [f"%{statement}%"],
    ).fetchone()
    assert asked is not None
    return asked[0] > 0


def _note_what_is_delivered(api: Api, scripts: Scripts, database: psycopg.Connection) -> None:
    """Deliveries are noted in order, a moment later; so wait for that of another request."""
    other = _post(api, "/api/workers", {}, input=scripts(Step(text="x")).input)
    wait_until(lambda: _delivered(database, _ids(other)[1]))


def test_a_retry_joins_for_ten_minutes(api: Api, scripts: Scripts, database: psycopg.Connection):
    instruction = scripts.held()
    _hang_up_on(api, "/api/workers", {"input": instruction.input}, headers={})
    instruction.wait_for(1)
    instruction.open()
    worker_id = api.client.get("/api/workers?limit=1").json()["workers"][0]["id"]
    turn_id = api.turns(worker_id)[0]["id"]
    api.wait_until_idle(worker_id)
    database.execute(
        "UPDATE requests SET created_at = now() - interval '11 minutes' WHERE turn_id = %s",
        [turn_id],
    )
    late = _post(api, "/api/workers", RETRY, input=instruction.input)
    assert worker_in(late)["id"] != worker_id
    database.execute(
        "UPDATE requests SET created_at = now() - interval '9 minutes', delivered_at = NULL"
        " WHERE turn_id = %s",
        [_ids(late)[1]],
    )
    again = _post(api, "/api/workers", RETRY, input=instruction.input)
    assert _ids(again) == _ids(late)


def test_a_retry_with_a_key_goes_by_its_key(api: Api, scripts: Scripts):
    instruction = scripts.held()
    _hang_up_on(api, "/api/workers", {"input": instruction.input}, headers={})
    instruction.wait_for(1)
    instruction.open()
    hung_up = api.client.get("/api/workers?limit=1").json()["workers"][0]["id"]
    answer = _post(api, "/api/workers", {**RETRY, **_key()}, input=instruction.input)
    assert worker_in(answer)["id"] != hung_up
    api.wait_until_idle(hung_up)


def test_a_hung_up_request_with_a_key_is_not_joined_without_one(api: Api, scripts: Scripts):
    instruction = scripts.held()
    _hang_up_on(api, "/api/workers", {"input": instruction.input}, headers=_key())
    instruction.wait_for(1)
    instruction.open()
    hung_up = api.client.get("/api/workers?limit=1").json()["workers"][0]["id"]
    answer = _post(api, "/api/workers", RETRY, input=instruction.input)
    assert worker_in(answer)["id"] != hung_up
    api.wait_until_idle(hung_up)


def test_a_retry_gets_the_schedule_whose_answer_nobody_read(
    api: Api, scripts: Scripts, database: psycopg.Connection
):
    worker_id = worker_in(api.create(scripts(Step(text="x"))))["id"]
    path = f"/api/workers/{worker_id}/schedules"
    wanted = {"input": "Tick.", "when": {"type": "delayed", "delayInSeconds": 86_400}}
    with database.transaction():
        database.execute("SELECT 1 FROM workers WHERE id = %s FOR UPDATE", [worker_id])
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
        with closing(http.client.HTTPConnection("127.0.0.1", api.server.port, timeout=20)) as gone:
            sent = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
            gone.request("POST", path, json.dumps(wanted, separators=(",", ":")), sent)
            wait_until(lambda: database.execute(waiting).fetchone() is not None)
    (first,) = wait_until(lambda: api.client.get(path).json()["schedules"])
    # Deliveries are noted in batches: with this one all before it are.
    other = api.client.post(path, json={**wanted, "input": "Tock."}).json()
    noted = "SELECT delivered_at FROM requests WHERE schedule_id = %s AND delivered_at IS NOT NULL"
    wait_until(lambda: database.execute(noted, [other["id"]]).fetchone() is not None)
    again = api.client.post(path, json=wanted, headers=RETRY)
    assert again.json()["id"] == first["id"]
    assert len(api.client.get(path).json()["schedules"]) == 2


# Cancels


def test_a_repeated_cancel_stops_nothing_that_began_since(api: Api, scripts: Scripts):
    first, second = scripts.held(), scripts.held("kept")
    worker_id = api.start(first)["id"]
    first.wait_for(1)
    path, key = f"/api/workers/{worker_id}/cancel", _key()
    assert api.client.post(path, headers=key).status_code == 200
    api.queue(worker_id, second)
    second.wait_for(1)
    repeated = worker_in(api.client.post(path, headers=key))
    assert repeated["running"]
    second.open()
    assert api.wait_until_idle(worker_id)["output_text"] == "kept"
    reused = api.client.post(path, json={"turnId": api.turns(worker_id)[0]["id"]}, headers=key)
    error_in(reused, 422, "idempotency_key_reused")
    too_long = {"Idempotency-Key": "k" * 256}
    error_in(api.client.post(path, headers=too_long), 422, "invalid_input")
