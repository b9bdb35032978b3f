"""Which answers went out in full, so that a later request like it is a new one and no retry.

Noted in batches: until a batch is written, a client that got its answer has no reason to retry.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import psycopg

from handinger.ids import ScheduleId, TurnId
from handinger.storage.database import Database

logger = logging.getLogger(__name__)

_FLUSH_INTERVAL_S = 0.5


@dataclass(slots=True)
class Deliveries:
    """The deliveries of this process."""

    database: Database
    _waiting: set[TurnId | ScheduleId] = field(default_factory=set[TurnId | ScheduleId])
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, made: TurnId | ScheduleId) -> None:
        """The answer about this turn or this new schedule went out in full."""
        self._waiting.add(made)
        self._wanted.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Write what is noted within this block, and the rest at its end."""
        writing = asyncio.create_task(self._keep_writing(), name="deliveries")
        try:
            yield
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            await self._write()

    async def _keep_writing(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(_FLUSH_INTERVAL_S)
            self._wanted.clear()
            await self._write()

    async def _write(self) -> None:
        delivered = list(self._waiting)
        if not delivered:
            return
        try:
            async with self.database.system().transaction() as sql:
                # Losing this in a crash of PostgreSQL only lets a retry join.
                await sql.run("SET LOCAL synchronous_commit = off")
                await sql.run(
                    "UPDATE requests SET delivered_at = now()"
                    " WHERE (turn_id = ANY(%(made)s) OR schedule_id = ANY(%(made)s))"
                    " AND delivered_at IS NULL",
                    made=delivered,
                )
        except psycopg.Error as error:
            logger.warning("Deliveries could not be noted and are noted later: %s", error)
            self._wanted.set()
            return
        self._waiting.difference_update(delivered)
