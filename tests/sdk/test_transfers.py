"""Files on their way: uploads in every form, and downloads that outlive their connections."""

import email
import email.policy
import io
import os
from pathlib import Path
from typing import Any

import pytest

from handinger import APIConnectionError, DownloadError, UploadError
from tests.sdk.faces import Face
from tests.sdk.stub import (
    WORKER_ID,
    Answer,
    Recorded,
    Stub,
    events,
    hang_up,
    reply,
    turn_frames,
    worker,
)

ONE = f"/api/workers/{WORKER_ID}"
FILE = f"GET {ONE}/files/a.bin"


def parts_of(request: Recorded) -> list[tuple[str, str | None, str, bytes]]:
    """Name, filename, media type and content of each part of a form."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message: Any = email.message_from_bytes(head + request.body, policy=email.policy.HTTP)
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()
    ]


def test_files_travel_beside_the_instruction(stub: Stub, face: Face, tmp_path: Path):
    (tmp_path / "data.csv").write_bytes(b"a,b\r\n")
    with (tmp_path / "open.bin").open("w+b") as opened:
        opened.write(b"\x00\xff")
        stub.on("POST /api/workers", reply(worker()))
        face.call(
            "create",
            input="Read them.",
            metadata={"a": [1]},
            files=[
                tmp_path / "data.csv",
                opened,
                ("notes.txt", b"hello"),
                ("more.json", io.BytesIO(b"{}"), "application/json"),
            ],
        )
    (request,) = stub.requests
    form = "text/plain"
    assert parts_of(request) == [
        ("input", None, form, b"Read them."),
        ("metadata", None, form, b'{"a": [1]}'),
        ("files", "data.csv", "text/csv", b"a,b\r\n"),
        ("files", "open.bin", "application/octet-stream", b"\x00\xff"),
        ("files", "notes.txt", "text/plain", b"hello"),
        ("files", "more.json", "application/json", b"{}"),
    ]
    assert request.headers["idempotency-key"]


def test_files_are_sent_anew_and_in_the_same_bytes_when_a_request_is_repeated(
    stub: Stub, face: Face, tmp_path: Path
):
    (tmp_path / "a.txt").write_bytes(b"x" * 200_000)
    read_end, write_end = os.pipe()
    os.write(write_end, b"from a pipe")
    os.close(write_end)
    stub.on(f"POST {ONE}", hang_up(), reply({"error": "Later."}, 503), reply(worker()))
    with os.fdopen(read_end, "rb") as pipe:
        face.call("continue_", WORKER_ID, input="a", files=[str(tmp_path / "a.txt"), ("p", pipe)])
    first, second, third = stub.requests
    assert first.body == second.body == third.body
    assert first.headers["content-type"] == third.headers["content-type"]
    assert parts_of(third)[-1][-1] == b"from a pipe"


def test_a_streamed_turn_can_have_files(stub: Stub, face: Face):
    stub.on("POST /api/workers", events(*turn_frames()))
    told, _ = face.stream("create", input="a", stream=True, files=[("a", b"b")])
    assert told[-1].type == "finish"
    assert ("stream", None, "text/plain", b"true") in parts_of(stub.requests[0])


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/no/such/file", "/no/such/file cannot be sent"),
        ("/", "needs a name"),
        ("/etc", "/etc cannot be sent: Is a directory"),
        (b"bare bytes", "A file is a path"),
        (io.BytesIO(b"nameless"), "A file is a path"),
        (("", b"x"), "needs a name"),
    ],
)
def test_what_is_no_file_is_refused_before_anything_is_sent(
    stub: Stub, face: Face, file: Any, expected: str
):
    with pytest.raises(UploadError, match=expected):
        face.call("create", input="a", files=[file])
    assert stub.requests == []


CONTENT = bytes(range(256)) * 2000


def piece(
    begin: int, end: int, *, content: bytes = CONTENT, status: int = 206, etag: str = '"v1"'
) -> Answer:
    """A part of a file that claims to go on to its end; the connection may end before."""

    def answer(handler: Any) -> None:
        length = str(len(content) - begin)
        handler.send_head(
            status, {"Content-Length": length, "ETag": etag, "Content-Type": "image/png"}
        )
        handler.wfile.write(content[begin:end])
        if end < len(content):
            handler.cut()

    return answer


def test_a_download_goes_on_where_the_connection_broke(stub: Stub, face: Face, tmp_path: Path):
    size = len(CONTENT)
    stub.on(FILE, piece(0, 100_000, status=200), hang_up(), piece(100_000, 300_000))
    stub.on(FILE, piece(300_000, size))
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "copy"
    done = face.call(
        "download_file",
        "a.bin",
        worker_id=WORKER_ID,
        to=target,
        progress=lambda got, total: told.append((got, total)),
    )
    assert target.read_bytes() == CONTENT
    assert (done.size, done.media_type, done.etag) == (size, "image/png", '"v1"')
    ranges = [request.headers.get("range") for request in stub.requests]
    assert (ranges[0], ranges[-1]) == (None, "bytes=300000-")
    assert stub.requests[-1].headers["if-range"] == '"v1"'
    assert told[-1] == (size, size)
    assert [got for got, _ in told] == sorted(got for got, _ in told)
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
    stub: Stub, face: Face, tmp_path: Path
):
    new = b"new" * 1000
    stub.on(FILE, piece(0, 1000, status=200), piece(0, 3000, content=new, status=200, etag='"v2"'))
    target = tmp_path / "copy"
    done = face.call("download_file", "a.bin", worker_id=WORKER_ID, to=target)
    assert target.read_bytes() == new
    assert (done.size, done.etag) == (3000, '"v2"')


def test_a_download_that_fails_leaves_the_file_as_it_was(stub: Stub, face: Face, tmp_path: Path):
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    stub.on(FILE, piece(0, 1000, status=200), *[hang_up()] * 3)
    with pytest.raises(APIConnectionError):
        face.call("download_file", "a.bin", worker_id=WORKER_ID, to=target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_into_an_open_file(stub: Stub, face: Face, tmp_path: Path):
    stub.on(FILE, piece(0, len(CONTENT), status=200))
    with (tmp_path / "copy").open("w+b") as file:
        file.write(b"head")
        face.call("download_file", "a.bin", worker_id=WORKER_ID, to=file)
        file.seek(0)
        assert file.read() == b"head" + CONTENT


def test_a_pipe_cannot_begin_anew(stub: Stub, face: Face):
    stub.on(FILE, piece(0, 1000, status=200), piece(0, len(CONTENT), status=200, etag='"v2"'))
    read_end, write_end = os.pipe()
    with (
        os.fdopen(read_end, "rb"),
        os.fdopen(write_end, "wb") as pipe,
        pytest.raises(DownloadError, match="fetch it again"),
    ):
        face.call("download_file", "a.bin", worker_id=WORKER_ID, to=pipe)
