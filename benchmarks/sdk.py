"""What the SDK costs on top of its HTTP client, and the command line on top of the request.

A small server of its own answers from memory, so that nearly all the time is the client's.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Stage
from handinger import Handinger

EVENTS = 500
KEY = "hdg_live_" + "b" * 32
WORKER: dict[str, Any] = {
    "id": "wrk_1",
    "object": "worker",
    "created_at": 1_790_000_000,
    "status": "completed",
    "running": False,
    "error": None,
    "incomplete_details": None,
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "word " * 100}],
        }
    ],
    "output_text": "word " * 100,
    "messages": [
        {"id": "msg_0", "role": "user", "parts": [{"type": "text", "text": "Say a few words."}]},
        {"id": "msg_1", "role": "assistant", "parts": [{"type": "text", "text": "word " * 100}]},
    ],
    "files": [],
    "sources": [],
    "metadata": {"model": "demo"},
    "costs": {"modelCostUsd": 0.01, "toolCostUsd": 0, "sandboxCostUsd": 0, "internalCostUsd": 0},
    "usage": {"inputTokens": 10, "outputTokens": 100, "totalTokens": 110, "costUsd": 0.01},
    "url": "http://127.0.0.1/workers/wrk_1",
}
ANSWER = json.dumps(WORKER).encode()


def _event(number: int, **fields: object) -> bytes:
    return f"id: trn_1-1.0.{number}.1\ndata: {json.dumps(fields)}\n\n".encode()


STREAM = b"".join(
    [
        _event(0, type="start", messageId="msg_1"),
        *(_event(n, type="text-delta", id="7", delta="word ") for n in range(1, EVENTS - 2)),
        _event(EVENTS - 2, type="data-worker", data=WORKER, transient=True),
        _event(EVENTS - 1, type="finish"),
    ]
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        is_stream = self.path.endswith("/stream")
        body = STREAM if is_stream else ANSWER
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _answering() -> Generator[str]:
    """In a process of its own, so that it shares no interpreter with what is measured."""
    command = [sys.executable, "-m", "benchmarks.sdk"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run(stage: Stage) -> Part:
    """Each thing and its floor in turn. CPU of this process, which is the client."""
    part = Part("sdk", "the Python SDK and the command line, on an HTTP server that costs nothing")
    with (
        _answering() as url,
        httpx2.Client(verify=False) as bare,
        Handinger(api_key=KEY, base_url=url) as sdk,
    ):
        calls, floor = _interleaved(
            stage,
            lambda: _sdk_call(sdk),
            lambda: _bare_call(bare, url),
            times=stage.count(100, quick=30),
        )
        streams, stream_floor = _interleaved(
            stage,
            lambda: _sdk_stream(sdk),
            lambda: _bare_stream(bare, url),
            times=stage.count(6, quick=3),
        )
        part.rows = [
            _over("SDK call over bare HTTP client", calls, floor, Bound(at_most=1.5)),
            Row("SDK: retrieve a worker", "ms CPU", calls, floor),
            Row("floor: GET and json.loads", "ms CPU", floor),
            _over(
                f"SDK stream of {EVENTS} events over bare", streams, stream_floor, Bound(at_most=2)
            ),
            Row(f"SDK: a stream of {EVENTS} events", "ms CPU", streams, stream_floor),
            Row("floor: its lines, parsed as JSON", "ms CPU", stream_floor),
            _command_row(stage, "handinger --help", 0.3, "--help"),
            _command_row(
                stage, "handinger workers retrieve", 0.35, "workers", "retrieve", "wrk_1", url=url
            ),
        ]
    part.notes.append(
        "The command line's are user and system time of the whole process, its start included."
    )
    return part


def _sdk_call(client: Handinger) -> None:
    assert client.workers.retrieve("wrk_1").output_text == WORKER["output_text"]


def _bare_call(client: httpx2.Client, url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    response = client.get(f"{url}/api/workers/wrk_1", headers=headers)
    assert json.loads(response.content)["output_text"] == WORKER["output_text"]


def _sdk_stream(client: Handinger) -> None:
    with client.workers.stream_updates("wrk_1") as events:
        assert sum(1 for _ in events) == EVENTS


def _bare_stream(client: httpx2.Client, url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Accept": "text/event-stream"}
    with client.stream("GET", f"{url}/api/workers/wrk_1/stream", headers=headers) as response:
        lines = response.iter_lines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert len(events) == EVENTS


def _interleaved(
    stage: Stage, ours: Callable[[], None], floor: Callable[[], None], *, times: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of CPU, each sample the mean of so many in a row."""
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(stage.rounds + 1):
        for act, taken in zip((ours, floor), samples, strict=True):
            began = time.process_time()
            for _ in range(times):
                act()
            taken.append((time.process_time() - began) * 1000 / times)
    # The first round opens the connections and loads the models.
    return samples[0][1:], samples[1][1:]


def _over(label: str, ours: Sequence[float], floor: Sequence[float], bound: Bound) -> Row:
    ratios = [one / other for one, other in zip(ours, floor, strict=True)]
    return Row(label, "x", ratios, bound=bound)


def _command_row(stage: Stage, label: str, at_most_s: float, *arguments: str, url: str = "") -> Row:
    samples = [_command_s(arguments, url) for _ in range(stage.count(9, quick=5))]
    return Row(label, "s CPU", samples, bound=Bound(at_most=at_most_s))


def _command_s(arguments: Sequence[str], url: str) -> float:
    environment = {**os.environ, "HANDINGER_API_KEY": KEY, "HANDINGER_BASE_URL": url}
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "handinger", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = os.times()
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
