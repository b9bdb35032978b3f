"""Requests, answers, retries and errors, over real connections; each test judges both clients."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

import handinger
from handinger import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    Handinger,
    HandingerError,
    InternalServerError,
    InvalidPathError,
    MissingAPIKeyError,
    NotFoundError,
    Worker,
)
from tests.sdk.faces import KEY, Face, SyncFace
from tests.sdk.stub import (
    WORKER_ID,
    Stub,
    hang_up,
    padded,
    raw,
    reply,
    wait_then,
    worker,
)

ONE = f"/api/workers/{WORKER_ID}"


def test_create_sends_what_the_api_expects(stub: Stub, face: Face):
    stub.on("POST /api/workers", reply(worker()))
    made: Worker = face.call("create", input="What is it?", budget="low", metadata={"a": [1]})
    assert made.output_text == "Forty-two."
    (request,) = stub.requests
    assert request.json == {"input": "What is it?", "budget": "low", "metadata": {"a": [1]}}
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"] == f"handinger-python/{handinger.__version__}"
    assert re.fullmatch(r"[0-9a-f-]{36}", request.headers["idempotency-key"])
    assert "prefer" not in request.headers


def test_every_call_has_an_idempotency_key_of_its_own(stub: Stub, face: Face):
    stub.on("POST /api/workers", reply(worker()), reply(worker()), reply(worker()))
    face.call("create", input="a")
    face.call("create", input="a")
    face.call("create", input="a", idempotency_key="mine")
    first, second, third = (request.headers["idempotency-key"] for request in stub.requests)
    assert first != second
    assert third == "mine"


def test_a_background_turn_prefers_to_be_answered_at_once(stub: Stub, face: Face):
    stub.on("POST /api/workers", reply(worker(status="pending", running=True), 202))
    made: Worker = face.call("create", input="a", background=True)
    assert made.running
    assert stub.requests[0].headers["prefer"] == "respond-async"


def test_a_background_turn_cannot_be_streamed(face: Face):
    with pytest.raises(ValueError, match="either streamed or in the background"):
        face.call("create", input="a", background=True, stream=True)


def test_an_unknown_parameter_is_a_type_error(face: Face):
    with pytest.raises(TypeError, match="temperature"):
        face.call("create", input="a", temperature=1)


@pytest.mark.parametrize(
    ("method", "args", "params", "route", "target", "body", "answer"),
    [
        ("continue_", [WORKER_ID], {"input": "b"}, f"POST {ONE}", ONE, {"input": "b"}, worker()),
        ("retrieve", [WORKER_ID], {}, f"GET {ONE}", ONE, None, worker()),
        (
            "retrieve",
            [WORKER_ID],
            {"messages": False},
            f"GET {ONE}",
            f"{ONE}?messages=false",
            None,
            worker(),
        ),
        # An id is data: it cannot lead to another endpoint.
        ("retrieve", ["a/../b?c"], {}, "GET /api/workers/a%2F..%2Fb%3Fc", None, None, worker()),
        (
            "list",
            [],
            {"limit": 2, "cursor": "c&d", "status": "running"},
            "GET /api/workers",
            "/api/workers?limit=2&cursor=c%26d&status=running",
            None,
            {"workers": [worker()], "nextCursor": "next"},
        ),
        ("cancel", [WORKER_ID], {}, f"POST {ONE}/cancel", None, {}, worker()),
        (
            "cancel",
            [WORKER_ID],
            {"turn_id": "trn_2"},
            f"POST {ONE}/cancel",
            None,
            {"turnId": "trn_2"},
            worker(),
        ),
        ("delete", [WORKER_ID], {}, f"DELETE {ONE}", None, None, {"deleted": True}),
        (
            "turns",
            [WORKER_ID],
            {"limit": 1},
            f"GET {ONE}/turns",
            f"{ONE}/turns?limit=1",
            None,
            {"turns": [{"id": "trn_1", "workerId": WORKER_ID}], "nextCursor": None},
        ),
        (
            "retrieve_turn",
            ["trn_1"],
            {"worker_id": WORKER_ID},
            f"GET {ONE}/turns/trn_1",
            None,
            None,
            {"id": "t"},
        ),
    ],
)
def test_each_method_reaches_its_endpoint(
    stub: Stub,
    face: Face,
    method: str,
    args: list[str],
    params: dict[str, Any],
    route: str,
    target: str | None,
    body: object,
    answer: dict[str, Any],
):
    stub.on(route, reply(answer))
    result = face.call(method, *args, **params)
    assert result.to_dict() == answer
    (request,) = stub.requests
    assert request.target == (target or route.partition(" ")[2])
    assert (request.json if request.body else None) == body


@pytest.mark.parametrize("worker_id", ["", ".", ".."])
def test_an_id_that_a_url_would_resolve_away_is_refused(stub: Stub, face: Face, worker_id: str):
    with pytest.raises(InvalidPathError, match="no part of an id"):
        face.call("delete", worker_id)
    assert stub.requests == []


def test_a_file_is_given_whole(stub: Stub, face: Face, tmp_path: Path):
    content = bytes(range(256)) * 1000
    stub.on(f"GET {ONE}/files/a%20b/c%3F.bin", raw(content, Content_Type="image/png", ETag='"x"'))
    file = face.call("retrieve_file", "a b/c?.bin", worker_id=WORKER_ID)
    assert (file.read(), file.media_type, file.etag) == (content, "image/png", '"x"')
    file.write_to_file(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize("path", ["../secret", "a/../../b", "/etc/passwd", "", "a//b"])
def test_a_path_that_leads_elsewhere_is_refused(face: Face, path: str):
    with pytest.raises(InvalidPathError, match="no part of an id"):
        face.call("retrieve_file", path, worker_id=WORKER_ID)


def test_white_space_before_a_late_answer_is_no_part_of_it(stub: Stub, face: Face):
    stub.on("POST /api/workers", padded(worker()))
    assert face.call("create", input="a").id == WORKER_ID


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(hang_up(), id="no answer"),
        pytest.param(padded(worker(), cut=True), id="cut after the head"),
        pytest.param(reply({"error": "Busy.", "code": "unavailable"}, 503), id="503"),
        pytest.param(reply({"error": "Slow down.", "code": "rate_limited"}, 429), id="429"),
        pytest.param(raw(b"<html>", 502, Content_Type="text/html"), id="a proxy's 502"),
        # The server knows better than the status says.
        pytest.param(
            reply({"error": "Again.", "code": "x"}, 400, x_should_retry="true"), id="told"
        ),
    ],
)
def test_a_passing_failure_is_retried_with_the_same_key(stub: Stub, face: Face, failure: Any):
    stub.on("POST /api/workers", failure, failure, reply(worker()))
    assert face.call("create", input="a").id == WORKER_ID
    assert len(stub.requests) == 3
    assert len({request.headers["idempotency-key"] for request in stub.requests}) == 1
    assert len({request.body for request in stub.requests}) == 1


@pytest.mark.parametrize(
    "answer",
    [
        reply({"error": "No.", "code": "unauthorized"}, 401),
        reply({"error": "No.", "code": "worker_busy"}, 409),
        reply({"error": "No.", "code": "unavailable"}, 503, x_should_retry="false"),
        # An hour is longer than a caller wants to wait without a word.
        reply({"error": "No.", "code": "rate_limited"}, 429, Retry_After="3600"),
    ],
)
def test_a_lasting_refusal_is_not_retried(stub: Stub, face: Face, answer: Any):
    stub.on(f"GET {ONE}", answer, reply(worker()))
    with pytest.raises(APIStatusError):
        face.call("retrieve", WORKER_ID)
    assert len(stub.requests) == 1


def test_the_last_error_is_raised_when_the_retries_are_used_up(stub: Stub, face: Face):
    stub.on(f"GET {ONE}", *(reply({"error": f"No {n}.", "code": "x"}, 500) for n in range(4)))
    with pytest.raises(InternalServerError, match="No 2"):
        face.call("retrieve", WORKER_ID)
    assert len(stub.requests) == 3


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (402, "PaymentRequiredError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (413, "APIStatusError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (503, "InternalServerError"),
    ],
)
def test_each_status_has_its_error(stub: Stub, face: Face, status: int, name: str):
    details = [{"path": ["when", 0], "message": "must be later"}]
    body = {"error": "It is wrong.", "code": "bad", "details": details}
    stub.on(f"GET {ONE}", *[reply(body, status, x_should_retry="false")])
    with pytest.raises(APIStatusError) as caught:
        face.call("retrieve", WORKER_ID)
    error = caught.value
    assert type(error).__name__ == name
    assert (error.status_code, error.code, error.message) == (status, "bad", "It is wrong.")
    assert (error.details[0].path, error.details[0].message) == (("when", 0), "must be later")
    assert error.request_id == "req_1"
    assert str(error) == "It is wrong."


def test_an_error_that_is_not_json_says_the_status_only(stub: Stub, face: Face):
    stub.on(f"GET {ONE}", raw(b"<h1>Nothing here</h1>", 404, Content_Type="text/html"))
    with pytest.raises(NotFoundError, match=r"^The server answered 404 Not Found\.$") as caught:
        face.call("retrieve", WORKER_ID)
    assert caught.value.code is None


def test_a_redirect_is_told_and_not_followed(stub: Stub, face: Face):
    stub.on(f"GET {ONE}", raw(b"", 301, Location="https://elsewhere.test/"))
    with pytest.raises(APIStatusError, match=r"301 .*to https://elsewhere.test/"):
        face.call("retrieve", WORKER_ID)


def test_an_answer_of_something_else_is_told_as_such(stub: Stub, face: Face):
    stub.on(f"GET {ONE}", raw(b"<html>", Content_Type="text/html"))
    with pytest.raises(APIResponseError, match="is no Worker; is this the right URL"):
        face.call("retrieve", WORKER_ID)


def test_no_server_is_a_connection_error_that_names_the_url(stub: Stub, face: Face):
    stub.close()
    for client in (SyncFace(stub.url, max_retries=1),):
        with pytest.raises(
            APIConnectionError, match=re.escape(f"No server can be reached at {stub.url}")
        ):
            client.call("retrieve", WORKER_ID)
        client.close()


def test_silence_is_a_timeout(stub: Stub, face: Face):
    patient = threading.Event()
    impatient = type(face)(stub.url, timeout=0.1, max_retries=0)
    stub.on(f"GET {ONE}", wait_then(reply(worker()), patient))
    with pytest.raises(APITimeoutError, match="did not answer in time"):
        impatient.call("retrieve", WORKER_ID)
    patient.set()
    impatient.close()


def test_white_space_counts_as_no_silence(stub: Stub):
    def drip(handler: Any) -> None:
        handler.send_head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        for _ in range(6):
            handler.send_chunk(b" ")
            threading.Event().wait(0.1)
        handler.send_chunk(json.dumps(worker()).encode())
        handler.send_chunk(b"")

    stub.on("POST /api/workers", drip)
    with Handinger(api_key=KEY, base_url=stub.url, timeout=0.4, max_retries=0) as client:
        assert client.workers.create(input="a").id == WORKER_ID


def test_key_and_url_come_from_the_environment(stub: Stub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HANDINGER_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("HANDINGER_BASE_URL", stub.url + "/")
    stub.on(f"GET {ONE}", reply(worker()))
    with Handinger() as client:
        assert client.base_url == stub.url
        client.workers.retrieve(WORKER_ID)
    assert stub.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_base_url_may_have_a_path():
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json=worker())

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with Handinger(api_key=KEY, base_url="https://h.test/agents/", http_client=http) as client:
        client.workers.retrieve(WORKER_ID)
    assert seen == [f"https://h.test/agents{ONE}"]
    assert "authorization" not in http.headers


def test_no_key_is_an_error_of_its_own():
    with pytest.raises(MissingAPIKeyError, match="HANDINGER_API_KEY"):
        Handinger()


@pytest.mark.parametrize("key", ["hdg_live_\nx", "hdg live", "hdg_“quoted”"])
def test_a_key_that_no_header_can_carry_is_refused(key: str):
    with pytest.raises(HandingerError, match="characters that no key has"):
        Handinger(api_key=key)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h.test", "http://", "http://[::1"])
def test_a_wrong_url_is_refused_by_name(url: str):
    with pytest.raises(HandingerError, match=re.escape(repr(url))):
        Handinger(api_key=KEY, base_url=url)


def test_many_threads_can_share_a_client(stub: Stub):
    stub.on(f"GET {ONE}", *[reply(worker())] * 20)
    got: list[str] = []
    with Handinger(api_key=KEY, base_url=stub.url) as client:
        threads = [
            threading.Thread(target=lambda: got.append(client.workers.retrieve(WORKER_ID).id))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [WORKER_ID] * 20
