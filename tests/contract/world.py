"""What the tests here do all the time: script a model, hold it at a gate, wait, speak raw HTTP."""

import http.client
import itertools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import httpx2

from tests.support.model_server import ModelServer, RecordedRequest, Step
from tests.support.server import HandingerServer

T = TypeVar("T")

PATIENCE_S = 15.0


def wait_until(
    look: Callable[[], T | Literal[False] | None], *, timeout_s: float = PATIENCE_S
) -> T:
    """Look again until something is there; it is returned."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)
    return found


@dataclass(frozen=True)
class Scripted:
    """An instruction whose model answers are known."""

    model: ModelServer
    name: str

    @property
    def input(self) -> str:
        """The instruction."""
        return f"[[script:{self.name}]] Please."

    @property
    def requests(self) -> list[RecordedRequest]:
        """What the model was asked for it."""
        return self.model.requests(self.name)

    def wait_for(self, count: int) -> list[RecordedRequest]:
        """Wait until the model was asked so often."""
        return self.model.wait_for_requests(self.name, count, timeout_s=PATIENCE_S)

    def gate(self, name: object = "") -> str:
        """A gate of this script's own."""
        return f"{self.name}.{name}"

    def open(self, name: object = "") -> None:
        """Let through what waits there."""
        self.model.open_gate(self.gate(name))


@dataclass
class Scripts:
    """Makes scripts that no other test can have used."""

    model: ModelServer
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def new(self) -> Scripted:
        """A name; its steps, which may name its gates, are `told` later."""
        return Scripted(self.model, f"s{next(self._numbers)}")

    def __call__(self, *steps: Step, **options: Any) -> Scripted:
        """An instruction that the model answers with these steps."""
        scripted = self.new()
        self.model.script(scripted.name, steps, **options)
        return scripted

    def held(self, text: str = "done") -> Scripted:
        """An instruction whose only model call waits at the gate."""
        scripted = self.new()
        self.model.script(scripted.name, [Step(text=text, gate=scripted.gate())])
        return scripted


@dataclass(frozen=True)
class Api:
    """One organization's view of a server."""

    server: HandingerServer
    client: httpx2.Client
    key: str
    threads: ThreadPoolExecutor

    def create(self, input: str | Scripted, **fields: Any) -> httpx2.Response:
        """`POST /api/workers`, which answers when the turn has ended."""
        return self.client.post("/api/workers", json={"input": _text(input), **fields})

    def start(self, input: str | Scripted, **fields: Any) -> dict[str, Any]:
        """A new worker at once; its first turn runs or waits."""
        return self._at_once("/api/workers", input, fields)

    def go_on(self, worker_id: str, input: str | Scripted, **fields: Any) -> httpx2.Response:
        """`POST /api/workers/{workerId}`, which answers when the turn has ended."""
        body = {"input": _text(input), **fields}
        return self.client.post(f"/api/workers/{worker_id}", json=body)

    def queue(self, worker_id: str, input: str | Scripted, **fields: Any) -> str:
        """The id of a turn that was accepted and may wait."""
        body = {"input": _text(input), **fields}
        response = self.client.post(
            f"/api/workers/{worker_id}", json=body, headers={"Prefer": "respond-async"}
        )
        assert response.status_code == 202, response.text
        return response.headers["x-handinger-turn-id"]

    def worker(self, worker_id: str) -> dict[str, Any]:
        """The worker as of now."""
        return self.client.get(f"/api/workers/{worker_id}").json()

    def turn(self, worker_id: str, turn_id: str) -> dict[str, Any]:
        """One turn as of now."""
        return self.client.get(f"/api/workers/{worker_id}/turns/{turn_id}").json()

    def turns(self, worker_id: str) -> list[dict[str, Any]]:
        """Its turns, oldest first."""
        page = self.client.get(f"/api/workers/{worker_id}/turns", params={"limit": 100}).json()
        return page["turns"][::-1]

    def wait_until_idle(self, worker_id: str) -> dict[str, Any]:
        """The worker once nothing of it runs or waits."""

        def idle() -> dict[str, Any] | None:
            worker = self.worker(worker_id)
            return None if worker["running"] else worker

        return wait_until(idle)

    def beside(self, call: Callable[..., T], *arguments: Any, **named: Any) -> "Future[T]":
        """Call in another thread, as what blocks must be."""
        return self.threads.submit(call, *arguments, **named)

    def raw(
        self, method: str, target: str, *, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> httpx2.Response:
        """A request whose target goes out as it stands, which a client library would tidy up."""
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
        ) as connection:
            connection.request(method, target, body or None, sent)
            answer = connection.getresponse()
            content = answer.read()
        return httpx2.Response(answer.status, headers=answer.getheaders(), content=content)

    def _at_once(self, path: str, input: str | Scripted, fields: dict[str, Any]) -> dict[str, Any]:
        body = {"input": _text(input), **fields}
        response = self.client.post(path, json=body, headers={"Prefer": "respond-async"})
        assert response.status_code == 202, response.text
        return response.json()


def _text(input: str | Scripted) -> str:
    return input if isinstance(input, str) else input.input


def header(name: str, value: str) -> dict[bytes, bytes]:
    """A header whose value may be any that HTTP can carry."""
    return {name.encode(): value.encode("latin-1")}


def chunks_of(response: httpx2.Response) -> list[str]:
    """The events of a stream that was read to its end, as their JSON texts."""
    return [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
