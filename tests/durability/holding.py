"""Holds a server in one chosen write to PostgreSQL, so that a test can kill it exactly there."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, LiteralString

import psycopg
from psycopg import sql

from tests.durability.observing import wait_for

HOLD_KEY = 7001  # Below 2**32, so that pg_locks shows it as `objid`.

_MAKE = """
CREATE SEQUENCE held_writes;
CREATE FUNCTION hold_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('held_writes') = TG_ARGV[0]::bigint THEN
        PERFORM pg_advisory_xact_lock(TG_ARGV[1]::bigint);
    END IF;
    RETURN NULL;
END;
$$;
"""


@dataclass(frozen=True, slots=True)
class Write:
    """The n-th row that is written so, counted from when the hold is set.

    Held before its commit, the transaction is lost with the process that began it. Held within its
    commit, PostgreSQL completes it, and the process never hears of that.
    """

    table: LiteralString
    event: Literal["INSERT", "UPDATE", "DELETE"]
    number: int = 1
    committed: bool = False


class Hold:
    """A write that waits, or will."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._holding = True

    def wait(self, timeout_s: float = 15) -> int:
        """Wait until the write is held; the backend that waits in it."""
        return wait_for(self._backend, "the held write", timeout_s=timeout_s)

    def release(self) -> None:
        """Let it go on."""
        if self._holding:
            self._connection.execute("SELECT pg_advisory_unlock(%s)", [HOLD_KEY])
            self._holding = False

    def release_of_dead(self, backend: int) -> None:
        """Let it go on for a process that was killed, until nothing of it is left."""
        self.release()
        wait_for(lambda: not self._lives(backend), "the end of the dead process's backend")

    def _backend(self) -> int | None:
        row = self._connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted",
            [HOLD_KEY],
        ).fetchone()
        return row[0] if row else None

    def _lives(self, backend: int) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s", [backend]
        ).fetchone()
        return row is not None


@contextlib.contextmanager
def held(url: str, write: Write) -> Generator[Hold]:
    """Hold the first process that comes to this write, until it is released or the block ends."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [HOLD_KEY])
        connection.execute(_MAKE)
        connection.execute(
            sql.SQL(
                "CREATE CONSTRAINT TRIGGER hold AFTER {event} ON {table} {when}"
                " FOR EACH ROW EXECUTE FUNCTION hold_write({number}, {key})"
            ).format(
                event=sql.SQL(write.event),
                table=sql.Identifier(write.table),
                when=sql.SQL("DEFERRABLE INITIALLY DEFERRED" if write.committed else ""),
                number=sql.Literal(write.number),
                key=sql.Literal(HOLD_KEY),
            )
        )
        hold = Hold(connection)
        try:
            yield hold
        finally:
            hold.release()
            connection.execute("SET lock_timeout = '20s'")
            connection.execute("DROP FUNCTION hold_write CASCADE")
            connection.execute("DROP SEQUENCE held_writes")
