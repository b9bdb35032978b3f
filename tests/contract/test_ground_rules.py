"""What holds for every request and every answer (0)."""

import json
import re

import pytest

from tests.contract.wire import Json, check_time, error_in, worker_in
from tests.contract.world import Api, Scripts, header
from tests.support.model_server import Step

NOWHERE = "wrk_" + "0" * 32
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def worker_id(api: Api, scripts: Scripts) -> str:
    return worker_in(api.create(scripts(Step(text="x"))))["id"]


def test_unknown_fields_are_ignored_wherever_they_stand(api: Api, scripts: Scripts):
    junk = {"unknown": [1, {"deep": None}], "when": {"cron": 5}, "Input": 7, "": "", "metadata_": 1}
    body = {"input": scripts(Step(text="fine")).input, **junk}
    query = {"unknown": "1", "limit": "many"}
    headers = {"X-Unknown": "1", "Prefer": "unknown=1"}
    created = api.client.post("/api/workers", json=body, params=query, headers=headers)
    worker = worker_in(created)
    assert worker["output_text"] == "fine"
    path = f"/api/workers/{worker['id']}"
    worker_in(api.client.post(path, json={**body, "metadata": 7}, params=query, headers=headers))
    worker_in(api.client.post(f"{path}/cancel", json=junk, params=query, headers=headers))
    assert api.client.get("/api/workers", params={"unknown": "1"}).status_code == 200
    worker_in(api.client.get(path, params={"unknown": "1"}))


REQUESTS = [
    # method, path, headers, body, status
    ("GET", "/api/workers", {}, b"", 200),
    ("GET", "/api/workers/{own}", {}, b"", 200),
    ("GET", "/api/workers/{own}/stream", {}, b"", 200),
    ("GET", "/api/workers/{own}/stream?messages=false", {}, b"", 204),
    ("GET", f"/api/workers/{NOWHERE}", {}, b"", 404),
    ("GET", "/api/workers", {"Authorization": "Bearer nothing"}, b"", 401),
    ("PATCH", "/api/workers", {}, b"", 405),
    ("GET", "/api/nothing", {}, b"", 404),
    ("GET", "/nothing", {}, b"", 404),
    ("GET", "/api/workers?limit=0", {}, b"", 422),
    ("POST", "/api/workers", JSON, b"{", 400),
    ("POST", "/api/workers", JSON, b"{}", 422),
    ("POST", "/api/workers", {"Content-Type": "text/plain"}, b"hello", 415),
    ("POST", "/api/workers/{own}/cancel", {}, b"", 200),
    ("GET", "/healthz", {"Authorization": ""}, b"", 200),
    ("GET", "/readyz", {"Authorization": ""}, b"", 200),
    ("GET", "/openapi.json", {"Authorization": ""}, b"", 200),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), REQUESTS)
