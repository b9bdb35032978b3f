"""Wires procrastinate: jobs enter in their caller's transaction and run in any server process.

A job is a hint that there is work under its lock, never the work itself, so running one twice or
once too often does no harm. That is why a stalled job is simply replaced by a fresh one.
"""

import asyncio
import contextlib
import functools
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg
from procrastinate import App, PsycopgConnector, exceptions
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

from handinger.engine.worker import CappedJobs, JobConnector, JobWorker, Seat
from handinger.storage.database import Connection, Database, is_connection_error

logger = logging.getLogger(__name__)

Handler = Callable[[str], Awaitable[None]]
"""Does the work under one lock; gets the lock's name. Returns when no work is left."""

QUEUE = "default"
# For jobs that end in moments. They have a worker of their own besides, so that turns, which may
# take hours, never keep them from starting.
SHORT_QUEUE = "short"
_SHORT_CONCURRENCY = 4
_POLL_INTERVAL_S = 0.5
_HEARTBEAT_INTERVAL_S = 2.0
_STALLED_AFTER_S = 9.0
_RESCUE_INTERVAL_S = 2.0
_RESTART_DELAY_S = 0.3
# So long may aborted jobs take to give their work back.
_ABORT_GRACE_S = 3.0
_RETRY_DELAYS_S = (0.5, 2, 10, 30, 60)

# Only used to defer with a connection that the caller brings, so it is never opened.
_jobs = JobManager(PsycopgConnector())


async def enqueue(
    connection: Connection,
    job: str,
    *,
    lock: str,
    queue: str = QUEUE,
    at: datetime | None = None,
    failures: int = 0,
) -> None:
    """See to it that a job runs under this lock, in the caller's transaction.

    At most one waits per lock, besides the one that runs; one that waits for a later time is
    brought forward. How many jobs of a queue run at once may be capped, see `Engine.queue_cap`.
    """
    # The look and the insert must not be torn apart by another process's: a violated queueing
    # lock would abort the caller's whole transaction.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [lock])
    cursor = await connection.execute(
        "SELECT id, scheduled_at > coalesce(%s::timestamptz, now()) FROM procrastinate_jobs"
        " WHERE queueing_lock = %s AND status = 'todo'",
        [at, lock],
    )
    found = await cursor.fetchone()
    if found is not None:
        if found[1]:
            await connection.execute(
                "UPDATE procrastinate_jobs SET scheduled_at = %s WHERE id = %s AND status = 'todo'",
                [at, found[0]],
            )
        return
    await _defer(connection, [_job(job, lock=lock, queue=queue, at=at, failures=failures)])


