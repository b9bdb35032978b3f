"""Two servers on one PostgreSQL: either does everything, and takes over from the other."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx2
import pytest

from handinger import keys, settings
from handinger.ids import OrganizationId
from handinger.storage.database import Database, open_database
from tests.durability.firing import ONCE, fired, schedule_on
from tests.durability.observing import Observer, wait_for
from tests.durability.reading import Reader, told
from tests.durability.stand import (
    accept,
    client,
    fresh_key,
    get,
    in_background,
    post,
    require_whole_conversation,
    sent_messages,
    start,
)
from tests.support.model_server import ModelServer, Step, ToolCall, Usage
from tests.support.postgres import joined
from tests.support.server import HandingerServer

# The promise of the project: a dead server's turns go on elsewhere within this time.
TAKEN_OVER_WITHIN_S = 15.0


class Pair:
    """Servers A and B. A runs one turn at a time, so that it can be kept busy."""

    def __init__(self, folder: Path, model: ModelServer) -> None:
        self.model = model
        self._postgres = joined(folder / "postgres")
        storage = folder / "blobs"
        storage.mkdir()
        environment = {"HANDINGER_STORAGE_URL": storage.as_uri()}
        self.a = self._server(
            folder / "a", None, {**environment, "HANDINGER_MAX_CONCURRENT_TURNS": "1"}
        )
        self.b = self._server(folder / "b", self.a.key, environment)
        self.observer = Observer(self._postgres.url, storage)
        self.a_is_up = False
        self.require_both()
        start(self.b)

    def _server(
        self, data_dir: Path, key: str | None, environment: dict[str, str]
    ) -> HandingerServer:
        return HandingerServer(
            data_dir,
            model_url=self.model.base_url,
            key=key,
            database_url=self._postgres.url,
            environment=environment,
        )

    @property
    def postgres_url(self) -> str:
        return self._postgres.url

    def require_both(self) -> None:
        if not self.a_is_up:
            start(self.a)
            self.a_is_up = True

    def kill_a(self) -> None:
        self.a.kill()
        self.a_is_up = False

    def close(self) -> None:
        self.observer.close()
        self.a.close()
        self.b.close()
        self._postgres.leave()


@pytest.fixture(scope="module")
def running_pair(
    running_model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"), running_model)
    try:
        yield pair
    finally:
        pair.close()


@pytest.fixture
def pair(running_pair: Pair, model: ModelServer) -> Pair:
    assert running_pair.model is model
    running_pair.require_both()
    running_pair.observer.wait_until_idle()
    return running_pair


@contextlib.contextmanager
def paused(server: HandingerServer) -> Generator[None]:
    """The server does nothing within this block, and does not know it."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def begin_on_a(pair: Pair, script: str, *, requests: int = 1) -> str:
    """A worker whose turn runs on A, in so many model calls; A takes no other meanwhile."""
    with paused(pair.b):
        worker_id = accept(pair.a, "", f"[[script:{script}]] Go.").json()["id"]
        pair.model.wait_for_requests(script, requests)
    return worker_id


def test_a_blocking_call_is_answered_by_the_server_that_does_not_execute_it(pair: Pair) -> None:
    pair.model.script("busy", [Step(text="Done at last.", gate="busy")])
    pair.model.script("quick", [Step(text="Here you are.")])
    busy = begin_on_a(pair, "busy")

    answer = post(pair.a, "", "[[script:quick]] Quick.")

    assert answer.status_code == 200
    assert answer.json()["output_text"] == "Here you are."
    assert get(pair.a, busy).json()["status"] == "running"
    pair.model.open_gate("busy")


def test_a_stream_is_told_live_by_the_server_that_does_not_execute_it(pair: Pair) -> None:
    words = ["One, ", "two, ", "three."]
    pair.model.script("busy", [Step(text="Done at last.", gate="busy")])
    pair.model.script("words", [Step(text=words, gate_after_chunks=(2, "words"))])
    worker_id = post(pair.a, "", "[[script:ok]] Be ready.").json()["id"]
    begin_on_a(pair, "busy")
    reader = Reader(
        lambda: client(pair.a), f"/api/workers/{worker_id}", instruction="[[script:words]] Count."
    )
    try:
        wait_for(
            lambda: told_text(reader) == "One, two, ", "the words that the model has said so far"
        )
        pair.model.open_gate("words")
        heard = reader.wait_for_end_of(pair.observer.turns(worker_id)[1])
    finally:
        reader.stop()
        pair.model.open_gate("busy")

    story = told(heard)
    assert story.parts == get(pair.b, worker_id).json()["messages"][-1]["parts"]
    assert story.retries == 0
    assert reader.connections == 1


