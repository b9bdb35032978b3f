"""Accepting against draining: no turn waits for a poll, none is lost, and their order holds."""

import asyncio
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from procrastinate import PsycopgConnector

from handinger import engine, settings
from handinger.engine import Engine, Seat, queue
from handinger.storage.database import Database, open_database
from tests.durability.holding import HOLD_KEY, Write, held
from tests.durability.observing import wait_for
from tests.durability.stand import Stand, accept, client, in_background
from tests.support.model_server import ModelServer, Step

# The engine's fallback is to look now and then; here so seldom that whoever is not told is missed.
POLL_S = 60.0
TOLD_WITHIN_S = 20.0
WORKERS, ROUNDS = 5, 100

_numbers = count()


def poll_seldom() -> None:
    """In the server's process, or in this one."""
    queue._POLL_INTERVAL_S = POLL_S


@pytest.fixture(scope="module")
def running_stand(
    running_model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    """One whose engine hardly polls."""
    stand = Stand(tmp_path_factory.mktemp("races"), running_model, prepare=poll_seldom)
    try:
        yield stand
    finally:
        stand.close()


def started_after_s(stand: Stand, worker_id: str) -> list[float]:
    """How long each turn of a worker waited until it was claimed."""
    return [
        float(str(row[0]))
        for row in stand.observer.rows(
            "SELECT extract(epoch FROM started_at - created_at) FROM turns"
            " WHERE worker_id = %s ORDER BY position",
            worker_id,
        )
    ]


def test_a_turn_accepted_while_the_job_ends_never_waits(stand: Stand, record_property) -> None:
    """The answer goes out as the job ends, so the next instruction meets it doing that."""
    took_s: list[float] = []
    waited_s: list[float] = []
    with client(stand.server) as http:
        for _ in range(WORKERS):
            worker_id = stand.new_worker()
            for _ in range(ROUNDS // WORKERS):
                began_at = time.monotonic()
                answer = http.post(f"/api/workers/{worker_id}", json={"input": "Go on."})
                took_s.append(time.monotonic() - began_at)
                assert answer.status_code == 200
                assert answer.json()["status"] == "completed"
            waited_s += started_after_s(stand, worker_id)[1:]
    record_property("waited_median_ms", round(statistics.median(waited_s) * 1000, 1))
    record_property("waited_max_ms", round(max(waited_s) * 1000, 1))
    assert len(waited_s) == ROUNDS
    assert max(took_s) < TOLD_WITHIN_S


@pytest.mark.parametrize(
    "write",
    [
        Write("turns", "UPDATE", 2),
        Write("turns", "UPDATE", 2, committed=True),
        Write("procrastinate_jobs", "DELETE"),
        Write("procrastinate_jobs", "DELETE", committed=True),
    ],
    ids=["in the last commit", "after it", "before the job is removed", "after that"],
)
def test_a_turn_accepted_at_that_very_moment_never_waits(stand: Stand, write: Write) -> None:
    """The last turn's final write, or the end of its job, is held while one is accepted."""
    stand.model.script("one", [Step(text="One.")])
    stand.model.script("two", [Step(text="Two.")])
    worker_id = stand.new_worker()
    # Repeated, as a race may be lucky.
    for _ in range(3):
        stand.observer.wait_until_idle()
        turns = len(stand.observer.turns(worker_id))
        with held(stand.observer.url, write) as hold:
            first = in_background(stand.server, f"/{worker_id}", "[[script:one]] Go.")
            hold.wait()
            second = in_background(stand.server, f"/{worker_id}", "[[script:two]] Go.")
            wait_until_accepted_or_waiting(stand, worker_id, turns + 2)
            released_at = time.monotonic()
            hold.release()
            answer = second.result(timeout=TOLD_WITHIN_S)
        assert time.monotonic() - released_at < TOLD_WITHIN_S
        assert first.result(timeout=TOLD_WITHIN_S).json()["output_text"] == "One."
        assert answer.json()["output_text"] == "Two."


def wait_until_accepted_or_waiting(stand: Stand, worker_id: str, turns: int) -> None:
    """Until so many turns are stored, or the transaction of the last waits for the held one."""
    wait_for(
        lambda: len(stand.observer.turns(worker_id)) == turns or somebody_waits(stand),
        "the second instruction",
    )


def somebody_waits(stand: Stand) -> bool:
    """Whether a transaction waits for another, besides the one that is held."""
    waiting = stand.observer.value(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND NOT (locktype = 'advisory'"
        " AND classid = 0 AND objid = %s)",
        HOLD_KEY,
    )
    return waiting == 1


def test_instructions_of_many_clients_to_one_worker_keep_their_order(stand: Stand) -> None:
    """None is lost, and each client gets the answer to its own."""
    clients, each = 10, 8
    stand.model.script("ready", [Step(text="Ready.")])
    worker_id = stand.new_worker()
    for number in range(clients * each):
        stand.model.script(f"n{number}", [Step(text=f"Answer {number}.")])

    def instruct(first: int) -> list[str]:
        answers: list[str] = []
        with client(stand.server) as http:
            for number in range(first, first + each):
                body = {"input": f"[[script:n{number}]] Go."}
                answer = http.post(f"/api/workers/{worker_id}?messages=false", json=body)
                assert answer.status_code == 200, answer.text
                answers.append(answer.json()["output_text"])
        return answers

    with ThreadPoolExecutor(clients) as threads:
        firsts = [number * each for number in range(clients)]
        answered = list(threads.map(instruct, firsts))

    expected = [f"Answer {number}." for number in range(clients * each)]
    assert [text for texts in answered for text in texts] == expected
    stored = stand.observer.rows(
        "SELECT output->0->'content'->0->>'text' ="
        " 'Answer ' || substring(input from '[0-9]+') || '.',"
        " coalesce(started_at >= lag(ended_at) OVER (ORDER BY position), true)"
        " FROM turns WHERE worker_id = %s ORDER BY position OFFSET 1",
        worker_id,
    )
    assert stored == [(True, True)] * (clients * each)


def test_a_turn_whose_job_was_lost_while_the_server_was_down_runs_at_the_start(
    stand: Stand,
) -> None:
    worker_id = hold_a_turn(stand)
    stand.kill()
    lose_job(stand, worker_id)
    stand.start()
    stand.model.open_gate("held")
    wait_for_answer(stand, worker_id, timeout_s=TOLD_WITHIN_S)


def test_a_cancel_between_the_claim_of_a_turn_and_its_begin_is_heard(stand: Stand) -> None:
    worker_id = hold_a_turn(stand)
    stand.kill()
    attempts = "SELECT attempt FROM turns WHERE worker_id = %s"
    with psycopg.connect(stand.observer.url) as connection:
        # What the next attempt reads before it begins.
        connection.execute("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
        stand.start()
        wait_for(lambda: stand.observer.value(attempts, worker_id) == 2, "the second attempt")
        cancelling = ThreadPoolExecutor(1).submit(cancel, stand, worker_id)
        asked = "SELECT cancel_requested FROM turns WHERE worker_id = %s"
        wait_for(lambda: stand.observer.value(asked, worker_id), "the cancel")
    # The model never answers.
    worker = cancelling.result()
    assert worker["status"] == "completed"
    assert worker["incomplete_details"] == {"reason": "cancelled"}


def cancel(stand: Stand, worker_id: str) -> dict[str, Any]:
    """Answered once the turn has ended."""
    with client(stand.server) as http:
        return http.post(f"/api/workers/{worker_id}/cancel").raise_for_status().json()


@pytest.mark.slow
def test_a_turn_whose_job_was_lost_is_found_while_the_server_runs(stand: Stand) -> None:
    """Its job is lost before it was taken."""
    stand.model.script("held", [Step(text="Found again.")])
    worker_id = stand.new_worker()  # The job of a later turn is never taken as it is made.
    stand.observer.wait_until_idle()
    with held(stand.observer.url, Write("procrastinate_jobs", "UPDATE")) as hold:
        accept(stand.server, f"/{worker_id}", "[[script:held]] Go.")
        backend = hold.wait()
        with ThreadPoolExecutor(1) as thread:
            losing = thread.submit(lose_job, stand, worker_id)
            wait_for(lambda: somebody_waits(stand), "the deletion to wait for the taking")
            terminate(stand, backend)
            losing.result(timeout=10)
    wait_for_answer(stand, worker_id, timeout_s=30)


def terminate(stand: Stand, backend: int) -> None:
    """End the connection that was about to take the job."""
    with psycopg.connect(stand.observer.url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", [backend])


def hold_a_turn(stand: Stand) -> str:
    """A worker whose turn is in a model call."""
    stand.model.script("held", [Step(text="Found again.", gate="held")])
    worker_id = str(accept(stand.server, "", "[[script:held]] Go.").json()["id"])
    stand.model.wait_for_requests("held", 1)
    return worker_id


def lose_job(stand: Stand, worker_id: str) -> None:
    """As nobody should do it."""
    with psycopg.connect(stand.observer.url, autocommit=True) as connection:
        lost = connection.execute("DELETE FROM procrastinate_jobs WHERE lock = %s", [worker_id])
        assert lost.rowcount == 1


def wait_for_answer(stand: Stand, worker_id: str, *, timeout_s: float) -> None:
    wait_for(
        lambda: stand.get(worker_id).json()["output_text"] == "Found again.",
        "the lost turn",
        timeout_s=timeout_s,
    )


@pytest.fixture
async def database(stand: Stand, tmp_path: Path) -> AsyncIterator[Database]:
    """A database of its own, where no server works."""
    with psycopg.connect(stand.observer.url, autocommit=True) as connection:
        name = f"engine_{next(_numbers)}"
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = urlsplit(stand.observer.url)._replace(path=f"/{name}").geturl()
    async with open_database(settings.load(data_dir=tmp_path, database_url=url)) as database:
        yield database


@pytest.mark.anyio
async def test_a_job_that_waits_for_its_lock_starts_when_the_lock_is_free(
    database: Database, record_property, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second job under the lock is enqueued while the first one runs."""
    monkeypatch.setattr(queue, "_POLL_INTERVAL_S", POLL_S)
    runs: asyncio.Queue[float] = asyncio.Queue()
    may_end = asyncio.Event()

    async def handle(_lock: str) -> None:
        runs.put_nowait(time.monotonic())
        await may_end.wait()

    async def nothing() -> None:
        pass

    running_engine = Engine(
        database=database, handlers={"work": handle}, concurrency=8, sweep=nothing
    )
    delays_s: list[float] = []
    async with running_engine.running(grace_s=1, rescue_all=False), asyncio.timeout(TOLD_WITHIN_S):
        for number in range(40):
            may_end.clear()
            await enqueue(database, f"lock {number}")
            await runs.get()
            await enqueue(database, f"lock {number}")
            ended_at = time.monotonic()
            may_end.set()
            delays_s.append(await runs.get() - ended_at)
    record_property("started_median_ms", round(statistics.median(delays_s) * 1000, 1))
    record_property("started_max_ms", round(max(delays_s) * 1000, 1))
    assert max(delays_s) < TOLD_WITHIN_S


@pytest.mark.anyio
async def test_a_job_that_is_made_before_anybody_listens_never_waits(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look finds nothing yet, and nobody hears of what is made after it."""
    monkeypatch.setattr(queue, "_POLL_INTERVAL_S", POLL_S)
    connect = PsycopgConnector._get_standalone_connection
    may_listen, ran = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def connect_late(
        connector: PsycopgConnector,
    ) -> AsyncGenerator[psycopg.AsyncConnection]:
        await may_listen.wait()
        async with connect(connector) as connection:
            yield connection

    async def handle(_lock: str) -> None:
        ran.set()

    async def nothing() -> None:
        pass

    monkeypatch.setattr(PsycopgConnector, "_get_standalone_connection", connect_late)
    starting = Engine(database=database, handlers={"work": handle}, concurrency=8, sweep=nothing)
    async with starting.running(grace_s=1, rescue_all=False), asyncio.timeout(TOLD_WITHIN_S):
        while not await _has_room(starting):  # noqa: ASYNC110 # The library rings no bell for it.
            await asyncio.sleep(0.01)
        await enqueue(database, "lock")
        may_listen.set()
        await ran.wait()


async def _has_room(engine: Engine) -> bool:
    """Whether its worker has looked for jobs, and waits to be told of one."""
    async with engine.seat("shared") as seat:
        return seat is not None


async def enqueue(database: Database, lock: str, *, queue: str = "shared") -> None:
    async with database.system().transaction() as sql:
        await engine.enqueue(sql.connection, "work", lock=lock, queue=queue)


@pytest.mark.anyio
async def test_jobs_of_a_capped_queue_leave_room_for_others_on_every_server(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with three slots each, and at most two for one queue."""
    monkeypatch.setattr(queue, "_POLL_INTERVAL_S", POLL_S)
    running: set[str] = set()
    may_end: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def handle(lock: str) -> None:
        running.add(lock)
        await may_end[lock].wait()
        running.remove(lock)

    async def nothing() -> None:
        pass

    async def until_running(expected: set[str], *, of_many: int = 0) -> None:
        def differs() -> bool:
            many = {name for name in running if name.startswith("many")}
            return running - many != expected or len(many) != of_many

        while differs():  # noqa: ASYNC110 # What starts rings no bell.
            await asyncio.sleep(0.01)

    def process() -> Engine:
        return Engine(
            database=database, handlers={"work": handle}, concurrency=3, sweep=nothing, queue_cap=2
        )

    async with (
        asyncio.timeout(TOLD_WITHIN_S),
        process().running(grace_s=1, rescue_all=False),
        process().running(grace_s=1, rescue_all=False),
    ):
        for number in range(8):
            await enqueue(database, f"many {number}", queue="many")
        await until_running(set(), of_many=4)
        await enqueue(database, "few 1", queue="few")
        await enqueue(database, "few 2", queue="few")
        await until_running({"few 1", "few 2"}, of_many=4)
        for name in [name for name in running if name[:4] == "many"]:
            may_end[name].set()  # The next of the same queue goes on, though nobody polls.
        await until_running({"few 1", "few 2"}, of_many=4)
        for name in ("few 1", "few 2", *(f"many {number}" for number in range(8))):
            may_end[name].set()
        await until_running(set())


async def make(database: Database, lock: str, seat: Seat | None) -> int | None:
    """A new job as the accepting statement makes it; its id if it took the seat."""
    async with database.system().statements() as sql:
        return await sql.value(
            "WITH " + engine.SEAT_NEW + " SELECT (SELECT id FROM seated), " + engine.ENQUEUE_NEW,
            **engine.new_job("work", lock=lock, queue="shared", seat=seat),
        )


@dataclass(slots=True)
class Ran:
    """Which jobs have run here, each to the end of its gate."""

    jobs: asyncio.Queue[str] = field(default_factory=asyncio.Queue[str])
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, lock: str) -> None:
        self.jobs.put_nowait(lock)
        await self.may_end.wait()

    def engine(self, database: Database, *, concurrency: int) -> Engine:
        async def nothing() -> None:
            pass

        return Engine(
            database=database,
            handlers={"work": self.handle},
            concurrency=concurrency,
            sweep=nothing,
            queue_cap=2,
        )


async def seat_in(running: Engine, stack: contextlib.AsyncExitStack) -> Seat:
    """A seat, as soon as the engine has looked for jobs and found none."""
    while (seat := await stack.enter_async_context(running.seat("shared"))) is None:  # noqa: ASYNC110 # That it is at ease rings no bell.
        await asyncio.sleep(0.01)
    return seat


@pytest.mark.anyio
async def test_a_job_that_is_made_for_a_seat_runs_though_nobody_looks_for_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_POLL_INTERVAL_S", POLL_S)
    ran = Ran()
    async with (
        ran.engine(database, concurrency=8).running(grace_s=1, rescue_all=False) as running,
        asyncio.timeout(TOLD_WITHIN_S),
    ):
        async with contextlib.AsyncExitStack() as stack:
            first, second = await seat_in(running, stack), await seat_in(running, stack)
            async with running.seat("shared") as third:
                assert third is None  # Two are the cap of a queue.
            async with running.seat("another") as other:
                assert other is not None
            job_id = await make(database, "one", first)
            assert job_id is not None
            first.take(job_id, "work", lock="one")
            assert await ran.jobs.get() == "one"
            second.worker_id += 1_000_000  # Of a worker that is gone.
            assert await make(database, "two", second) is None
        assert await ran.jobs.get() == "two"
        ran.may_end.set()
        await until_no_job_is_left(database)


@pytest.mark.anyio
async def test_a_job_that_takes_its_seat_as_the_engine_stops_is_waited_for(
    database: Database,
) -> None:
    ran = Ran()
    async with asyncio.timeout(TOLD_WITHIN_S), contextlib.AsyncExitStack() as stack:
        async with ran.engine(database, concurrency=8).running(
            grace_s=TOLD_WITHIN_S, rescue_all=False
        ) as running:
            seat = await seat_in(running, stack)
            running.stop()

            async def take_late() -> None:
                # Time enough to be gone, for a worker that does not wait.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        while seat.worker.worker_id is not None:  # noqa: ASYNC110 # It rings no bell.
                            await asyncio.sleep(0.01)
                job_id = await make(database, "late", seat)
                assert job_id is not None
                seat.take(job_id, "work", lock="late")
                assert await ran.jobs.get() == "late"
                ran.may_end.set()

            taking = asyncio.create_task(take_late())
        assert taking.done()
        await taking


@pytest.mark.anyio
async def test_a_job_is_made_anew_that_took_a_seat_without_a_word(database: Database) -> None:
    """As when the connection breaks after the commit, and before its answer."""
    ran = Ran()
    ran.may_end.set()
    async with (
        ran.engine(database, concurrency=1).running(grace_s=1, rescue_all=False) as running,
        asyncio.timeout(TOLD_WITHIN_S),
    ):
        async with contextlib.AsyncExitStack() as stack:
            assert await make(database, "unheard of", await seat_in(running, stack)) is not None
            async with running.seat("shared") as none:
                assert none is None  # All room is taken.
        assert await ran.jobs.get() == "unheard of"
        await until_no_job_is_left(database)
        assert ran.jobs.empty()


async def until_no_job_is_left(database: Database) -> None:
    async with database.system().statements() as sql:
        while await sql.value("SELECT count(*) FROM procrastinate_jobs"):  # noqa: ASYNC110 # Rows ring no bell.
            await asyncio.sleep(0.01)