async def enqueue_all(
    connection: Connection, job: str, *, locks: Sequence[str], queue: str = QUEUE
) -> None:
    """As `enqueue`, for now and for many locks, which all callers give in the same order."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(lock, 0)) FROM unnest(%s::text[]) lock",
        [list(locks)],
    )
    cursor = await connection.execute(
        "WITH waiting AS (SELECT id, queueing_lock, scheduled_at FROM procrastinate_jobs"
        " WHERE queueing_lock = ANY(%(locks)s) AND status = 'todo'), forward AS"
        " (UPDATE procrastinate_jobs j SET scheduled_at = NULL FROM waiting"
        " WHERE j.id = waiting.id AND waiting.scheduled_at > now() AND j.status = 'todo')"
        " SELECT queueing_lock FROM waiting",
        {"locks": list(locks)},
    )
    waiting = {row[0] for row in await cursor.fetchall()}
    if missing := [lock for lock in locks if lock not in waiting]:
        await _defer(connection, [_job(job, lock=lock, queue=queue) for lock in missing])


def _job(name: str, *, lock: str, queue: str, at: datetime | None = None, failures: int = 0) -> Job:
    return Job(
        id=None,
        queue=queue,
        lock=lock,
        queueing_lock=lock,
        task_name=name,
        task_kwargs={"lock": lock, "failures": failures},
        scheduled_at=at,
    )


async def _defer(connection: Connection, jobs: list[Job]) -> None:
    try:
        await _jobs.batch_defer_jobs_async(jobs, connection=connection)
    except exceptions.ConnectorException as error:
        # The caller's transaction failed; it knows the driver's errors, not the queue's.
        raise error.__cause__ or error from error


# A job under a lock which nobody else can know yet, for a statement that does more than that: on
# the hot path each round trip counts. SEAT_NEW is a CTE, whose row is the job if its seat could be
# taken; ENQUEUE_NEW an expression, which enqueues it otherwise. They go with `new_job`.
SEAT_NEW: LiteralString = (
    "seated AS (INSERT INTO procrastinate_jobs"
    " (queue_name, task_name, lock, queueing_lock, args, status, worker_id)"
    " SELECT %(job_queue)s::text, %(job_name)s::text, %(job_lock)s::text, %(job_lock)s::text,"
    " jsonb_build_object('lock', %(job_lock)s::text, 'failures', 0), 'doing', id"
    # Which may be gone, after the database was away. Held, so that it does not go now.
    " FROM procrastinate_workers WHERE id = %(job_worker)s FOR KEY SHARE RETURNING id)"
)
ENQUEUE_NEW: LiteralString = (
    "CASE WHEN NOT EXISTS (SELECT 1 FROM seated) THEN procrastinate_defer_jobs_v1("
    "ARRAY[(%(job_queue)s, %(job_name)s, 0, %(job_lock)s, %(job_lock)s,"
    " jsonb_build_object('lock', %(job_lock)s::text, 'failures', 0), NULL)"
    "::procrastinate_job_to_defer_v1]) END"
)


def new_job(
    job: str, *, lock: str, queue: str = QUEUE, seat: Seat | None = None
) -> dict[str, object]:
    """The parameters of SEAT_NEW and ENQUEUE_NEW."""
    worker_id = seat.worker_id if seat else None
    return {"job_queue": queue, "job_name": job, "job_lock": lock, "job_worker": worker_id}


async def drop_waiting(connection: Connection, *, lock: str) -> None:
    """Remove the job that waits under this lock, if one does, in the caller's transaction."""
    await connection.execute(
        "DELETE FROM procrastinate_jobs WHERE lock = %s AND status = 'todo'", [lock]
    )


@dataclass(slots=True)
class _Lane:
    """Where jobs run. One worker takes them; those that the database failed end what they took."""

    queues: list[str] | None  # None: all of them
    concurrency: int
    taking: JobWorker | None = None
    workers: set[JobWorker] = field(default_factory=set[JobWorker])

    @property
    def is_running(self) -> bool:
        return self.taking is not None and self.taking.worker_id is not None


