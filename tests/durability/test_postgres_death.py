"""PostgreSQL dies or restarts under a server: turns go on, and the API answers again."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import psutil
import psycopg
import pytest

from handinger.storage.embedded import EmbeddedPostgres
from tests.durability.observing import Observer, wait_for
from tests.durability.reading import told
from tests.durability.stand import Stand, fresh_key, get, in_background, post, start
from tests.support.model_server import ModelServer, Step, ToolCall, Usage
from tests.support.postgres import joined
from tests.support.server import HandingerServer

RECOVERED_WITHIN_S = 20.0
_USAGE = Usage(prompt_tokens=100, completion_tokens=10)
_CALL = ToolCall("write_file", {"path": "note.txt", "content": "Once."})


def postmaster_of(observer: Observer) -> int:
    """The main process of the observed PostgreSQL."""
    backend = observer.value("SELECT pg_backend_pid()")
    assert isinstance(backend, int)
    return psutil.Process(backend).ppid()


def wait_until_gone(pid: int) -> None:
    wait_for(lambda: not psutil.pid_exists(pid), "PostgreSQL to end")


def test_a_turn_survives_the_death_of_the_embedded_postgresql(
    stand: Stand, record_property
) -> None:
    """The supervisor starts it again, while the server and the turn go on."""
    stand.model.script(
        "two",
        [
            Step(text="I write.", tool_calls=[_CALL], usage=_USAGE),
            Step(text="It is written down.", usage=_USAGE, gate="held"),
        ],
    )
    worker_id, key = stand.new_worker(), fresh_key()
    blocking = in_background(stand.server, f"/{worker_id}", "[[script:two]] Go.", key=key)
    stand.model.wait_for_requests("two", 2)
    (turn_id,) = stand.observer.turns(worker_id)[1:]
    reader = stand.reader(worker_id)
    try:
        reader.wait_for_event("tool-output-available")
        pid, server = postmaster_of(stand.observer), stand.server.pid
        os.kill(pid, signal.SIGKILL)
        began_at = time.monotonic()
        wait_until_gone(pid)
        stand.model.open_gate("held")
        heard = reader.wait_for_end_of(turn_id)
    finally:
        reader.stop()
    took_s = time.monotonic() - began_at
    answer = blocking.result(timeout=5)
    if answer.status_code == 503:
        answer = post(stand.server, f"/{worker_id}", "[[script:two]] Go.", key=key)

    record_property("recovered_after_s", round(took_s, 1))
    assert took_s < RECOVERED_WITHIN_S
    assert stand.server.pid == server
    assert answer.status_code == 200
    assert answer.json()["output_text"] == "I write.\n\nIt is written down."
    assert told(heard).parts == answer.json()["messages"][-1]["parts"]
    stand.observer.reconnect()
    assert stand.observer.turns(worker_id)[1:] == [turn_id]
    assert stand.observer.rows(
        "SELECT steps, input_tokens, crashes FROM turns WHERE id = %s", turn_id
    ) == [(2, 200, 0)]
    made = Counter(request.step for request in stand.model.requests("two"))
    assert made[0] == 1
    ready = f"{stand.server.base_url}/readyz"
    wait_for(lambda: httpx2.get(ready).status_code == 200, "the server to be ready again")


@dataclass(frozen=True, slots=True)
class Given:
    """A server on a PostgreSQL that it did not start."""

    postgres: EmbeddedPostgres
    server: HandingerServer
    observer: Observer

    def restart(self) -> None:
        """As `pg_ctl restart -m fast` does it: SIGINT ends every session at once."""
        pid = postmaster_of(self.observer)
        os.kill(pid, signal.SIGINT)
        wait_until_gone(pid)
        assert self.postgres.ensure_running()
        self.observer.reconnect()


@pytest.fixture(scope="module")
def running_given(
    running_model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Given]:
    folder = tmp_path_factory.mktemp("given")
    postgres = joined(folder / "postgres")
    server = HandingerServer(
        folder / "data", model_url=running_model.base_url, database_url=postgres.url
    )
    try:
        start(server)
        observer = Observer(postgres.url, folder / "data" / "blobs")
        yield Given(postgres, server, observer)
        observer.close()
    finally:
        server.close()
        postgres.leave()


@pytest.fixture
def given(running_given: Given, model: ModelServer) -> Given:
    """Healthy and idle, with a model that knows nothing of earlier tests."""
    assert model.requests() == []
    running_given.observer.wait_until_idle()
    return running_given


TURNS = 10


def test_ten_running_turns_survive_a_restart_of_the_given_postgresql(
    given: Given, model: ModelServer, record_property
) -> None:
    """Each is somewhere else in its three steps when that happens."""
    for number in range(TURNS):
        pause_s = 0.15 + number * 0.05
        steps = [Step(tool_calls=[_CALL], usage=_USAGE, delay_s=pause_s)] * 2
        model.script(f"turn{number}", [*steps, Step(text=f"Turn {number}.", usage=_USAGE)])
    keys = [fresh_key() for _ in range(TURNS)]
    inputs = [f"[[script:turn{number}]] Go." for number in range(TURNS)]
    posts = [
        in_background(given.server, "", input, key=key)
        for input, key in zip(inputs, keys, strict=True)
    ]
    model.wait_for_requests(None, TURNS + 3)
    given.restart()
    began_at = time.monotonic()

    answers = [
        until_answered(given.server, future.result(timeout=60), input, key)
        for future, input, key in zip(posts, inputs, keys, strict=True)
    ]
    record_property("recovered_after_s", round(time.monotonic() - began_at, 1))
    assert time.monotonic() - began_at < RECOVERED_WITHIN_S
    for number, answer in enumerate(answers):
        worker = answer.json()
        assert worker["output_text"] == f"Turn {number}."
        assert [worker["usage"][name] for name in ("steps", "inputTokens")] == [3, 300]
        made = Counter(request.step for request in model.requests(f"turn{number}"))
        assert set(made) == {0, 1, 2}
        assert max(made.values()) <= 2
        assert get(given.server, f"{worker['id']}/files/note.txt").text == "Once."
    workers = [answer.json()["id"] for answer in answers]
    assert given.observer.rows(
        "SELECT sum(crashes), count(*) FROM turns WHERE worker_id = ANY(%s)", workers
    ) == [(0, TURNS)]


def until_answered(
    server: HandingerServer, answer: httpx2.Response, input: str, key: str
) -> httpx2.Response:
    """What a client gets that sends the request again after each 503, and only then."""
    deadline = time.monotonic() + RECOVERED_WITHIN_S
    while answer.status_code == 503 and time.monotonic() < deadline:
        answer = post(server, "", input, key=key)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.slow
def test_while_postgresql_is_away_calls_are_told_to_come_again(
    given: Given, model: ModelServer
) -> None:
    pid = postmaster_of(given.observer)
    os.kill(pid, signal.SIGINT)
    wait_until_gone(pid)
    try:
        refused = post(given.server, "", "[[script:ok]] Go.")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert httpx2.get(f"{given.server.base_url}/readyz", timeout=30).status_code == 503
        assert httpx2.get(f"{given.server.base_url}/healthz").status_code == 200
    finally:
        assert given.postgres.ensure_running()
    given.observer.reconnect()

    began_at = time.monotonic()
    input, key = "[[script:ok]] Go.", fresh_key()
    first = post(given.server, "", input, key=key)
    answer = until_answered(given.server, first, input, key)
    assert answer.json()["status"] == "completed"
    assert time.monotonic() - began_at < RECOVERED_WITHIN_S


def test_connections_that_somebody_ends_cost_at_most_another_try(given: Given) -> None:
    """As an operator or a proxy between does it, to all of them but their own."""
    for future in [in_background(given.server, "", "[[script:ok]] Go.") for _ in range(40)]:
        assert future.result(timeout=30).status_code == 200
    wait_for(
        lambda: given.observer.value(
            "SELECT count(*) >= 4 FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND state = 'idle'"
        ),
        "several idle connections",
    )
    with psycopg.connect(given.postgres.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    given.observer.reconnect()
    began_at = time.monotonic()
    input, key = "[[script:ok]] Go.", fresh_key()
    first = post(given.server, "", input, key=key)
    answer = until_answered(given.server, first, input, key)
    assert answer.json()["status"] == "completed"
    assert time.monotonic() - began_at < 4
