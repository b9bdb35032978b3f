"""procrastinate's worker, with a shutdown that our engine directs.

The library's own waits for its jobs without a limit once it has stopped by itself, tells nobody
that it has, and leaves a job `doing` forever when its end cannot be written.
"""

import asyncio
import logging

import psycopg
from procrastinate import exceptions, jobs, retry, utils
from procrastinate.job_context import JobContext, JobResult
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


class JobWorker(Worker):
    """Takes jobs until it is told to stop, or until the database fails it."""

    def prepare(self) -> None:
        """Call once, before `run`."""
        self.stopped = self._stop_event  # set when it takes no more jobs, whatever the reason
        self.grace_over = asyncio.Event()  # set by the engine: abort what still runs
        self._new_job_event = _Bell()

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
