"""Whatever is sent, nothing answers with a 5xx (0)."""

import json
import socket
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.wire import Json, check_error, error_in, worker_in
from tests.contract.world import Api, Scripts, header
from tests.support.model_server import Step, ToolCall

JSON = {"Content-Type": "application/json"}
MANY = "9" * 5000
MANY_ZEROS = "0" * 5000 + "1"

FUZZ = settings(
    max_examples=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=15,
)
FIELDS = st.sampled_from(["input", "budget", "stream", "metadata", "turnId", "when"])
PLAUSIBLE = st.sampled_from(["Hello.", "low", "unlimited", True, False, None, {}, {"a": 1}, ""])
BODIES = st.dictionaries(FIELDS | ANY_TEXT, PLAUSIBLE | ANY_JSON) | ANY_JSON


@pytest.fixture(scope="module")
def worker(api: Api, scripts: Scripts) -> Json:
    """A worker with a file."""
    write = ToolCall("write_file", {"path": "a.txt", "content": "0123456789"})
    return worker_in(api.create(scripts(Step(tool_calls=[write]), Step(text="x"))))


def _paths(worker: Json) -> list[str]:
    return ["/api/workers", f"/api/workers/{worker['id']}", f"/api/workers/{worker['id']}/cancel"]


@FUZZ
@given(body=BODIES)
def test_no_json_body_gives_a_5xx(api: Api, worker: Json, body: object):
    content = json.dumps(body).encode()
    for path in _paths(worker):
        answer = api.client.post(path, content=content, headers=JSON)
        assert answer.status_code in (200, 400, 404, 422), (answer.text, content)


@FUZZ
@given(body=st.binary(max_size=200) | BODIES.map(lambda body: json.dumps(body).encode()[:-1]))
def test_no_bytes_give_a_5xx(api: Api, worker: Json, body: bytes):
    for path in _paths(worker):
        answer = api.client.post(path, content=body, headers=JSON)
        assert answer.status_code in (200, 400, 422), (answer.text, body)


@FUZZ
@given(name=st.sampled_from(["limit", "cursor", "status", "messages", "stream"]), value=ANY_TEXT)
def test_no_query_gives_a_5xx(api: Api, worker: Json, name: str, value: str):
    query = {name: value.encode("utf-8", "replace")}
    for path in (*_paths(worker)[:2], f"/api/workers/{worker['id']}/turns"):
        assert api.client.get(path, params=query).status_code in (200, 422)


@FUZZ
@given(value=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])))
def test_no_value_of_a_header_gives_a_5xx(api: Api, worker: Json, value: str):
    for name in HEADERS:
        answer = api.client.get(
            f"/api/workers/{worker['id']}/files/a.txt",
            headers=header(name, value.strip()),
        )
        assert answer.status_code in (200, 206, 304, 412, 416), (name, answer.text)


HEADERS = [
    "Range",
    "If-Range",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "Accept",
    "Prefer",
    "Last-Event-ID",
    "X-Request-Id",
    "X-Stainless-Retry-Count",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "Cookie",
]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "é",
        "9" * 5000,
        "0" * 5000 + "1",
        "-1",
        "bytes=0-" + MANY,
        f"bytes={MANY}-{MANY}",
        f"bytes=-{MANY}",
        "bytes=" + ",".join(["0-1"] * 1000),
        "bytes=²-³",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Mon, 31 Dec 9999 23:59:59 -2359",
        "Mon, 99 Jan 2024 99:99:99 GMT",
        "trn_" + "0" * 32 + "-1.1.1.1",
        "trn_" + "0" * 32 + f"-{MANY}.1.1.1",
        '"' * 500,
        "W/" * 500,
        "," * 5000,
        ";=" * 500,
    ],
)
def test_no_hostile_header_gives_a_5xx(api: Api, worker: Json, value: str):
    path = f"/api/workers/{worker['id']}"
    for name in HEADERS:
        for target in (path, f"{path}/stream", f"{path}/files/a.txt"):
            answer = api.client.get(target, headers=header(name, value))
            assert answer.status_code in (200, 206, 304, 412, 416), (name, answer.text)
            assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Stainless-Retry-Count", MANY),
        ("X-Stainless-Retry-Count", MANY_ZEROS),
        ("X-Stainless-Retry-Count", "-1"),
        ("X-Stainless-Retry-Count", "²"),
        ("X-Stainless-Retry-Count", "one"),
        ("Prefer", "é" * 5000),
        ("Prefer", ",;=" * 1000),
        ("Accept", "é"),
        ("Content-Type", "application/json; charset=nonsense"),
        ("Content-Encoding", "gzip"),
    ],
)
def test_no_hostile_header_stops_an_instruction(api: Api, scripts: Scripts, name: str, value: str):
    body = json.dumps({"input": f"{scripts(Step(text='x')).input} {uuid.uuid4()}"})
    headers = {b"Content-Type": b"application/json", **header(name, value)}
    worker_in(api.client.post("/api/workers", content=body, headers=headers))


