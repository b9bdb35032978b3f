"""Files that come with an instruction: multipart and JSON, names, limits, retries (1.2, 1.5)."""

import base64
import http.client
import itertools
import json
import uuid
from contextlib import closing
from typing import Any

import httpx2
import psycopg
import pytest

from tests.contract.wire import Json, error_in, worker_in
from tests.contract.world import Api, Scripted, Scripts, wait_until
from tests.support.model_server import Step, ToolCall

CSV = b"a,b\n1,2\n"
BINARY = bytes(range(256)) * 40
LARGE = bytes(range(256)) * 3000
RETRY = {"X-Stainless-Retry-Count": "1"}
_boundaries = itertools.count()

Part = tuple[str, str | None, bytes]


def form(*parts: Part, boundary: str | None = None, end: bytes = b"--\r\n") -> tuple[str, bytes]:
    """A multipart body, written by hand: its content type and its bytes."""
    boundary = boundary or f"boundary{next(_boundaries)}"
    body = b""
    for name, filename, content in parts:
        named = f'; filename="{filename}"' if filename is not None else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}".encode() + end


def post_form(
    api: Api, path: str, *parts: Part, headers: dict[str, str] | None = None
) -> httpx2.Response:
    content_type, body = form(*parts)
    sent = {"Content-Type": content_type, **(headers or {})}
    return api.client.post(path, content=body, headers=sent)


def text(name: str, value: str) -> Part:
    return name, None, value.encode()


def upload(api: Api, *names: str, content: bytes = CSV, scripts: Scripts) -> Json:
    """A new worker, its instruction sent with these files."""
    instruction = scripts(Step(text="x"))
    files = [("files", name, content) for name in names]
    return worker_in(post_form(api, "/api/workers", text("input", instruction.input), *files))


def inbox_of(database: psycopg.Connection, worker: Json) -> list[str]:
    rows = database.execute(
        "SELECT path FROM files WHERE worker_id = %s ORDER BY path", [worker["id"]]
    ).fetchall()
    return [path for (path,) in rows]


def read(api: Api, worker: Json, path: str) -> httpx2.Response:
    return api.client.get(f"/api/workers/{worker['id']}/files/{path}")


def told_to_the_model(instruction: Scripted, number: int = 0) -> str:
    return json.dumps(instruction.wait_for(number + 1)[number].body, ensure_ascii=False)


def worker_ids(api: Api) -> set[str]:
    page = api.client.get("/api/workers", params={"limit": 100}).json()
    return {worker["id"] for worker in page["workers"]}


# What is sent is there


@pytest.mark.parametrize("field", ["files", "files[]", "files[0]"])
def test_files_of_a_form_are_in_the_inbox_and_the_agent_is_told(
    api: Api, scripts: Scripts, field: str
):
    instruction = scripts(
        Step(tool_calls=[ToolCall("read_file", {"path": "inbox/table.csv"})]), Step(text="read")
    )
    answer = post_form(
        api,
        "/api/workers",
        (field, "table.csv", CSV),
        text("input", f"  {instruction.input}  "),
        text("budget", "high"),
        text("stream", "false"),
        text("metadata", '{"team": "a", "deep": {"x": [1]}}'),
        text("unknown", "ignored"),
        (field, "noise.bin", BINARY),
    )
    worker = worker_in(answer)
    assert worker["metadata"] == {"team": "a", "deep": {"x": [1]}, "model": "openai-chat:scripted"}
    assert read(api, worker, "inbox/table.csv").content == CSV
    assert read(api, worker, "inbox/noise.bin").content == BINARY
    assert worker["files"] == []
    prompt = told_to_the_model(instruction)
    assert "inbox/table.csv (text/csv, 8 bytes)" in prompt
    assert "inbox/noise.bin (application/octet-stream, 10240 bytes)" in prompt
    asked, answered = worker["messages"]
    assert asked["parts"][0] == {"type": "text", "text": instruction.input}
    assert [(part["filename"], part["mediaType"]) for part in asked["parts"][1:]] == [
        ("table.csv", "text/csv"),
        ("noise.bin", "application/octet-stream"),
    ]
    assert api.client.get(asked["parts"][2]["url"]).content == BINARY
    tool = next(part for part in answered["parts"] if part["type"] == "tool-read_file")
    assert tool["output"] == CSV.decode()