@dataclass(slots=True)
class Engine:
    """Runs jobs of this process, and rescues those whose process died."""

    database: Database
    handlers: Mapping[str, Handler]
    concurrency: int
    # Called with each rescue round, for work whose job is gone altogether.
    sweep: Callable[[], Awaitable[None]]
    # How many jobs of one queue this process runs at once, but for QUEUE's; None: no cap.
    queue_cap: int | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _lanes: list[_Lane] = field(init=False)
    _unknown: set[int] = field(default_factory=set[int])  # see `_rescue_unknown`

    def __post_init__(self) -> None:
        self._lanes = [_Lane(None, self.concurrency), _Lane([SHORT_QUEUE], _SHORT_CONCURRENCY)]

    @contextlib.asynccontextmanager
    async def running(self, *, grace_s: float, rescue_all: bool) -> AsyncGenerator["Engine"]:
        """Run jobs within this block; at its end wait `grace_s` for running ones, then abort them.

        `rescue_all`: no other server can be alive on this database, so every running job is
        stalled.
        """
        app = self._app()
        await app.open_async(self.database.pool)
        if rescue_all:
            await self._rescue(app, stalled_after_s=0)
        working = [
            asyncio.create_task(self._keep_working(app, lane, grace_s), name="engine")
            for lane in self._lanes
        ]
        rescuing = asyncio.create_task(self._keep_rescuing(app), name="engine rescue")
        try:
            yield self
        finally:
            self.stop()
            await asyncio.gather(*working)
            rescuing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await rescuing

    def stop(self) -> None:
        """Take no more jobs; handlers see `stopping` and return at their next safe point."""
        self.stopping.set()
        for lane in self._lanes:
            if lane.taking is not None:
                lane.taking.stop()

    @contextlib.asynccontextmanager
    async def seat(self, queue: str) -> AsyncGenerator[Seat | None]:
        """Room for one job of this queue that is made within the block; None if it has to queue.

        It has to while others wait. And a process that is half busy leaves it to those that have
        less to do.
        """
        worker = self._lanes[0].taking
        if worker is None or not worker.is_at_ease or queue in self._full_queues():
            yield None
            return
        seat = await worker.keep_seat(queue)
        try:
            yield seat
        finally:
            if not seat.is_taken:
                worker.leave(seat)

    @property
    def is_running(self) -> bool:
        """Whether jobs are taken."""
        return all(lane.is_running for lane in self._lanes)

    @property
    def _workers(self) -> list[JobWorker]:
        """Those that run jobs."""
        return [worker for lane in self._lanes for worker in lane.workers]

    def _app(self) -> App:
        connector = JobConnector()
        app = App(connector=connector)
        app.job_manager = CappedJobs(connector, self._full_queues)
        for name, handler in self.handlers.items():
            app.task(name=name, pass_context=True)(self._guarded(name, handler))
        return app

    def _new_worker(self, app: App, lane: _Lane) -> JobWorker:
        worker = JobWorker(
            app,
            queues=lane.queues,
            name="handinger",
            concurrency=lane.concurrency,
            fetch_job_polling_interval=_POLL_INTERVAL_S,
            abort_job_polling_interval=60,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=_HEARTBEAT_INTERVAL_S,
            stalled_worker_timeout=60,
        )
        worker.prepare(was_full=lambda queue: self._running[queue] + 1 == self.queue_cap)
        return worker

    @property
    def _running(self) -> Counter[str]:
        """How many jobs of each queue run in this process."""
        return Counter(queue for worker in self._workers for queue in worker.running_queues)

    def _full_queues(self) -> list[str]:
        """Those of which this process must not take another job now."""
        cap = self.queue_cap
        if cap is None:
            return []
        return [
            name
            for name, count in self._running.items()
            if name not in (QUEUE, SHORT_QUEUE) and count >= cap
        ]

    def _guarded(self, name: str, handler: Handler) -> Callable[..., Awaitable[None]]:
        async def run(context: JobContext, lock: str, failures: int = 0) -> None:
            requeue = functools.partial(self._requeue, name, lock, queue=context.job.queue)
            try:
                await handler(lock)
            except asyncio.CancelledError:
                # The grace of a shutdown is over. The work goes on at the next start.
                await asyncio.shield(requeue(failures=failures))
                raise
            except Exception as error:
                if is_connection_error(error):
                    logger.warning("The job %s of %s lost the database: %s", name, lock, error)
                    await requeue(failures=failures)
                    return
                logger.exception("The job %s of %s failed and will be tried again", name, lock)
                await requeue(failures=failures + 1)
            else:
                if self.stopping.is_set():
                    await requeue(failures=0)

        return run

    async def _requeue(self, name: str, lock: str, *, queue: str, failures: int) -> None:
        at = None
        if failures:
            delay_s = _RETRY_DELAYS_S[min(failures, len(_RETRY_DELAYS_S)) - 1]
            at = datetime.now(UTC) + timedelta(seconds=delay_s)
        while True:
            try:
                async with self.database.system().transaction() as sql:
                    await enqueue(
                        sql.connection, name, lock=lock, queue=queue, at=at, failures=failures
                    )
            except Exception as error:
                # While the database is away there is nothing better to do than to wait for it.
                if not is_connection_error(error) or self.stopping.is_set():
                    raise
                await asyncio.sleep(_RESTART_DELAY_S)
            else:
                return

    async def _keep_working(self, app: App, lane: _Lane, grace_s: float) -> None:
        """One worker takes jobs at a time. One that the database failed is replaced at once.

        The failed one stays until its running jobs have ended, which may take hours.
        """
        runs: set[asyncio.Task[None]] = set()
        while not self.stopping.is_set():
            worker = lane.taking = self._new_worker(app, lane)
            lane.workers.add(worker)
            run = asyncio.create_task(self._run_worker(worker, lane), name="engine worker")
            runs.add(run)
            run.add_done_callback(runs.discard)
            stopped = asyncio.create_task(worker.stopped.wait())
            await asyncio.wait({run, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not self.stopping.is_set():
                await asyncio.sleep(_RESTART_DELAY_S)
        if runs:
            await asyncio.wait(runs, timeout=grace_s)
        for worker in lane.workers:
            worker.grace_over.set()
        if runs:
            await asyncio.wait(runs, timeout=_ABORT_GRACE_S)
        for run in runs:
            run.cancel()

    async def _run_worker(self, worker: JobWorker, lane: _Lane) -> None:
        try:
            await worker.run()
        except (psycopg.Error, exceptions.ConnectorException) as error:
            logger.warning("The job worker stopped and is started again: %s", error)
        finally:
            lane.workers.discard(worker)

    async def _keep_rescuing(self, app: App) -> None:
        while True:
            try:
                # First our own signs of life: after a database outage they are as old as a dead
                # process's, and a worker that ends its last jobs sends none itself.
                for worker in self._workers:
                    if worker.worker_id is not None:
                        await app.job_manager.update_heartbeat(worker.worker_id)
                await self._rescue(app, stalled_after_s=_STALLED_AFTER_S)
                await self._rescue_unknown(app)
                await self.sweep()
            except Exception as error:
                if not is_connection_error(error):
                    logger.exception("A rescue round failed")
            await asyncio.sleep(_RESCUE_INTERVAL_S)

    async def _rescue(self, app: App, *, stalled_after_s: float) -> None:
        own = {worker.worker_id for worker in self._workers}
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=stalled_after_s):
            if job.worker_id not in own and await self._make_anew(job):
                logger.warning("Rescued the job %s of %s from a dead process", *_names(job))

    async def _rescue_unknown(self, app: App) -> None:
        """Jobs that this process took without hearing of it, as its connection broke meanwhile.

        One that is about to start, or has just ended, is no such job a round later.
        """
        unknown: list[Job] = []
        for worker in self._workers:
            taken = await app.job_manager.list_jobs_async(
                status=Status.DOING.value, worker_id=worker.worker_id
            )
            unknown += [job for job in taken if job.id not in worker.running_ids]
        for job in unknown:
            if job.id in self._unknown and await self._make_anew(job):
                logger.warning("Made the job %s of %s anew, which nobody ran", *_names(job))
        self._unknown = {job.id for job in unknown if job.id is not None}

    async def _make_anew(self, job: Job) -> bool:
        """Replace a job that nobody runs; False if that is done already."""
        async with self.database.system().transaction() as sql:
            # Two rescuers may see the same job; the row decides.
            still = await sql.value(
                "SELECT id FROM procrastinate_jobs WHERE id = %(id)s AND status = 'doing'"
                " FOR UPDATE SKIP LOCKED",
                id=job.id,
            )
            if still is None or job.lock is None:
                return False
            await sql.run(
                "SELECT procrastinate_finish_job_v1(%(id)s, %(status)s, true)",
                id=job.id,
                status=Status.FAILED.value,
            )
            await enqueue(sql.connection, job.task_name, lock=job.lock, queue=job.queue)
        return True


def _names(job: Job) -> tuple[str, str | None]:
    """What a job does, and under which lock."""
    return job.task_name, job.lock
