"""A real HTTP server on loopback that answers as a test scripted it, byte for byte."""

from __future__ import annotations

import json
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORKER_ID = "wrk_0190"
TURN_ID = "trn_0190"
IDS = {"X-Handinger-Worker-Id": WORKER_ID, "X-Handinger-Turn-Id": TURN_ID}


@dataclass(frozen=True)
class Recorded:
    """A request as it came in."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Recorded(self.command, self.path, headers, self.rfile.read(length))
        assert isinstance(self.server, _Server)
        self.server.stub.next_answer(request)(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-Request-Id": "req_1", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_chunk(self, chunk: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.flush()

    def cut(self) -> None:
        """Drop the connection as a process that dies does."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


Answer = Callable[[_Handler], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    stub: Stub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


class Stub:
    """Answers each path with what was scripted for it, in order, and records what was asked."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self._answers: dict[str, deque[Answer]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def on(self, route: str, *answers: Answer) -> None:
        """Script `METHOD /path` (without its query)."""
        self._answers[route].extend(answers)

    def next_answer(self, request: Recorded) -> Answer:
        route = f"{request.method} {request.target.partition('?')[0]}"
        with self._lock:
            self.requests.append(request)
            queue = self._answers[route]
            return queue.popleft() if queue else unscripted(route)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def unscripted(route: str) -> Answer:
    return reply({"error": f"The test scripted no answer to {route}.", "code": "teapot"}, 418)


def reply(body: object, status: int = 200, **headers: str) -> Answer:
    """A JSON answer; header names are given with `_` for `-`."""

    def answer(handler: _Handler) -> None:
        content = json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        fixed = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        handler.send_head(status, {**IDS, **fixed, **named})
        handler.wfile.write(content)

    return answer


def raw(content: bytes, status: int = 200, **headers: str) -> Answer:
    """Bytes as they are."""

    def answer(handler: _Handler) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.send_head(status, {"Content-Length": str(len(content)), **named})
        handler.wfile.write(content)

    return answer


def hang_up() -> Answer:
    """No answer at all."""
    return _Handler.cut


def wait_then(answer: Answer, until: threading.Event) -> Answer:
    """The same answer, not before the event is set (40 s at most)."""

    def later(handler: _Handler) -> None:
        until.wait(40)
        answer(handler)

    return later


def padded(body: object, *, cut: bool = False) -> Answer:
    """A blocking answer that sends white space first, and may die before its body."""

    def answer(handler: _Handler) -> None:
        handler.send_head(
            200, {**IDS, "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        )
        handler.send_chunk(b" \n")
        if cut:
            return handler.cut()
        handler.send_chunk(json.dumps(body).encode())
        handler.send_chunk(b"")
        return None

    return answer


def events(
    *frames: bytes, cut: bool = False, hold: threading.Event | None = None, **headers: str
) -> Answer:
    """A stream of these bytes, each frame a chunk; ended properly or cut, perhaps after a while."""

    def answer(handler: _Handler) -> None:
        fixed = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.send_head(200, {**IDS, **fixed, **named})
        for frame in frames:
            handler.send_chunk(frame)
        if hold is not None:
            hold.wait(40)
        if cut:
            return handler.cut()
        handler.send_chunk(b"")
        return None

    return answer


def frame(kind: str, place: str | None = None, *, turn: str = TURN_ID, **fields: object) -> bytes:
    """One event with its id, such as `trn_0190-1.0.2.5`."""
    head = f"id: {turn}-{place}\n" if place else ""
    return f"{head}data: {json.dumps({'type': kind, **fields})}\n\n".encode()


def worker(**fields: object) -> dict[str, object]:
    """A worker as it stands in JSON."""
    return {
        "id": WORKER_ID,
        "object": "worker",
        "created_at": 1_750_000_000,
        "status": "completed",
        "running": False,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "output_text": "Forty-two.",
        "messages": [],
        "files": [],
        "sources": [],
        "metadata": {"model": "demo"},
        "url": f"http://127.0.0.1/workers/{WORKER_ID}",
        **fields,
    }


def turn_frames(text: str = "Forty-two.", **of_worker: object) -> list[bytes]:
    """The whole stream of a turn that answers with a text."""
    half = len(text) // 2
    return [
        frame(
            "start",
            "0.0.1.1",
            messageId="msg_1",
            messageMetadata={"workerId": WORKER_ID, "turnId": TURN_ID},
        ),
        frame("start-step", "1.0.2.1"),
        frame("text-start", "1.0.3.0", id="3"),
        frame("text-delta", f"1.0.3.{half}", id="3", delta=text[:half]),
        frame("text-delta", f"1.0.3.{len(text)}", id="3", delta=text[half:]),
        frame("text-end", f"1.0.3.{len(text) + 1}", id="3"),
        frame("finish-step", "1.0.4.1"),
        frame("data-worker", "1.0.5.1", data=worker(output_text=text, **of_worker), transient=True),
        frame("finish", "1.0.6.1"),
    ]