@pytest.mark.parametrize(
    ("data", "media_type", "expected", "served"),
    [
        (base64.b64encode(BINARY).decode(), None, BINARY, "application/octet-stream"),
        (base64.b64encode(b"hi").decode(), "text/x-own", b"hi", "text/x-own; charset=utf-8"),
        (base64.b64encode(LARGE).decode(), None, LARGE, "application/octet-stream"),
        ("", None, b"", "text/plain; charset=utf-8"),
        ("data:image/png;base64," + base64.b64encode(b"p").decode(), None, b"p", "image/png"),
        ("data:,a%20b", None, b"a b", "text/plain; charset=utf-8"),
        ("data:text/plain;charset=utf-8,%C3%BC", None, "ü".encode(), "text/plain; charset=utf-8"),
        # What is no media type is not told on.
        (base64.b64encode(b"hi").decode(), "a\r\nb: c", b"hi", "text/plain; charset=utf-8"),
    ],
)
def test_json_carries_files_too(
    api: Api, scripts: Scripts, data: str, media_type: str | None, expected: bytes, served: str
):
    file: dict[str, Any] = {"filename": "thing", "data": data, "mediaType": media_type}
    worker = worker_in(api.create(scripts(Step(text="x")), files=[file]))
    answer = read(api, worker, "inbox/thing")
    assert answer.content == expected
    assert answer.headers["content-type"] == served