def test_every_answer_carries_a_request_id(
    api: Api,
    worker_id: str,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
):
    target = path.replace("{own}", worker_id)
    answers = [api.client.request(method, target, headers=headers, content=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status, status]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(ids)
    assert ids[0] != ids[1]
    if status >= 400:
        error_in(answers[0], status)


def test_a_request_id_of_the_client_is_kept(api: Api):
    answer = api.client.get("/api/workers", headers={"X-Request-Id": "my-id.1_2"})
    assert answer.headers["x-request-id"] == "my-id.1_2"


@pytest.mark.parametrize(
    "given", ["", "a b", "a" * 129, 'x"y', "é", "a;b", "%0d%0aSet-Cookie: a=b"]
)
def test_a_request_id_that_could_do_harm_is_replaced(api: Api, given: str):
    answer = api.client.get("/api/workers", headers=header("X-Request-Id", given))
    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert "set-cookie" not in answer.headers


def test_ids_have_the_prefix_of_their_type_and_sort_by_age(api: Api, scripts: Scripts):
    quick = scripts(Step(text="x"))
    workers = [worker_in(api.create(quick)) for _ in range(4)]
    ids = [worker["id"] for worker in workers]
    assert all(re.fullmatch(r"wrk_[0-9a-z]+", worker_id) for worker_id in ids)
    assert ids == sorted(set(ids))
    for _ in range(3):
        worker_in(api.go_on(ids[0], quick))
    turns = [turn["id"] for turn in api.turns(ids[0])]
    assert all(re.fullmatch(r"trn_[0-9a-z]+", turn_id) for turn_id in turns)
    assert turns == sorted(set(turns))
    messages = [message["id"] for message in api.worker(ids[0])["messages"]]
    assert all(re.fullmatch(r"msg_[0-9a-z]+", message_id) for message_id in messages)
    assert messages == sorted(set(messages))
    assert len(messages) == 8


def test_answers_are_json_in_utf_8(api: Api, scripts: Scripts):
    text = 'häßlich \u2028 😀 \\ " \x7f'
    response = api.create(scripts(Step(text=text)))
    assert worker_in(response)["output_text"] == text
    assert "häßlich" in response.content.decode("utf-8")


def test_requests_are_json_in_utf_8(api: Api, scripts: Scripts):
    instruction = scripts(Step(text="x"))
    text = f"{instruction.input} häßlich \u2028 😀 \U0010ffff"
    for ascii_only in (False, True):
        body = json.dumps({"input": text}, ensure_ascii=ascii_only).encode()
        worker = worker_in(api.client.post("/api/workers", content=body, headers=JSON))
        assert api.turns(worker["id"])[0]["input"] == text
    sent = [message["content"] for message in instruction.requests[0].messages]
    assert text in sent


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "a/b+json", None],
)
def test_a_body_may_be_called_json_in_several_ways(
    api: Api, scripts: Scripts, content_type: str | None
):
    body = json.dumps({"input": scripts(Step(text="x")).input}).encode()
    headers = {} if content_type is None else {"Content-Type": content_type}
    worker_in(api.client.post("/api/workers", content=body, headers=headers))


def test_times_are_iso_8601_in_utc_but_created_at_is_unix_seconds(api: Api, worker_id: str):
    worker = api.worker(worker_id)
    assert isinstance(worker["created_at"], int)
    (turn, *_) = api.turns(worker_id)
    for name in ("createdAt", "startedAt", "endedAt"):
        check_time(turn[name])


def test_a_method_that_a_path_does_not_take_is_405_and_says_which_it_takes(
    api: Api, worker_id: str
):
    for path, allowed in (
        ("/api/workers", {"GET", "POST"}),
        (f"/api/workers/{worker_id}", {"GET", "POST", "DELETE"}),
        (f"/api/workers/{worker_id}/cancel", {"POST"}),
    ):
        answer = api.client.put(path, json={})
        error_in(answer, 405, "method_not_allowed")
        told = {method.strip() for method in answer.headers["allow"].split(",")}
        assert told <= allowed


@pytest.mark.parametrize(
    "path", ["/api/workers/", "/api/workers/{own}/", "/api/workers/{own}/turns/"]
)
def test_a_path_with_a_slash_too_many_is_not_found_and_never_a_redirect(
    api: Api, worker_id: str, path: str
):
    """A redirect would send the key wherever the Host header says."""
    answer = api.client.get(path.replace("{own}", worker_id), headers={"Host": "evil.example"})
    assert "location" not in answer.headers
    error_in(answer, 404, "not_found")


VALIDATION: list[tuple[Json, list[object]]] = [
    ({}, ["input"]),
    ({"input": 1}, ["input"]),
    ({"input": "x", "budget": "huge"}, ["budget"]),
    ({"input": "x", "stream": "true"}, ["stream"]),
    ({"input": "x", "metadata": []}, ["metadata"]),
]


@pytest.mark.parametrize(("body", "path"), VALIDATION)
def test_validation_errors_say_where_and_what(api: Api, body: Json, path: list[object]):
    error = error_in(api.client.post("/api/workers", json=body), 422, "invalid_input")
    assert [detail["path"] for detail in error["details"]] == [path]
    assert all(detail["message"] for detail in error["details"])
    assert str(path[0]) in error["error"]


def test_every_invalid_field_has_its_detail(api: Api):
    body = {"input": "", "budget": 7, "stream": 1, "metadata": "x"}
    error = error_in(api.client.post("/api/workers", json=body), 422)
    assert {detail["path"][0] for detail in error["details"]} == set(body)


def test_invalid_parameters_have_their_detail_too(api: Api):
    error = error_in(api.client.get("/api/workers?limit=101&status=odd"), 422, "invalid_input")
    assert {tuple(detail["path"]) for detail in error["details"]} == {("limit",), ("status",)}
