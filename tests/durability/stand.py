"""A server to be killed, with its scripted model and an eye on its database that outlives it."""

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx2

from tests.durability.holding import Write, held
from tests.durability.observing import Observer, wait_for
from tests.durability.reading import Reader
from tests.support import preloaded
from tests.support.model_server import ModelServer
from tests.support.postgres import joined
from tests.support.server import START_TIMEOUT_S, HandingerServer

ANSWER_TIMEOUT_S = 60


class Stand:
    """One server on an embedded PostgreSQL, which goes on while the server is dead."""

    def __init__(
        self,
        folder: Path,
        model: ModelServer,
        *,
        prepare: Callable[[], None] = preloaded.nothing,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.data_dir = folder / "data"
        self._postgres = joined(self.data_dir)
        self.server = HandingerServer(
            self.data_dir, model_url=model.base_url, prepare=prepare, environment=environment
        )
        self.start()
        self.observer = Observer(self._postgres.url, self.data_dir / "blobs")

    def kill(self) -> None:
        """kill -9."""
        self.server.kill()
        self.is_up = False

    def terminate(self) -> int:
        """SIGTERM, and wait for the exit; its status."""
        status = self.server.terminate()
        self.is_up = False
        return status

    def restart(self) -> None:
        """Kill it if it is up, and start it again; for an environment that was changed."""
        self.server.kill()
        self.start()

    def start(self) -> None:
        """Start it again where it was."""
        start(self.server)
        self.is_up = True

    def close(self) -> None:
        """Stop everything."""
        self.observer.close()
        self.server.close()
        self._postgres.leave()

    def reader(self, worker_id: str, *, instruction: str | None = None) -> Reader:
        """Follows a worker from now on, or from the answer to an instruction on."""
        return Reader(
            lambda: client(self.server), f"/api/workers/{worker_id}", instruction=instruction
        )

    def new_worker(self) -> str:
        """A worker with one ended turn, in which the model says that it is ready."""
        return post(self.server, "", "[[script:ok]] Be ready.").json()["id"]

    def get(self, path: str) -> httpx2.Response:
        """Read something of this server."""
        return get(self.server, path)


@contextlib.contextmanager
def killed_in(stand: Stand, write: Write) -> Generator[None]:
    """The server is killed in this write, to which comes what is asked for within the block."""
    with held(stand.observer.url, write) as hold:
        yield
        backend = hold.wait()
        stand.kill()
        hold.release_of_dead(backend)


def start(server: HandingerServer) -> None:
    """Start a server, and wait until it is healthy.

    Asking a port that nobody listens on costs nothing, while each client of HTTP takes its time.
    """
    server.start(wait=False)
    wait_for(lambda: _listens(server.port), "the server to listen", timeout_s=START_TIMEOUT_S)
    server.wait_until_healthy()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def client(server: HandingerServer) -> httpx2.Client:
    """A client of this server; nothing here speaks TLS, so it reads no certificates."""
    return httpx2.Client(
        base_url=server.base_url, headers=server.headers, timeout=ANSWER_TIMEOUT_S, verify=False
    )


def post(
    server: HandingerServer,
    path: str,
    input: str,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    **body: object,
) -> httpx2.Response:
    """Send an instruction and wait for the answer; `key` is its Idempotency-Key."""
    more = dict(headers or {})
    if key is not None:
        more["Idempotency-Key"] = key
    with client(server) as http:
        return http.post(f"/api/workers{path}", headers=more, json={"input": input, **body})


def get(server: HandingerServer, path: str) -> httpx2.Response:
    """Read something of a worker."""
    with client(server) as http:
        return http.get(f"/api/workers/{path}")


def accept(server: HandingerServer, path: str, input: str, **body: object) -> httpx2.Response:
    """Send an instruction, and be answered as soon as it is accepted."""
    return post(server, path, input, key=None, headers={"Prefer": "respond-async"}, **body)


def in_background(
    server: HandingerServer, path: str, input: str, **options: Any
) -> Future[httpx2.Response]:
    """`post` in a thread of its own."""
    future: Future[httpx2.Response] = Future()

    def run() -> None:
        try:
            future.set_result(post(server, path, input, **options))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def fresh_key() -> str:
    """An Idempotency-Key that was never used."""
    return secrets.token_hex(12)


def require_whole_conversation(messages: list[dict[str, Any]]) -> None:
    """Each tool call of a conversation, as a model gets it, has exactly one result, in place."""
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in open_calls, f"a result without a call: {message}"
            open_calls.remove(message["tool_call_id"])
            continue
        assert not open_calls, f"calls without results before {message}: {open_calls}"
        open_calls = [call["id"] for call in message.get("tool_calls") or ()]
    assert not open_calls, f"calls without results at the end: {open_calls}"


def outline(messages: list[dict[str, Any]]) -> list[str]:
    """Who says what in a conversation, in short."""
    return [
        message["role"] + "".join(f" {c['function']['name']}" for c in message["tool_calls"])
        if message.get("tool_calls")
        else message["role"]
        for message in messages
    ]


def sent_messages(requests: list[Any]) -> list[dict[str, Any]]:
    """The conversation that the model was sent last."""
    return json.loads(json.dumps(requests[-1].messages))