def test_the_name_decides_about_the_type_before_what_is_declared(api: Api, scripts: Scripts):
    page = {
        "filename": "page.html",
        "mediaType": "image/png",
        "data": base64.b64encode(b"<b>").decode(),
    }
    worker = worker_in(api.create(scripts(Step(text="x")), files=[page]))
    answer = read(api, worker, "inbox/page.html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_large_file_comes_through_whole(api: Api, scripts: Scripts):
    content = b"0123456789abcdef" * (1024 * 1024)
    worker = upload(api, "large.bin", content=content, scripts=scripts)
    assert read(api, worker, "inbox/large.bin").content == content


def test_a_form_can_be_streamed_and_answered_at_once(api: Api, scripts: Scripts):
    instruction = scripts(Step(text="streamed"))
    parts = (text("input", instruction.input), ("files", "a.txt", b"a"))
    streamed = post_form(api, "/api/workers", *parts, text("stream", "true"))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert '"type":"finish"' in streamed.text.replace(" ", "")
    instruction = scripts(Step(text="later"))
    parts = (text("input", instruction.input), ("files", "a.txt", b"a"))
    accepted = post_form(api, "/api/workers", *parts, headers={"Prefer": "respond-async"})
    worker = worker_in(accepted, status=202)
    assert worker["messages"][0]["parts"][1]["filename"] == "a.txt"
    api.wait_until_idle(worker["id"])
    assert read(api, worker, "inbox/a.txt").content == b"a"


def test_a_form_without_files_is_an_instruction_like_any(api: Api, scripts: Scripts):
    instruction = scripts(Step(text="plain"))
    worker = worker_in(post_form(api, "/api/workers", text("input", instruction.input)))
    assert worker["output_text"] == "plain"


def test_a_file_that_was_not_chosen_is_none(
    api: Api, scripts: Scripts, database: psycopg.Connection
):
    """Browsers send an empty one."""
    assert inbox_of(database, upload(api, "", content=b"", scripts=scripts)) == []


# When they are there


def test_files_of_a_waiting_turn_come_when_it_starts(
    api: Api, scripts: Scripts, database: psycopg.Connection
):
    running, waiting = scripts.held(), scripts(Step(text="second"))
    worker = api.start(running)
    running.wait_for(1)
    path = f"/api/workers/{worker['id']}"
    parts = (text("input", waiting.input), ("files", "a.txt", b"second"))
    queued = post_form(api, path, *parts, headers={"Prefer": "respond-async"})
    assert queued.status_code == 202
    assert inbox_of(database, worker) == []
    assert read(api, worker, "inbox/a.txt").status_code == 404
    told = api.worker(worker["id"])["messages"][-1]["parts"][1]
    assert told["url"].endswith("/inbox/a.txt")
    running.open()
    api.wait_until_idle(worker["id"])
    assert read(api, worker, "inbox/a.txt").content == b"second"
    assert api.worker(worker["id"])["messages"][2]["parts"][1] == told


def test_a_stream_tells_of_the_files_of_waiting_turns(api: Api, scripts: Scripts):
    running, waiting = scripts.held(), scripts(Step(text="second"))
    worker = api.start(running)
    running.wait_for(1)
    path = f"/api/workers/{worker['id']}"
    parts = (text("input", waiting.input), ("files", "a.txt", b"second"))
    post_form(api, path, *parts, headers={"Prefer": "respond-async"})
    stream = api.beside(api.client.get, path + "/stream")
    running.open()
    events = [
        json.loads(line[6:])
        for line in stream.result().text.splitlines()
        if line.startswith("data: ")
    ]
    asked = [
        e["data"] for e in events if e["type"] == "data-message" and e["data"]["role"] == "user"
    ]
    assert asked == api.worker(worker["id"])["messages"][::2]
    assert asked[1]["parts"][1]["filename"] == "a.txt"


def test_what_the_worker_wrote_meanwhile_is_not_replaced(api: Api, scripts: Scripts):
    running = scripts.new()
    calls = [ToolCall("write_file", {"path": "inbox/a.txt", "content": "own"})]
    running.model.script(
        running.name, [Step(tool_calls=calls, gate=running.gate()), Step(text="x")]
    )
    worker = api.start(running)
    running.wait_for(1)
    waiting = scripts(Step(text="second"))
    parts = (text("input", waiting.input), ("files", "a.txt", b"sent"))
    path = f"/api/workers/{worker['id']}"
    post_form(api, path, *parts, headers={"Prefer": "respond-async"})
    running.open()
    told = api.wait_until_idle(worker["id"])["messages"][2]["parts"][1]
    assert read(api, worker, "inbox/a.txt").content == b"own"
    assert read(api, worker, "inbox/a-2.txt").content == b"sent"
    assert api.client.get(told["url"]).content == b"sent"
    assert "inbox/a-2.txt" in told_to_the_model(waiting)


def test_files_of_a_cancelled_waiting_turn_never_come(
    api: Api, scripts: Scripts, database: psycopg.Connection
):
    running = scripts.held()
    worker = api.start(running)
    running.wait_for(1)
    path = f"/api/workers/{worker['id']}"
    parts = (text("input", "never"), ("files", "a.txt", b"x"))
    post_form(api, path, *parts, headers={"Prefer": "respond-async"})
    api.client.post(path + "/cancel", json={})
    assert inbox_of(database, worker) == []


# Names


NAMES = [
    ("../../etc/passwd", "passwd"),
    ("/etc/passwd", "passwd-2"),
    ("..", "file"),
    (".", "file-2"),
    ("...", "file-3"),
    ("C:\\\\Users\\\\me\\\\report.doc", "report.doc"),
    ("..%2f..%2fx.txt", "..%2f..%2fx.txt"),
    ("a\x00b.txt", "ab.txt"),
    ("a\x1b[31m\x7f.txt", "a[31m.txt"),
    ("invoice\u202efdp.exe", "invoicefdp.exe"),
    ("zero\u200bwidth\ufeff.txt", "zerowidth.txt"),
    ("line\u2028break.txt", "line break.txt"),
    ("-rf", "_-rf"),
    ("~root", "_~root"),
    (".bashrc", ".bashrc"),
    ("con", "con_"),
    ("NUL.txt", "NUL_.txt"),
    ("a<b>c|d?e*f:g.txt", "a_b_c_d_e_f_g.txt"),
    ("  spaces  in  .txt ", "spaces in .txt"),
    ("trailing. . .", "trailing"),
    ("u\u0308n\u0131 😀 名前.txt", "\u00fcn\u0131 😀 名前.txt"),
    ("x" * 300 + ".csv", "x" * 196 + ".csv"),
    ("é" * 300 + ".tar.gz", "é" * 98 + ".gz"),
    ("$(touch x);`id`.sh", "$(touch x);`id`.sh"),
]


def test_names_are_made_safe(api: Api, scripts: Scripts, database: psycopg.Connection):
    """They can be read back, lie in the inbox and nowhere else, and look like what they are."""
    data = base64.b64encode(CSV).decode()
    files = [{"filename": sent, "data": data} for sent, _ in NAMES]
    by_json = worker_in(api.create(scripts(Step(text="x")), files=files))
    parts = by_json["messages"][0]["parts"][1:]
    assert [part["filename"] for part in parts] == [kept for _, kept in NAMES]
    assert set(inbox_of(database, by_json)) == {f"inbox/{kept}" for _, kept in NAMES}
    assert {api.client.get(part["url"]).content for part in parts} == {CSV}
    told = [(sent, kept) for sent, kept in NAMES if "\x00" not in sent and "\x1b" not in sent]
    by_form = upload(api, *(sent for sent, _ in told), scripts=scripts)
    assert set(inbox_of(database, by_form)) == {f"inbox/{kept}" for _, kept in told}


def test_names_that_are_none_become_one(api: Api, scripts: Scripts, database: psycopg.Connection):
    data = base64.b64encode(CSV).decode()
    files = [{"data": data}, {"filename": None, "data": data}, {"filename": " ", "data": data}]
    worker = worker_in(api.create(scripts(Step(text="x")), files=files))
    assert inbox_of(database, worker) == ["inbox/file", "inbox/file-2", "inbox/file-3"]


def test_equal_names_are_numbered(api: Api, scripts: Scripts, database: psycopg.Connection):
    worker = upload(api, "a.txt", "a.txt", "x/a.txt", scripts=scripts)
    assert inbox_of(database, worker) == ["inbox/a-2.txt", "inbox/a-3.txt", "inbox/a.txt"]
    again = scripts(Step(text="x"))
    path = f"/api/workers/{worker['id']}"
    post_form(api, path, text("input", again.input), ("files", "a.txt", b"new"))
    assert read(api, worker, "inbox/a-4.txt").content == b"new"
    assert read(api, worker, "inbox/a.txt").content == CSV


@pytest.mark.parametrize(
    ("written", "placed"), [("inbox", "inbox-2/a.txt"), ("inbox/a.txt/deep", "inbox/a-2.txt")]
)
def test_a_file_where_a_folder_is_needed_is_gone_round(
    api: Api, scripts: Scripts, written: str, placed: str
):
    calls = [ToolCall("write_file", {"path": written, "content": "own"})]
    worker = worker_in(api.create(scripts(Step(tool_calls=calls), Step(text="x"))))
    again = scripts(Step(text="x"))
    path = f"/api/workers/{worker['id']}"
    post_form(api, path, text("input", again.input), ("files", "a.txt", CSV))
    assert read(api, worker, placed).content == CSV
    assert read(api, worker, written).content == b"own"


# Retries


@pytest.mark.parametrize("continuing", [False, True])
def test_a_key_with_another_boundary_joins_the_same_request(
    api: Api, scripts: Scripts, continuing: bool
):
    path = _path(api, scripts, continuing=continuing)
    instruction = scripts.held("once")
    parts = (text("input", instruction.input), ("files", "a.txt", CSV), ("files", "b.bin", BINARY))
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = api.beside(post_form, api, path, *parts, headers=key)
    instruction.wait_for(1)
    second = api.beside(post_form, api, path, *parts, headers={**key, **RETRY})
    different = (*parts[:2], ("files", "b.bin", BINARY[:-1]))
    other = post_form(api, path, *different, headers={**key, **RETRY})
    error_in(other, 422, "idempotency_key_reused")
    instruction.open()
    workers = [worker_in(answer.result()) for answer in (first, second)]
    assert workers[0]["id"] == workers[1]["id"]
    assert len(instruction.requests) == 1


def test_a_large_file_in_json_is_a_part_of_the_request(api: Api, scripts: Scripts):
    def sent(content: bytes) -> httpx2.Response:
        file = {"filename": "a.bin", "data": base64.b64encode(content).decode()}
        body = {"input": instruction.input, "files": [file]}
        return api.client.post("/api/workers", json=body, headers=headers)

    instruction, headers = scripts(Step(text="x")), {"Idempotency-Key": str(uuid.uuid4())}
    first = worker_in(sent(LARGE))
    assert worker_in(sent(LARGE))["id"] == first["id"]
    error_in(sent(LARGE[:-1] + b"?"), 422, "idempotency_key_reused")


@pytest.mark.parametrize("continuing", [False, True])
def test_a_retry_with_another_boundary_joins_the_request_that_was_hung_up(
    api: Api, scripts: Scripts, continuing: bool
):
    path = _path(api, scripts, continuing=continuing)
    instruction = scripts.held("once")
    parts = (text("input", instruction.input), ("files", "a.txt", CSV), ("files", "b.bin", BINARY))
    content_type, body = form(*parts)
    with closing(http.client.HTTPConnection("127.0.0.1", api.server.port, timeout=20)) as client:
        sent = {"Authorization": f"Bearer {api.key}", "Content-Type": content_type}
        client.request("POST", path, body, sent)
        instruction.wait_for(1)
    again = api.beside(post_form, api, path, *parts, headers=RETRY)
    instruction.open()
    assert worker_in(again.result())["output_text"] == "once"
    assert len(instruction.requests) == 1


def _path(api: Api, scripts: Scripts, *, continuing: bool) -> str:
    if not continuing:
        return "/api/workers"
    return "/api/workers/" + worker_in(api.create(scripts(Step(text="x"))))["id"]


# What is refused makes nothing


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ([("files", "a.txt", CSV)], "input"),
        ([text("input", "   "), ("files", "a.txt", CSV)], "input"),
        ([text("input", "x"), text("input", "y")], "input"),
        ([("input", "prompt.txt", b"x")], "input"),
        ([text("input", "x"), text("budget", "huge")], "budget"),
        ([text("input", "x"), text("stream", "maybe")], "stream"),
        ([text("input", "x"), text("metadata", "{")], "metadata"),
        ([text("input", "x"), text("metadata", "[1]")], "metadata"),
        ([text("input", "x"), text("metadata", '{"a": NaN}')], "metadata"),
        ([text("input", "x"), text("files", "not a file")], "files"),
        ([text("input", "a\0b")], "input"),
    ],
)
def test_an_invalid_form_is_422_and_says_where(other: Api, parts: list[Part], where: str):
    before = worker_ids(other)
    error = error_in(post_form(other, "/api/workers", *parts), 422, "invalid_input")
    assert error["details"][0]["path"][0] == where
    assert worker_ids(other) == before


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ([{"filename": "a"}], ["files", 0, "data"]),
        ([{"data": "YQ=="}, {"data": "?"}], ["files", 1, "data"]),
        ([{"data": "YQ"}], ["files", 0, "data"]),
        ([{"data": "YQ==YQ=="}], ["files", 0, "data"]),
        ([{"data": "A" * 999_998 + "=="}, {"data": "A" * 999_999}], ["files", 1, "data"]),
        ([{"data": "data:text/plain;base64,?"}], ["files", 0, "data"]),
        ([{"data": 1}], ["files", 0, "data"]),
        ([{"filename": 1, "data": "YQ=="}], ["files", 0, "filename"]),
        ("YQ==", ["files"]),
        ({"data": "YQ=="}, ["files"]),
        (["YQ=="], ["files", 0]),
    ],
)
def test_invalid_files_in_json_are_422_and_say_where(other: Api, files: object, path: list[object]):
    before = worker_ids(other)
    error = error_in(other.create("x", files=files), 422, "invalid_input")
    assert error["details"][0]["path"] == path
    assert worker_ids(other) == before


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),  # no boundary
        ("multipart/form-data; boundary=a", b""),
        ("multipart/form-data; boundary=a", b"no boundary in here"),
        ("multipart/form-data; boundary=a", form(text("input", "x"), boundary="a", end=b"")[1]),
        ("multipart/form-data; boundary=a", form(text("input", "x"), boundary="a")[1][:-30]),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Type: text/plain\r\n\r\nx\r\n--a--"),
        ("multipart/form-data; boundary=a", form(("input", None, b"\xff"), boundary="a")[1]),
        (
            "multipart/form-data; boundary=a",
            form(*[text(f"f{n}", "x") for n in range(200)], boundary="a")[1],
        ),
        (
            "multipart/form-data; boundary=a",
            form(text("input", "x" * 1_100_000), boundary="a")[1],
        ),
        (
            "multipart/form-data; boundary=" + "a" * 500,
            form(text("input", "x"), boundary="a" * 500)[1],
        ),
    ],
)
def test_a_malformed_form_is_400_and_makes_nothing(other: Api, content_type: str, body: bytes):
    before = worker_ids(other)
    answer = other.client.post("/api/workers", content=body, headers={"Content-Type": content_type})
    error_in(answer, 400, "malformed_multipart")
    assert worker_ids(other) == before


