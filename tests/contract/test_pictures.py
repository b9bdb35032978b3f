"""Pictures: shown to models that can see, told to others, and not kept in the conversation."""

import base64
import hashlib
import struct
import zlib
from typing import Any

import psycopg
import pytest
from pydantic_ai.messages import ModelRequest, ToolReturnPart

from handinger.agent import pictures, sizes
from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripts
from tests.support.model_server import HttpError, Step, ToolCall
from tests.support.server import HandingerServer


def png(width: int = 2, height: int = 2, *, padding: int = 0) -> bytes:
    """A whole picture, with a comment of so many bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80\x40\x20" * width) * height)
    comment = chunk(b"tEXt", b"c\0" + b"x" * padding) if padding else b""
    parts = chunk(b"IHDR", head) + comment + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


PICTURE = png()
IN_REQUEST = "data:image/png;base64," + base64.b64encode(PICTURE).decode()


def sent(content: bytes = PICTURE, name: str = "chart.png") -> dict[str, Any]:
    return {"filename": name, "data": base64.b64encode(content).decode()}


def read(name: str = "chart.png", **more: Any) -> Step:
    return Step(tool_calls=[ToolCall("read_file", {"path": f"inbox/{name}", **more})])


def images_in(request: Any) -> list[str]:
    """The pictures of one request to the model."""
    return [
        item["image_url"]["url"]
        for message in request.body["messages"]
        if isinstance(message["content"], list)
        for item in message["content"]
        if item["type"] == "image_url"
    ]


def test_the_model_is_shown_a_picture(api: Api, scripts: Scripts, database: psycopg.Connection):
    scripted = scripts(read(), read("pretends.csv"), Step(text="a chart"))
    worker = worker_in(api.create(scripted, files=[sent(), sent(name="pretends.csv")]))
    assert [images_in(request) for request in scripted.requests] == [
        [],
        [IN_REQUEST],
        [IN_REQUEST, IN_REQUEST],
    ]
    told = [part for part in worker["messages"][1]["parts"] if part["type"] == "tool-read_file"]
    assert told[0]["output"] == (
        f"inbox/chart.png is a picture (image/png, {len(PICTURE)} bytes); it is shown with this "
        "result."
    )
    stored = database.execute(
        "SELECT string_agg(payload::text, '') FROM messages WHERE worker_id = %s", [worker["id"]]
    ).fetchone()
    assert stored is not None
    assert base64.b64encode(PICTURE).decode()[:40] not in stored[0]
    again = scripts(Step(text="still a chart"))
    worker_in(api.go_on(worker["id"], again))
    assert images_in(again.requests[0]) == []


def test_a_store_that_fails_fails_no_call(
    api: Api, scripts: Scripts, server: HandingerServer, database: psycopg.Connection
):
    """Nothing was sent, so nothing may be booked as if it were; and the next call has it again."""
    scripted, look = scripts.new(), [ToolCall("list_files", {})]
    content = png(padding=len(scripted.name))
    steps = [
        read(),
        *(Step(tool_calls=look, gate=scripted.gate(number)) for number in range(2)),
        Step(text="a chart"),
    ]
    scripted.model.script(scripted.name, steps)
    answering = api.beside(api.create, scripted, files=[sent(content)])
    scripted.wait_for(2)
    sha256 = hashlib.sha256(content).hexdigest()
    (blob,) = (server.data_dir / "blobs").glob(f"*/{sha256[:2]}/{sha256}")
    away = blob.with_name("away")
    blob.rename(away)
    blob.symlink_to(blob.name)  # leads nowhere but to itself
    scripted.open(0)
    scripted.wait_for(3)
    away.replace(blob)
    scripted.open(1)
    worker = worker_in(answering.result())
    assert (worker["status"], worker["output_text"]) == ("completed", "a chart")
    assert [len(images_in(request)) for request in scripted.requests] == [0, 1, 0, 1]
    assert "cannot be loaded at this moment" in str(scripted.requests[2].body)
    booked = database.execute(
        "SELECT count(*), bool_and(settled) FROM ledger l JOIN turns t ON t.id = l.turn_id"
        " WHERE t.worker_id = %s AND l.kind = 'model'",
        [worker["id"]],
    ).fetchone()
    assert booked == (4, True)


def test_what_is_not_shown_is_told(api: Api, scripts: Scripts):
    large = png(padding=pictures.MAX_BYTES)
    scripted = scripts(read("large.png"), read("large.png", limit=4), Step(text="x"))
    worker = worker_in(api.create(scripted, files=[sent(large, "large.png")]))
    assert not any(images_in(request) for request in scripted.requests)
    told = [part for part in worker["messages"][1]["parts"] if part["type"] == "tool-read_file"]
    assert "too large to be shown" in told[0]["output"]
    assert "89 50 4e 47" in told[1]["output"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"<svg/>", None),
        (b"", None),
    ],
)
def test_a_picture_is_known_by_its_content(content: bytes, kind: str | None):
    assert pictures.media_type(content) == kind


def test_a_model_that_cannot_see_is_told(narrow_api: Api, scripts: Scripts):
    scripted = scripts(read(), Step(text="x"))
    worker = worker_in(narrow_api.create(scripted, files=[sent()]))
    assert not any(images_in(request) for request in scripted.requests)
    (told,) = (part for part in worker["messages"][1]["parts"] if part["type"] == "tool-read_file")
    assert "You cannot see pictures" in told["output"]


NO_PICTURE: Any = {
    "error": {"message": "The image data is not valid.", "type": "invalid_request_error"}
}


@pytest.mark.parametrize("status", [400, 404, 415])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_picture_that_the_provider_refuses_is_not_shown_again(
    api: Api, scripts: Scripts, status: int, streamed: bool
):
    """A picture that it took before still is, and the next one is tried."""
    broken, other = b"\x89PNG\r\n\x1a\n and nothing", png(3, 3)
    scripted = scripts(
        read("chart.png"),
        read("broken.png"),
        Step(
            tool_calls=[ToolCall("read_file", {"path": "inbox/other.png"})],
            attempts=[HttpError(status, body=NO_PICTURE)],
        ),
        Step(text="two charts"),
    )
    files = [sent(), sent(broken, "broken.png"), sent(other, "other.png")]
    answer = api.create(scripted, files=files, stream=streamed)
    worker = api.worker(answer.headers["x-handinger-worker-id"])
    assert worker["error"] is None
    assert worker["output_text"] == "two charts"
    images = [len(images_in(request)) for request in scripted.requests]
    assert images == [0, 1, 2, 1, 2]
    refused = scripted.requests[3].messages[-1]["content"]
    assert "The model's provider refused it, so you cannot see it." in str(refused)


def test_a_provider_that_fails_for_another_reason_is_an_error_all_the_same(
    api: Api, scripts: Scripts
):
    refusal = HttpError(400, body=NO_PICTURE)
    scripted = scripts(read(), Step(text="x", fail_always=refusal))
    worker = worker_in(api.create(scripted, files=[sent()]))
    assert worker["error"]["code"] == "model_error"
    assert [len(images_in(request)) for request in scripted.requests] == [0, 1, 0]


def test_a_picture_counts_in_what_is_reserved_and_goes_first_when_money_is_short():
    named = {"picture": {"sha256": "0" * 64, "mediaType": "image/png", "turn": "trn_1"}}
    part = ToolReturnPart("read_file", "A picture.", tool_call_id="a", metadata=named)
    request = ModelRequest(parts=[part])
    assert sizes.content_bytes(request) > 50_000
    (cut,) = sizes.shortened([request], 1_000)
    (left,) = cut.parts
    assert isinstance(left, ToolReturnPart)
    assert not pictures.shows(left)
    assert "cut off here" in str(left.content)
