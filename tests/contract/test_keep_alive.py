"""A call that waits long is kept alive by white space ahead of its body (1.2)."""

import json
import socket
import time
from typing import Any

import httpx2
import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.wire import check_error, check_worker, worker_in
from tests.contract.world import Api, Scripted, Scripts

pytestmark = pytest.mark.slow

FROM_S = 20.0


def _send(api: Api, instruction: Scripted) -> socket.socket:
    """A blocking call, as bytes, so that each one that comes back can be timed."""
    body = json.dumps({"input": instruction.input}, separators=(",", ":")).encode()
    head = (
        f"POST /api/workers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", api.server.port), timeout=40)
    connection.sendall(head.encode() + body)
    return connection


def _read_all(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        chunk = connection.recv(65536)
        if not chunk:
            break
        answer += chunk
    return answer


def _chunks(answer: bytes) -> tuple[bytes, list[bytes]]:
    """Head and chunks of an answer in chunked coding."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    chunks: list[bytes] = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        chunks.append(rest[:length])
        rest = rest[length + 2 :]
    return head, chunks


def _running(api: Api) -> list[dict[str, Any]]:
    return api.client.get("/api/workers?status=running").json()["workers"]


def _worker_of(api: Api, instruction: Scripted) -> str:
    (found,) = [
        worker["id"]
        for worker in _running(api)
        if api.turns(worker["id"])[0]["input"] == instruction.input
    ]
    return found


def test_white_space_comes_from_20_s_on_and_a_shutdown_cuts_it_so_that_a_retry_joins(
    new_server: StartServer, connect: Connect, scripts: Scripts
):
    """One test for all of it, as each takes these 20 seconds."""
    server = new_server("patient", {})
    api = connect(server, server.key)
    answered, cut_off = scripts.held("at last"), scripts.held("after all")
    deleted = scripts.held("never")
    began = time.monotonic()
    with (
        _send(api, answered) as first,
        _send(api, cut_off) as second,
        _send(api, deleted) as third,
    ):
        for instruction in (answered, cut_off, deleted):
            instruction.wait_for(1)
        # Nothing comes until then, not even the status; then it does.
        start = first.recv(1, socket.MSG_PEEK)
        assert start == b"H"
        assert FROM_S <= time.monotonic() - began < FROM_S + 4
        assert second.recv(1, socket.MSG_PEEK) == b"H"

        answered.open()
        head, chunks = _chunks(_read_all(first))
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"http/1.1 200 ok"
        assert b"content-type: application/json" in lines
        assert any(line.startswith(b"x-handinger-worker-id: wrk_") for line in lines)
        assert any(line.startswith(b"x-handinger-turn-id: trn_") for line in lines)
        assert any(line.startswith(b"x-request-id: ") for line in lines)
        assert set(chunks[0]) <= set(b" \t\r\n")
        worker = json.loads(b"".join(chunks))
        check_worker(worker)
        assert worker["output_text"] == "at last"

        # A worker that is deleted meanwhile was cancelled first; or it is gone already.
        assert third.recv(1, socket.MSG_PEEK) == b"H"
        (worker_id,) = {found["id"] for found in _running(api)} - {_worker_of(api, cut_off)}
        assert api.client.delete(f"/api/workers/{worker_id}").status_code == 200
        head, chunks = _chunks(_read_all(third))
        assert f"x-handinger-worker-id: {worker_id}".encode() in head.lower()
        told = json.loads(b"".join(chunks))
        if "code" in told:
            assert worker_id in check_error(told, 200, "not_found")["error"]
        else:
            check_worker(told)
            assert told["incomplete_details"] == {"reason": "cancelled"}

        assert server.terminate() == 0
        # Cut in the middle: no client takes it for an answer.
        answer = _read_all(second)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not answer.endswith(b"0\r\n\r\n")
        assert b'"id"' not in answer

    server.start()
    cut_off.open()
    retried = httpx2.post(
        f"{server.base_url}/api/workers",
        json={"input": cut_off.input},
        headers={**server.headers, "X-Stainless-Retry-Count": "1"},
        timeout=30,
    )
    assert worker_in(retried)["output_text"] == "after all"
    assert len(api.client.get("/api/workers").json()["workers"]) == 2