@pytest.mark.parametrize(
    ("files", "code", "variable"),
    [
        ([30_001], "file_too_large", "HANDINGER_MAX_FILE_BYTES"),
        ([1, 1, 1, 1], "too_many_files", "HANDINGER_MAX_ATTACHMENTS"),
        ([1, 1, 1, 1, 1, 1], "malformed_multipart", "4"),
        ([30_000, 20_001], "workspace_full", "HANDINGER_MAX_WORKSPACE_BYTES"),
        ([110_000], "body_too_large", "HANDINGER_MAX_MULTIPART_BYTES"),
        ([300_000], "body_too_large", "HANDINGER_MAX_MULTIPART_BYTES"),
    ],
)
def test_too_much_is_413_and_names_the_limit(
    narrow_api: Api, files: list[int], code: str, variable: str
):
    before = worker_ids(narrow_api)
    parts = [("files", f"{n}.bin", b"x" * size) for n, size in enumerate(files)]
    answer = post_form(narrow_api, "/api/workers", text("input", "x"), *parts)
    error = error_in(answer, 400 if code == "malformed_multipart" else 413, code)
    assert variable in error["error"]
    assert worker_ids(narrow_api) == before


def test_files_that_wait_count_for_the_workspace(narrow_api: Api, scripts: Scripts):
    running = scripts.held()
    worker = narrow_api.start(running)
    running.wait_for(1)
    path = f"/api/workers/{worker['id']}"
    now = {"Prefer": "respond-async"}
    three = [("files", f"{n}.txt", b"x") for n in range(3)]
    assert post_form(narrow_api, path, text("input", "x"), *three, headers=now).status_code == 202
    refused = post_form(narrow_api, path, text("input", "x"), *three, headers=now)
    assert "HANDINGER_MAX_WORKSPACE_FILES" in error_in(refused, 413, "workspace_full")["error"]
    narrow_api.client.post(path + "/cancel", json={})


