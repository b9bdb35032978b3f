"""Files that come with an instruction, and pictures, when the process dies."""

import base64
import struct
import zlib
from typing import Any

import pytest

from tests.durability.holding import Write
from tests.durability.stand import Stand, accept, killed_in
from tests.support.model_server import Step, ToolCall

READ = Step(tool_calls=[ToolCall("read_file", {"path": "inbox/a.txt"})])


@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
def test_a_kill_around_the_delivery_of_files_delivers_them_once(stand: Stand, committed: bool):
    """The claim of a turn and the delivery of its files are one transaction."""
    stand.model.script("files", [READ, Step(text="read")])
    files = [{"filename": "a.txt", "data": base64.b64encode(b"sent").decode()}]
    with killed_in(stand, Write("files", "INSERT", committed=committed)):
        worker_id = accept(stand.server, "", "[[script:files]] Read.", files=files).json()["id"]
    stand.start()
    stand.observer.wait_until_idle()
    worker = stand.get(worker_id).json()
    assert worker["output_text"] == "read"
    asked, answered = worker["messages"]
    assert asked["parts"][1]["url"].endswith("/inbox/a.txt")
    assert [p["output"] for p in answered["parts"] if p["type"] == "tool-read_file"] == ["sent"]
    rows = stand.observer.rows("SELECT path FROM files WHERE worker_id = %s", worker_id)
    assert rows == [("inbox/a.txt",)]


def test_a_turn_that_is_taken_over_shows_its_picture_again(stand: Stand):
    picture = base64.b64encode(_png()).decode()
    see = Step(tool_calls=[ToolCall("read_file", {"path": "inbox/a.txt"})])
    stand.model.script("sees", [see, Step(text="seen", gate="held")])
    files = [{"filename": "a.txt", "data": picture}]
    worker_id = accept(stand.server, "", "[[script:sees]] Look.", files=files).json()["id"]
    stand.model.wait_for_requests("sees", 2, timeout_s=30)
    stand.kill()
    stand.model.open_gate("held")
    stand.start()
    stand.observer.wait_until_idle()
    assert stand.get(worker_id).json()["output_text"] == "seen"
    first, second, again = stand.model.requests("sees")
    assert [_shows(request, picture) for request in (first, second, again)] == [False, True, True]


def _png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    )


def _shows(request: Any, picture: str) -> bool:
    return f"data:image/png;base64,{picture}" in str(request.body)
