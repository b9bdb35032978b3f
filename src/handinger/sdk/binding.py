"""Ties workers to the client that they came from, so that `worker.follow()` reaches the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from handinger.sdk.drivers import AsyncDriver, Driver
from handinger.sdk.exchange import Attempts
from handinger.sdk.streams import WorkerEvents, updates_session

if TYPE_CHECKING:
    from handinger.sdk.models import Worker, WorkerPage


@dataclass(frozen=True, slots=True)
class Binding:
    """To one client, blocking or under asyncio."""

    driver: Driver | AsyncDriver
    attempts: Attempts

    def follow(self, worker_id: str) -> WorkerEvents:
        """What `worker.follow()` gives: like `stream_updates`, connected when it is iterated."""
        return WorkerEvents(updates_session(worker_id, self.attempts), self.driver)

    def worker(self, worker: Worker) -> Worker:
        """The worker, bound."""
        return worker.bind(self.follow)

    def page(self, page: WorkerPage) -> WorkerPage:
        """The page, each of its workers bound."""
        for worker in page.workers:
            worker.bind(self.follow)
        return page