def told_text(reader: Reader) -> str:
    return "".join(one.event.get("delta", "") for one in reader.heard)


def test_turns_of_one_worker_run_in_order_wherever_they_are_accepted(pair: Pair) -> None:
    names = [f"order{number}" for number in range(16)]
    for name in names:
        pair.model.script(name, [Step(text=f"This is {name}.", delay_s=0.005)])
    worker_id = post(pair.a, "", "[[script:ok]] Be ready.").json()["id"]
    for number, name in enumerate(names):
        server = (pair.a, pair.b)[number % 2]
        assert accept(server, f"/{worker_id}", f"[[script:{name}]] Go.").status_code == 202
    pair.observer.wait_until_idle()

    ran = pair.observer.rows(
        "SELECT input, output->0->'content'->0->>'text',"
        " started_at >= lag(ended_at) OVER (ORDER BY started_at) FROM turns"
        " WHERE worker_id = %s ORDER BY started_at OFFSET 1",
        worker_id,
    )
    assert ran == [(f"[[script:{name}]] Go.", f"This is {name}.", True) for name in names]
    asked = [request.script for request in pair.model.requests(bodies=False)]
    assert asked == ["ok", *names]


def test_files_written_on_one_server_are_served_by_the_other(pair: Pair) -> None:
    call = ToolCall("write_file", {"path": "a/note.txt", "content": "From A."})
    pair.model.script("file", [Step(tool_calls=[call]), Step(text="Written.", gate="written")])
    worker_id = begin_on_a(pair, "file", requests=2)

    assert get(pair.b, f"{worker_id}/files/a/note.txt").text == "From A."
    pair.model.open_gate("written")


def test_what_two_servers_could_fire_fires_once(pair: Pair) -> None:
    pair.model.script("tick", [Step(text="tock")], after_last="repeat")
    workers = [post(pair.a, "", "[[script:ok]] Be ready.").json()["id"] for _ in range(3)]
    made = [
        (worker_id, schedule_on(server, worker_id, ONCE))
        for worker_id in workers
        for server in (pair.a, pair.b)
    ]
    wait_for(
        lambda: all(fired(pair.observer, schedule["id"]) for _, schedule in made), "all firings"
    )
    pair.observer.wait_until_idle()
    for worker_id in workers:
        turns = [
            turn
            for owner, schedule in made
            if owner == worker_id
            for turn in fired(pair.observer, schedule["id"])
        ]
        assert sorted(turns) == sorted(pair.observer.turns(worker_id)[1:])
        assert len(turns) == 2


def test_a_cancel_on_one_server_stops_a_turn_on_the_other(pair: Pair) -> None:
    pair.model.script("slow", [Step(text="Never told.", gate="never")])
    worker_id = begin_on_a(pair, "slow")
    waiting = in_background(pair.a, f"/{worker_id}", "[[script:ok]] And then?")
    wait_for(lambda: len(pair.observer.turns(worker_id)) == 2, "the second turn")

    began_at = time.monotonic()
    with client(pair.b) as http:
        cancelled = http.post(f"/api/workers/{worker_id}/cancel")
    assert time.monotonic() - began_at < 2

    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "completed"
    assert waiting.result(timeout=5).json()["incomplete_details"] == {"reason": "cancelled"}
    (request,) = pair.model.wait_for_requests("slow", 1, ended=True)
    assert request.client_hung_up


def test_a_revoked_key_is_refused_by_both_at_once(pair: Pair) -> None:
    async def with_database(work):
        configured = settings.load(database_url=pair.postgres_url)
        async with open_database(configured) as database:
            return await work(database)

    async def make(database: Database) -> tuple[OrganizationId, keys.CreatedKey]:
        organization = await keys.first_organization(database)
        return organization.id, await keys.create_key(database, organization.id, name="short")

    organization_id, key = asyncio.run(with_database(make))
    assert statuses(pair, key.secret) == [200, 200]

    async def revoke(database: Database) -> None:
        await keys.revoke_key(database, organization_id, key.id)
        assert await asyncio.to_thread(statuses, pair, key.secret) == [401, 401]

    asyncio.run(with_database(revoke))


def statuses(pair: Pair, secret: str) -> list[int]:
    headers = {"Authorization": f"Bearer {secret}"}
    found: list[int] = []
    for server in (pair.a, pair.b):
        with client(server) as http:
            found.append(http.get("/api/workers", headers=headers).status_code)
    return found


