"""Which answers went out in full, so that a later request like it is a new one and no retry.

Noted in batches: until a batch is written, a client that got its answer has no reason to retry.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import psycopg

from handinger.ids import TurnId
from handinger.storage.database import Database

logger = logging.getLogger(__name__)

_FLUSH_INTERVAL_S = 0.5


@dataclass(slots=True)
class Deliveries:
    """The deliveries of this process."""

    database: Database
    _waiting: set[TurnId] = field(default_factory=set[TurnId])
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, turn_id: TurnId) -> None:
        """The answer of this turn went out in full."""
        self._waiting.add(turn_id)
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
        turn_ids = list(self._waiting)
        if not turn_ids:
            return
        try:
            async with self.database.system().transaction() as sql:
                # Losing this in a crash of PostgreSQL only lets a retry join.
                await sql.run("SET LOCAL synchronous_commit = off")
                await sql.run(
                    "UPDATE requests SET delivered_at = now()"
                    " WHERE turn_id = ANY(%(turn_ids)s) AND delivered_at IS NULL",
                    turn_ids=turn_ids,
                )
        except psycopg.Error as error:
            logger.warning("Deliveries could not be noted and are noted later: %s", error)
            self._wanted.set()
            return
        self._waiting.difference_update(turn_ids)
