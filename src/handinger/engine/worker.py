"""procrastinate's worker, with a shutdown that our engine directs, and with capped queues.

The library's own waits for its jobs without a limit once it has stopped by itself, tells nobody
that it has, and leaves a job `doing` forever when its end cannot be written.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from procrastinate import PsycopgConnector, connector, exceptions, jobs, retry, utils
from procrastinate.connector import BaseAsyncConnector
from procrastinate.job_context import JobContext, JobResult
from procrastinate.manager import JobManager
from procrastinate.worker import Worker

logger = logging.getLogger(__name__)

_RETRY_INTERVAL_S = 0.5
_SEAT_INTERVAL_S = 0.02


class _Bell(asyncio.Event):
    """An event that keeps a ring which came while its listener was busy looking.

    The worker looks for jobs, then clears its event. A notice that arrives while the look is under
    way would be cleared with it, and the job would wait for the next poll.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rang = False

    def set(self) -> None:
        self._rang = True
        super().set()

    def clear(self) -> None:
        if self._rang:
            self._rang = False
        else:
            super().clear()


class JobConnector(PsycopgConnector):
    """Has whoever begins to listen look once more, now that nothing can be missed any more.

    The worker looks for jobs while its listener still connects, at the start and after a broken
    connection. Nobody would hear of a job that is made in between.
    """

    async def _loop_notify(
        self,
        on_notification: connector.Notify,
        connection: psycopg.AsyncConnection,
        timeout: float = connector.LISTEN_TIMEOUT,  # noqa: ASYNC109 # As the library has it.
    ) -> None:
        await on_notification(channel="", payload='{"type": "job_inserted"}')
        await super()._loop_notify(on_notification, connection, timeout)


class CappedJobs(JobManager):
    """Takes no job of a queue that is full in this process; another process may have room."""

    def __init__(
        self, connector: BaseAsyncConnector, full_queues: Callable[[], Sequence[str]]
    ) -> None:
        super().__init__(connector)
        self._full_queues = full_queues

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> jobs.Job | None:
        """The library's own, which can be told which queues to take from, but not which to skip."""
        # A worker that takes from certain queues only is for those that have no cap.
        full = self._full_queues() if queues is None else ()
        if full:
            row = await self.connector.execute_query_one_async(
                "SELECT array_agg(DISTINCT queue_name) AS others FROM procrastinate_jobs"
                " WHERE status = 'todo' AND queue_name <> ALL(%(full)s)",
                full=full,
            )
            if not row["others"]:
                return None
            queues = row["others"]
        return await super().fetch_job(queues, worker_id)