def test_a_turn_of_a_killed_server_is_finished_by_the_other_in_time(
    pair: Pair, record_property
) -> None:
    call = ToolCall("write_file", {"path": "note.txt", "content": "Once."})
    usage = Usage(prompt_tokens=100, completion_tokens=10)
    pair.model.script(
        "taken",
        [Step(tool_calls=[call], usage=usage), Step(text="Finished.", usage=usage, gate="taken")],
    )
    pair.model.script("ready", [Step(text="Ready.")])
    key = fresh_key()
    with paused(pair.b):
        blocking = in_background(pair.a, "", "[[script:taken]] Go.", key=key)
        pair.model.wait_for_requests("taken", 2)
    began_at = time.monotonic()
    pair.kill_a()
    pair.model.open_gate("taken")
    with pytest.raises(httpx2.TransportError):
        blocking.result(timeout=5)
    answer = post(pair.b, "", "[[script:taken]] Go.", key=key).json()
    took_s = time.monotonic() - began_at

    record_property("taken_over_after_s", round(took_s, 1))
    assert took_s < TAKEN_OVER_WITHIN_S
    assert answer["output_text"] == "Finished."
    assert [answer["usage"][name] for name in ("steps", "inputTokens")] == [2, 200]
    made = Counter(request.step for request in pair.model.requests("taken"))
    assert made == {0: 1, 1: 2}
    assert pair.observer.rows(
        "SELECT attempt, crashes FROM turns WHERE worker_id = %s", answer["id"]
    ) == [(2, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("stored", [0, 1], ids=["its first response", "its second response"])
def test_a_server_that_was_taken_for_dead_writes_nothing_when_it_goes_on(
    pair: Pair, stored: int
) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=10)
    call = ToolCall("write_file", {"path": "note.txt", "content": "Once."})
    before = [Step(tool_calls=[call], usage=usage)] * stored
    by_a = Step(text="Finished by A.", usage=usage, gate="a")
    by_b = Step(text="Finished by B.", usage=usage, gate="b")
    pair.model.script("late", [*before, by_a])
    worker_id = begin_on_a(pair, "late", requests=stored + 1)
    (turn_id,) = pair.observer.turns(worker_id)
    with paused(pair.a):
        # A's answer lies in its socket, and is the first thing that it reads when it goes on.
        pair.model.open_gate("a")
        pair.model.wait_for_requests("late", stored + 1, ended=True)
        pair.model.script("late", [*before, by_b])
        pair.model.wait_for_requests("late", stored + 2, timeout_s=TAKEN_OVER_WITHIN_S)
        while_b_executes = (turn_row(pair, turn_id), pair.observer.journal(turn_id))
    # A reads its answer, finds that it was superseded, and gives up its job.
    wait_for(lambda: "no longer executed by this attempt" in pair.a.log(), "A to notice")
    require_a_to_work(pair)
    assert (turn_row(pair, turn_id), pair.observer.journal(turn_id)) == while_b_executes

    pair.model.open_gate("b")
    wait_for(lambda: get(pair.b, worker_id).json()["status"] == "completed", "B to finish")
    worker = get(pair.a, worker_id).json()
    assert worker["output_text"] == "Finished by B."
    steps = stored + 1
    assert [worker["usage"][name] for name in ("steps", "inputTokens", "outputTokens")] == [
        steps,
        100 * steps,
        10 * steps,
    ]
    assert pair.observer.journal(turn_id).begins_with(while_b_executes[1])
    assert len(pair.model.requests("late")) == steps + 1
    assert turn_row(pair, turn_id)[:2] == (2, 1)
    pair.model.script("next", [Step(text="Gladly.")])
    post(pair.b, f"/{worker_id}", "[[script:next]] Go on.")
    require_whole_conversation(sent_messages(pair.model.requests("next")))


def require_a_to_work(pair: Pair) -> None:
    """A runs one turn at a time, so a job that it holds on to would keep it from this one."""
    pair.model.script("after", [Step(text="A takes others again.")])
    with paused(pair.b):
        worker_id = accept(pair.a, "", "[[script:after]] Go.").json()["id"]
        wait_for(
            lambda: get(pair.a, worker_id).json()["output_text"] == "A takes others again.",
            "A's next turn",
            timeout_s=5,
        )


def turn_row(pair: Pair, turn_id: str) -> tuple[object, ...]:
    """Its attempts and crashes, and the transaction that wrote it last."""
    (row,) = pair.observer.rows(
        "SELECT attempt, crashes, xmin::text FROM turns WHERE id = %s", turn_id
    )
    return row
