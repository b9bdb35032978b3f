"""A scripted, OpenAI-compatible model server: the process, and the class by which a test holds it.

`python -m tests.support.model_server --port 0` prints one line, `READY <port>`, once it listens.
"""

import argparse
import asyncio
import http.client
import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self
from urllib.parse import quote, urlencode

import uvloop
from pydantic import TypeAdapter

from tests.support.model_http import ModelConnection
from tests.support.model_scripts import (
    Failure,
    HangUp,
    HangUpAfterChunks,
    HttpError,
    Malformed,
    RecordedRequest,
    Script,
    Stall,
    Step,
    ToolCall,
    Usage,
)
from tests.support.model_state import RequestLog, ScriptedModel

__all__ = [
    "Failure",
    "HangUp",
    "HangUpAfterChunks",
    "HttpError",
    "Malformed",
    "ModelServer",
    "RecordedRequest",
    "Script",
    "Stall",
    "Step",
    "ToolCall",
    "Usage",
]

# What `--no-log-bodies` still keeps: enough to see a short prompt, too little to fill the memory.
SMALL_BODY_BYTES = 2048
LOG_BODY_BYTES = 64 * 1024 * 1024

_HOST = "127.0.0.1"
_SCRIPT = TypeAdapter(Script)
_RECORDS = TypeAdapter(list[RecordedRequest])


class _ParentWatch(asyncio.Protocol):
    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop.set()


async def _serve(port: int, log: RequestLog, *, until_stdin_closes: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        await loop.connect_read_pipe(partial(_ParentWatch, stop), sys.stdin)
    model = ScriptedModel(log)
    server = await loop.create_server(partial(ModelConnection, model), _HOST, port, backlog=1024)
    sys.stdout.write(f"READY {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await stop.wait()
    server.close()
    model.reset()


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted, OpenAI-compatible model server.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port; READY tells which")
    parser.add_argument("--log-requests", type=int, default=10_000, help="how many to remember")
    parser.add_argument(
        "--no-log-bodies",
        action="store_true",
        help=f"remember no request body above {SMALL_BODY_BYTES} bytes",
    )
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end with the process that started this"
    )
    options = parser.parse_args()
    log = RequestLog(
        max_requests=options.log_requests,
        max_body_bytes=LOG_BODY_BYTES,
        biggest_body_bytes=SMALL_BODY_BYTES if options.no_log_bodies else LOG_BODY_BYTES,
    )
    uvloop.run(_serve(options.port, log, until_stdin_closes=options.until_stdin_closes))


class ModelServer:
    """The server as a test sees it; the process lives as long as the `with` block.

    A request names its script by a marker, `[[script:NAME]]`, in a user message, the last one that
    has any; the number of assistant messages after that one is the step. So a repeated request gets
    the same step, and notes that follow the marked message change nothing. Without any marker the
    script `ok` answers, which can be replaced like any other.

    All methods block; in a coroutine whose own loop must go on meanwhile, use `asyncio.to_thread`.
    """

    base_url: str
    port: int

    def __init__(
        self, *, port: int = 0, log_requests: int = 10_000, log_bodies: bool = True
    ) -> None:
        self._options = [f"--port={port}", f"--log-requests={log_requests}", "--until-stdin-closes"]
        if not log_bodies:
            self._options.append("--no-log-bodies")

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.model_server", *self._options],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self.port = self._read_port()
        except BaseException:
            self._stop()
            raise
        self.base_url = f"http://{_HOST}:{self.port}/v1"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def script(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        after_last: Literal["done", "repeat"] = "done",
        when_tool_choice_none: Step | None = None,
    ) -> None:
        """Set or replace a script; its steps count their attempts from one again."""
        script = Script(
            steps=steps, after_last=after_last, when_tool_choice_none=when_tool_choice_none
        )
        self._call("PUT", f"scripts/{quote(name, safe='')}", body=_SCRIPT.dump_json(script))

    def open_gate(self, gate: str) -> None:
        """Let through what waits at the gate, and whatever comes to it until the next reset."""
        self._call("POST", f"gates/{quote(gate, safe='')}")

    def requests(self, name: str | None = None, *, bodies: bool = True) -> list[RecordedRequest]:
        """What was asked, oldest first: of one script, or of all."""
        query = _query(name) + ("" if bodies else "&no_bodies=1")
        return _RECORDS.validate_json(self._call("GET", f"requests?{query}"))

    def reset(self) -> None:
        """Forget scripts, gates, attempts and the log; cut off answers that are under way."""
        self._call("POST", "reset")

    def wait_for_requests(
        self, name: str | None, count: int, *, timeout_s: float = 10, ended: bool = False
    ) -> list[RecordedRequest]:
        """Wait until so many requests have arrived, or with `ended` are answered or given up."""
        deadline = time.monotonic() + timeout_s
        key = "ended" if ended else "arrived"
        while (seen := json.loads(self._call("GET", f"counts?{_query(name)}"))[key]) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{seen} of {count} requests {key} for {name!r} in {timeout_s} s"
                )
            time.sleep(0.005)
        return self.requests(name)

    def _call(self, method: str, path: str, *, body: bytes | None = None) -> bytes:
        with closing(http.client.HTTPConnection(_HOST, self.port, timeout=30)) as connection:
            connection.request(method, f"/control/{path}", body, {"connection": "close"})
            response = connection.getresponse()
            answer = response.read()
        if response.status != 200:
            raise ValueError(f"{method} {path}: {response.status} {answer.decode()}")
        return answer

    def _read_port(self) -> int:
        stdout = self._stdout
        readable, _, _ = select.select([stdout], [], [], 20)
        line = stdout.readline().decode() if readable else ""
        if not line.startswith("READY "):
            raise RuntimeError(f"the model server did not start, it said {line!r}")
        return int(line.split()[1])

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._stdout.close()


def _query(script: str | None) -> str:
    return "" if script is None else urlencode({"script": script})


if __name__ == "__main__":
    main()