class JobWorker(Worker):
    """Takes jobs until it is told to stop, or until the database fails it."""

    def prepare(self, *, was_full: Callable[[str], bool]) -> None:
        """Call once, before `run`. `was_full`: whether a queue was, until a job of it ended."""
        self._was_full = was_full
        self.stopped = self._stop_event  # set when it takes no more jobs, whatever the reason
        self.grace_over = asyncio.Event()  # set by the engine: abort what still runs
        self._new_job_event = _Bell()

        self._kept = Counter[str]()  # room for jobs of each queue that are just being made
        self._is_looking = True

    @property
    def running_queues(self) -> Iterator[str]:
        """The queue of each job that runs, or for which room is kept."""
        yield from (context.job.queue for context in self._running_jobs.values())
        yield from self._kept.elements()

    @property
    def running_ids(self) -> set[int]:
        """The jobs that run."""
        return {context.job.id for context in self._running_jobs.values() if context.job.id}

    @property
    def is_at_ease(self) -> bool:
        """Whether less than half of its room is taken, and no job waits for it."""
        busy = sum(1 for _ in self.running_queues)
        return (
            self.worker_id is not None
            and not self._stop_event.is_set()
            and not self._is_looking
            and not self._new_job_event.is_set()
            and not self._job_semaphore.locked()
            and busy * 2 < self.concurrency
        )

    async def keep_seat(self, queue: str) -> "Seat":
        """Room for one job that is just being made; only while `is_at_ease`."""
        assert self.worker_id is not None
        await self._job_semaphore.acquire()  # At once, as it is not locked.
        self._kept[queue] += 1
        return Seat(self, self.worker_id, queue)

    def leave(self, seat: "Seat") -> None:
        """Nobody sits there."""
        self._kept[seat.queue] -= 1
        self._job_semaphore.release()
        self._look_again(seat.queue)

    def start(self, seat: "Seat", job: jobs.Job) -> None:
        """Run a job that was made for this seat."""
        context = JobContext(
            app=self.app,
            worker_name=self.worker_name,
            worker_queues=self.queues,
            job=job,
            abort_reason=lambda: self._job_ids_to_abort.get(job.id) if job.id else None,
            start_timestamp=time.time(),
        )
        self._kept[seat.queue] -= 1
        task = asyncio.create_task(self._process_job(context), name=f"job {job.id}")
        self._running_jobs[task] = context
        task.add_done_callback(self._completed)

    def _completed(self, task: asyncio.Task[None]) -> None:
        del self._running_jobs[task]
        self._job_semaphore.release()

    async def _fetch_and_process_jobs(self) -> None:
        self._is_looking = True
        try:
            await super()._fetch_and_process_jobs()
        finally:
            self._is_looking = False

    async def _process_job(self, context: JobContext) -> None:
        task = asyncio.current_task()
        assert task is not None
        # Called once the job is no longer counted as running.
        task.add_done_callback(lambda _: self._look_again(context.job.queue))
        await super()._process_job(context)

    def _look_again(self, queue: str) -> None:
        """Nobody else rings when a queue that was full has room again."""
        if self._was_full(queue):
            self._new_job_event.set()

    async def _shutdown(self, side_tasks: list[asyncio.Task[None]]) -> None:
        self._stop_event.set()
        await utils.cancel_and_capture_errors(side_tasks)
        grace_over = asyncio.create_task(self.grace_over.wait())
        # Who has a seat may take it still; then that is a job like the others.
        while (self._running_jobs or self._kept.total()) and not grace_over.done():
            await asyncio.wait(
                {*self._running_jobs, grace_over},
                timeout=_SEAT_INTERVAL_S if self._kept.total() else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
        grace_over.cancel()
        if self._running_jobs:
            await self._abort_running_jobs()
        assert self.worker_id is not None
        await self.app.job_manager.unregister_worker(self.worker_id)
        self.worker_id = None

    async def _persist_job_status(
        self,
        job: jobs.Job,
        status: jobs.Status,
        retry_decision: retry.RetryDecision | None,
        context: JobContext,
        job_result: JobResult | None,
    ) -> None:
        """Write a job's end, however long the database is away: until then its lock is held."""
        while True:
            try:
                await super()._persist_job_status(job, status, retry_decision, context, job_result)
            except exceptions.ConnectorException as error:
                away = isinstance(error.__cause__, psycopg.OperationalError)
                if not away or self.grace_over.is_set():
                    # Another process rescued it meanwhile, or will.
                    logger.warning("The end of job %s could not be noted: %s", job.id, error)
                    return
                await asyncio.sleep(_RETRY_INTERVAL_S)
            else:
                return


@dataclass(slots=True, eq=False)
class Seat:
    """Room that a worker keeps for a job which its process is just making.

    The job is made as one that the worker runs already. So nobody has to be told of it or to look
    for it, and should this process die, it is rescued as every other.
    """

    worker: JobWorker
    worker_id: int
    queue: str
    is_taken: bool = False

    def take(self, job_id: int, name: str, *, lock: str) -> None:
        """The job is there: run it."""
        self.is_taken = True
        job = jobs.Job(
            id=job_id,
            status=jobs.Status.DOING.value,
            queue=self.queue,
            lock=lock,
            queueing_lock=lock,
            task_name=name,
            task_kwargs={"lock": lock, "failures": 0},
            worker_id=self.worker_id,
        )
        self.worker.start(self, job)