def test_bytes_of_a_refused_upload_are_removed(narrow_api: Api, scripts: Scripts):
    parts = [("files", f"{n}.bin", b"refused" * (n + 4000)) for n in range(2)]
    before = worker_ids(narrow_api)
    refused = post_form(narrow_api, "/api/workers", text("input", "x"), *parts)
    error_in(refused, 413, "workspace_full")
    kept = upload(narrow_api, "kept.bin", content=b"kept", scripts=scripts)
    blobs = narrow_api.server.data_dir / "blobs"

    def only_known() -> bool:
        return {path.name for path in blobs.glob("wrk_*")} <= before | {kept["id"]}

    wait_until(only_known)
    assert read(narrow_api, kept, "inbox/kept.bin").content == b"kept"


def test_another_organizations_worker_takes_no_files(
    api: Api, other: Api, scripts: Scripts, database: psycopg.Connection
):
    worker = worker_in(api.create(scripts(Step(text="x"))))
    folder = api.server.data_dir / "blobs" / worker["id"]
    path = f"/api/workers/{worker['id']}"
    error_in(post_form(other, path, text("input", "x"), ("files", "a.txt", CSV)), 404, "not_found")
    assert inbox_of(database, worker) == []
    assert not folder.exists()


def test_an_upload_that_breaks_off_makes_nothing(other: Api):
    before = worker_ids(other)
    content_type, body = form(text("input", "x"), ("files", "a.bin", BINARY * 100))

    def broken() -> Any:
        yield body[: len(body) // 2]
        raise OSError("the client is gone")

    with pytest.raises(OSError, match="the client is gone"):
        other.client.post("/api/workers", content=broken(), headers={"Content-Type": content_type})
    other.client.get("/api/workers?limit=1")
    wait_until(lambda: worker_ids(other) == before)


def test_only_instructions_are_read_as_forms(api: Api, scripts: Scripts):
    worker = worker_in(api.create(scripts(Step(text="x"))))
    answer = post_form(api, f"/api/workers/{worker['id']}/cancel", text("turnId", "x"))
    error_in(answer, 415, "unsupported_media_type")
