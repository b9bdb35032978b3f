"""procrastinate's worker, with a shutdown that our engine directs, and with capped queues.

The library's own waits for its jobs without a limit once it has stopped by itself, tells nobody
that it has, and leaves a job `doing` forever when its end cannot be written.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import psycopg
from procrastinate import exceptions, jobs, retry, utils
from procrastinate.connector import BaseAsyncConnector
from procrastinate.job_context import JobContext, JobResult
from procrastinate.manager import JobManager
from procrastinate.worker import Worker

logger = logging.getLogger(__name__)

_RETRY_INTERVAL_S = 0.5


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

    @property
    def running_queues(self) -> Iterator[str]:
        """The queue of each job that runs."""
        return (context.job.queue for context in self._running_jobs.values())

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
        while self._running_jobs and not grace_over.done():
            await asyncio.wait(
                {*self._running_jobs, grace_over}, return_when=asyncio.FIRST_COMPLETED
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