def test_json_of_any_depth_is_taken_or_refused(api: Api, scripts: Scripts):
    """Reading JSON and writing it again may have different limits of depth.

    All under one key, so that what is taken makes no worker.
    """
    headers = {**JSON, "Idempotency-Key": str(uuid.uuid4())}
    created = api.client.post("/api/workers", json={"input": "x"}, headers=headers)
    assert created.status_code == 200
    codes: set[str] = set()
    for depth in (*range(1, 800, 53), *range(800, 1010)):
        body = b'{"input": "x", "unknown": ' + b"[" * depth + b"]" * depth + b"}"
        answer = api.client.post("/api/workers", content=body, headers=headers)
        assert answer.status_code in (400, 422), depth
        codes.add(error_in(answer, answer.status_code)["code"])
    assert codes == {"idempotency_key_reused", "malformed_json"}


@pytest.mark.parametrize("ignored", ["1e999", "-1e999", "1E400", "9" * 4000])
def test_numbers_beyond_all_bounds_in_unknown_fields_are_ignored(
    api: Api, scripts: Scripts, ignored: str
):
    text = scripts(Step(text="x")).input
    body = f'{{"input": "{text}", "unknown": {ignored}}}'.encode()
    worker_in(api.client.post("/api/workers", content=body, headers=JSON))


def test_lone_surrogates_in_unknown_fields_are_ignored(api: Api, scripts: Scripts):
    text = scripts(Step(text="x")).input
    body = f'{{"input": "{text}", "\\ud800": "\\udfff", "\\u0000": "\\u0000"}}'.encode()
    for headers in ({}, {"Idempotency-Key": str(uuid.uuid4())}):
        worker_in(api.client.post("/api/workers", content=body, headers={**JSON, **headers}))


def test_one_hundred_thousand_characters_after_trimming_are_taken(api: Api, scripts: Scripts):
    marker = scripts(Step(text="read it all")).input
    for filling in ("x", "😀", "é"):
        text = marker + filling * (100_000 - len(marker))
        assert len(text) == 100_000
        worker = worker_in(api.create(f" \n{text}\t "))
        assert worker["output_text"] == "read it all"
        assert api.turns(worker["id"])[0]["input"] == text


def test_a_single_character_is_taken(api: Api):
    assert worker_in(api.create("?"))["output_text"]


def test_a_header_cannot_be_smuggled_in(api: Api, scripts: Scripts):
    """The server never sends back, as a header, what a caller made up with line breaks in it."""
    evil = "a%0d%0aX-Evil:%20yes"
    for target in (f"/api/workers/{evil}", f"/api/workers?cursor={evil}", f"/{evil}"):
        answer = api.raw("GET", target)
        assert answer.status_code in (404, 422)
        assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /api/workers HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x00b\r\n\r\n",
        b"GET /api/workers HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\rb\r\n\r\n",
        b"GET /api/workers HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /api/workers?a=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/workers HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/workers HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_the_same_form(api: Api, request_bytes: bytes):
    with socket.create_connection(("127.0.0.1", api.server.port), timeout=10) as connection:
        connection.sendall(request_bytes)
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-request-id: " in head.lower()
    check_error(json.loads(body), 400)
