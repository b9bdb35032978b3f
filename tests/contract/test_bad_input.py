"""Bad input gets the right 4xx and a sentence that helps, and nothing is made of it (0).

After each test, all that the organization has is as it was.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.contract.wire import Json, error_in, turns_in, worker_in, workers_in
from tests.contract.world import Api, Scripts, header
from tests.support.model_server import Step

JSON = {"Content-Type": "application/json"}
MAX_CHARACTERS = 100_000
DEEP = 10_000


@dataclass
class Victim:
    """An organization with one idle worker, which nothing here may change."""

    api: Api
    worker_id: str
    turn_id: str
    seen: list[Json] = field(default_factory=list[Json])  # everything, at the last look

    def everything(self) -> list[Json]:
        page = workers_in(self.api.client.get("/api/workers", params={"limit": 100}))
        worker = self.api.worker(self.worker_id)
        turns = turns_in(self.api.client.get(f"/api/workers/{self.worker_id}/turns"))
        return [page, worker, turns]


@pytest.fixture(scope="module")
def victim(new_organization: Callable[[str], Api], scripts: Scripts) -> Victim:
    api = new_organization("victim")
    worker_id = worker_in(api.create(scripts(Step(text="x"))))["id"]
    victim = Victim(api, worker_id, api.turns(worker_id)[0]["id"])
    victim.seen = victim.everything()
    return victim


@pytest.fixture(autouse=True)
def _nothing_is_made(victim: Victim) -> Iterator[None]:
    yield
    before, victim.seen = victim.seen, victim.everything()
    assert victim.seen == before


def _path(victim: Victim, endpoint: str) -> str:
    return endpoint.replace("{own}", victim.worker_id)


INSTRUCTING = pytest.mark.parametrize("endpoint", ["/api/workers", "/api/workers/{own}"])
POSTING = pytest.mark.parametrize(
    "endpoint", ["/api/workers", "/api/workers/{own}", "/api/workers/{own}/cancel"]
)


NOT_JSON = {
    "cut off": b'{"input": "x"',
    "cut off in a string": b'{"input": "x',
    "text": b"input=x",
    "single quotes": b"{'input': 'x'}",
    "trailing comma": b'{"input": "x",}',
    "comment": b'{"input": "x"} // please',
    "two documents": b'{"input": "x"}{"input": "x"}',
    "control character in a string": b'{"input": "a\nb"}',
    "bad escape": b'{"input": "\\x41"}',
    "NUL byte": b'{"input": "x"}\0',
    "broken UTF-8": b'{"input": "\xff"}',
    "overlong UTF-8": b'{"input": "\xc0\xaf"}',
    "surrogate in UTF-8": b'{"input": "\xed\xa0\x80"}',
    "latin-1": '{"input": "é"}'.encode("latin-1"),
    "byte order mark": b'\xef\xbb\xbf{"input": "x"}',
    "UTF-16": '{"input": "x"}'.encode("utf-16"),
    "NaN": b'{"input": "x", "metadata": {"a": NaN}}',
    "Infinity": b'{"input": "x", "unknown": Infinity}',
    "minus Infinity": b'{"input": -Infinity}',
    "nested too deep": b'{"input": "x", "unknown": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "objects nested too deep": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "only open brackets": b"[" * DEEP,
    "a number with 5000 digits": b'{"input": "x", "unknown": ' + b"9" * 5000 + b"}",
}


@POSTING
@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_json_is_400(victim: Victim, endpoint: str, name: str):
    answer = victim.api.client.post(_path(victim, endpoint), content=NOT_JSON[name], headers=JSON)
    error = error_in(answer, 400, "malformed_json")
    assert "body" in error["error"]


@POSTING
@pytest.mark.parametrize("body", [b"[]", b'[{"input": "x"}]', b'"input"', b"1", b"null", b"true"])
def test_json_that_is_no_object_is_422(victim: Victim, endpoint: str, body: bytes):
    answer = victim.api.client.post(_path(victim, endpoint), content=body, headers=JSON)
    assert "object" in error_in(answer, 422, "invalid_input")["error"]


@INSTRUCTING
@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"{}"])
def test_an_empty_body_lacks_the_input(victim: Victim, endpoint: str, body: bytes):
    answer = victim.api.client.post(_path(victim, endpoint), content=body, headers=JSON)
    error = error_in(answer, 422, "invalid_input")
    assert [detail["path"] for detail in error["details"]] == [["input"]]


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


BAD_VALUES: list[tuple[str, str, Any]] = [
    ("input", "null", None),
    ("input", "empty", ""),
    ("input", "white space", " \t\r\n\u00a0\u2003"),
    ("input", "integer", 1),
    ("input", "float", 1.5),
    ("input", "boolean", True),
    ("input", "list", ["x"]),
    ("input", "object", {"text": "x"}),
    ("input", "NUL", "a\0b"),
    ("input", "only NUL", "\0"),
    ("input", "lone high surrogate", "a\ud800b"),
    ("input", "lone low surrogate", "\udfff"),
    ("input", "surrogates the wrong way round", "\ude00\ud83d"),
    ("input", "one character too many", "x" * (MAX_CHARACTERS + 1)),
    ("input", "one emoji too many", "😀" * (MAX_CHARACTERS + 1)),
    ("budget", "unknown", "huge"),
    ("budget", "upper case", "LOW"),
    ("budget", "empty", ""),
    ("budget", "number", 1),
    ("budget", "list", ["low"]),
    ("budget", "object", {}),
    ("budget", "boolean", False),
    ("budget", "NUL", "low\0"),
    ("budget", "lone surrogate", "\ud800"),
    ("stream", "string", "true"),
    ("stream", "one", 1),
    ("stream", "zero", 0),
    ("stream", "list", []),
    ("stream", "object", {}),
    ("metadata", "string", "x"),
    ("metadata", "number", 1),
    ("metadata", "list", []),
    ("metadata", "boolean", True),
    ("metadata", "NUL in a value", {"a": ["\0"]}),
    ("metadata", "NUL in a key", {"a": {"\0": 1}}),
    ("metadata", "lone surrogate in a value", {"a": {"b": "\ud800"}}),
    ("metadata", "lone surrogate in a key", {"\udc00": 1}),
    ("metadata", "lone surrogate in a deep key", {"a": [{"\udc00": 1}]}),
    ("metadata", "nested too deep", {"a": _nested(33)}),
    ("metadata", "nested far too deep", {"a": _nested(300)}),
]


@pytest.mark.parametrize(
    ("endpoint", "field", "value"),
    [
        pytest.param(endpoint, field, value, id=f"{endpoint} {field}: {name}")
        for endpoint in ("/api/workers", "/api/workers/{own}")
        for field, name, value in BAD_VALUES
        # Only a new worker has metadata.
        if field != "metadata" or endpoint == "/api/workers"
    ],
)
def test_a_bad_value_is_422_and_says_which(
    victim: Victim, endpoint: str, field: str, value: object
):
    body = json.dumps({"input": "x", field: value}).encode()
    answer = victim.api.client.post(_path(victim, endpoint), content=body, headers=JSON)
    error = error_in(answer, 422, "invalid_input")
    assert error["details"][0]["path"][0] == field
    assert field in error["error"]


def test_a_number_too_large_for_a_double_is_refused_in_metadata(victim: Victim):
    body = b'{"input": "x", "metadata": {"a": [1e999]}}'
    answer = victim.api.client.post("/api/workers", content=body, headers=JSON)
    assert error_in(answer, 422, "invalid_input")["details"][0]["path"] == ["metadata"]


def test_too_much_metadata_is_422_and_says_how_much_is_allowed(victim: Victim):
    body = {"input": "x", "metadata": {"a": "ä" * 40_000}}
    error = error_in(victim.api.client.post("/api/workers", json=body), 422, "invalid_input")
    assert "65536" in error["error"]
    assert [detail["path"] for detail in error["details"]] == [["metadata"]]


@POSTING
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "application/jsonp",
        "json",
        "",
        "\x80",
        "a" * 5000,
    ],
)
def test_a_body_of_another_type_is_415(victim: Victim, endpoint: str, content_type: str):
    answer = victim.api.client.post(
        _path(victim, endpoint),
        content=b'{"input": "x"}',
        headers=header("Content-Type", content_type),
    )
    assert "application/json" in error_in(answer, 415, "unsupported_media_type")["error"]


@POSTING
def test_a_body_of_50_mb_is_413(victim: Victim, endpoint: str):
    body = b'{"input": "' + b"x" * 50_000_000 + b'"}'
    answer = victim.api.client.post(_path(victim, endpoint), content=body, headers=JSON)
    error = error_in(answer, 413, "body_too_large")
    assert str(32 * 1024 * 1024) in error["error"]


@pytest.mark.parametrize("turn_id", [1, 1.5, True, [], {}, ["trn_"]])
def test_a_turn_id_that_is_no_string_is_422(victim: Victim, turn_id: object):
    answer = victim.api.client.post(
        f"/api/workers/{victim.worker_id}/cancel", json={"turnId": turn_id}
    )
    assert error_in(answer, 422, "invalid_input")["details"][0]["path"] == ["turnId"]


BAD_TURN_IDS = ["", "x", "trn_", "trn_" + "0" * 32, "trn_" + "g" * 32, "\0", "\ud800", "x" * 10_000]


@pytest.mark.parametrize("turn_id", BAD_TURN_IDS)
def test_an_unknown_turn_id_in_a_body_is_404(victim: Victim, turn_id: str):
    body = json.dumps({"turnId": turn_id}).encode()
    path = f"/api/workers/{victim.worker_id}/cancel"
    error_in(victim.api.client.post(path, content=body, headers=JSON), 404, "not_found")


BAD_IDS = [
    "wrk_",
    "wrk_x",
    "wrk_" + "0" * 32,
    "wrk_" + "0" * 31,
    "wrk_" + "0" * 33,
    "wrk_" + "G" * 32,
    "trn_" + "0" * 32,
    "0",
    "null",
    "%00",
    "wrk_" + "0" * 31 + "%00",
    "%20",
    "%F0%9F%98%80",
    "%ED%A0%80",
    "%FF",
    "%",
    "%zz",
    "a" * 10_000,
    "'%20OR%201=1",
    "{workerId}",
    "$(id)",
    "%0d%0aSet-Cookie:%20a=b",
    "..%2f..%2fetc%2fpasswd",
]


@pytest.mark.parametrize("bad_id", BAD_IDS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/workers/{id}"),
        ("POST", "/api/workers/{id}"),
        ("DELETE", "/api/workers/{id}"),
        ("GET", "/api/workers/{id}/stream"),
        ("POST", "/api/workers/{id}/cancel"),
        ("GET", "/api/workers/{id}/turns"),
        ("GET", "/api/workers/{own}/turns/{id}"),
    ],
)
def test_an_unknown_or_malformed_id_in_a_path_is_404(
    victim: Victim, method: str, path: str, bad_id: str
):
    target = path.replace("{own}", victim.worker_id).replace("{id}", bad_id)
    body = b'{"input": "x"}' if method == "POST" else b""
    answer = victim.api.raw(method, target, headers=JSON, body=body)
    error_in(answer, 404, "not_found")
    assert "set-cookie" not in answer.headers


BAD_QUERIES = [
    ("limit", "0"),
    ("limit", "101"),
    ("limit", "-1"),
    ("limit", "many"),
    ("limit", "1.5"),
    ("limit", ""),
    ("limit", "%00"),
    ("limit", "9" * 5000),
    ("limit", "0x10"),
    ("limit", "%D9%A1"),  # an Arabic one
    ("status", "odd"),
    ("status", ""),
    ("status", "COMPLETED"),
    ("status", "%00"),
    ("cursor", ""),
    ("cursor", "x"),
    ("cursor", "%00"),
    ("cursor", "d3JrXzA"),  # wrk_0
    ("cursor", "%F0%9F%98%80"),
    ("cursor", "A" * 10_000),
    ("cursor", "_-_-"),
    ("cursor", "b3JnXzAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"),  # an id of another kind
]


@pytest.mark.parametrize("path", ["/api/workers", "/api/workers/{own}/turns"])
@pytest.mark.parametrize(("name", "value"), BAD_QUERIES)
def test_a_bad_query_parameter_of_a_list_is_422_and_says_which(
    victim: Victim, path: str, name: str, value: str
):
    answer = victim.api.raw("GET", f"{_path(victim, path)}?{name}={value}")
    error = error_in(answer, 422, "invalid_input")
    assert name in error["error"]
    assert [detail["path"] for detail in error["details"]] == [[name]]


@pytest.mark.parametrize("value", ["", "maybe", "2", "%00", "%FF", "truefalse"])
@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/api/workers/{own}", "messages"),
        ("GET", "/api/workers/{own}", "stream"),
        ("GET", "/api/workers/{own}/stream", "messages"),
        ("POST", "/api/workers", "messages"),
        ("POST", "/api/workers/{own}", "messages"),
        ("POST", "/api/workers/{own}/cancel", "messages"),
    ],
)
def test_a_boolean_in_a_query_that_is_none_is_422(
    victim: Victim, method: str, path: str, name: str, value: str
):
    body = b'{"input": "x"}' if method == "POST" else b""
    target = f"{_path(victim, path)}?{name}={value}"
    answer = victim.api.raw(method, target, headers=JSON, body=body)
    error = error_in(answer, 422, "invalid_input")
    assert error["details"][0]["path"] == [name]


@INSTRUCTING
@pytest.mark.parametrize("key", ["", " ", "x" * 256, "é" * 256, "x" * 50_000])
def test_a_bad_idempotency_key_is_422(victim: Victim, endpoint: str, key: str):
    answer = victim.api.client.post(
        _path(victim, endpoint),
        json={"input": "x"},
        headers=header("Idempotency-Key", key.strip()),
    )
    error = error_in(answer, 422, "invalid_input")
    assert "Idempotency-Key" in error["error"]
    assert [detail["path"] for detail in error["details"]] == [["Idempotency-Key"]]
