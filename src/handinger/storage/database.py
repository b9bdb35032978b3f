"""The connection to PostgreSQL, embedded or given, and the only two ways to query it.

`Database.tenant(organization_id)` refuses any statement that does not name the organization, so
that forgetting the tenant fails at the first execution. `Database.system()` sees every tenant; it
is for the engine, for start-up and for keys, and each use of it is listed in a test.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import psycopg
from procrastinate.exceptions import ConnectorException
from psycopg import AsyncConnection, conninfo
from psycopg.abc import Params
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from handinger.errors import DatabaseError
from handinger.ids import OrganizationId
from handinger.settings import Settings
from handinger.storage import schema
from handinger.storage.embedded import EmbeddedPostgres

logger = logging.getLogger(__name__)

Row = TypeVar("Row")

Connection = AsyncConnection[Any]

# A connection that rested longer than this is asked whether it still lives before it is used.
_TRUST_IDLE_CONNECTION_S = 2.0
_SUPERVISE_INTERVAL_S = 1.0
_CONNECTION_TIMEOUT_S = 10.0


class Statements:
    """Runs statements on one connection; each returns rows as the given type, by column name."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def all(self, row: type[Row], sql: LiteralString, **params: object) -> list[Row]:
        """Every row."""
        async with self.connection.cursor(row_factory=class_row(row)) as cursor:
            await cursor.execute(sql, self._checked(sql, params))
            return await cursor.fetchall()

    async def first(self, row: type[Row], sql: LiteralString, **params: object) -> Row | None:
        """The first row, or None."""
        async with self.connection.cursor(row_factory=class_row(row)) as cursor:
            await cursor.execute(sql, self._checked(sql, params))
            return await cursor.fetchone()

    async def value(self, sql: LiteralString, **params: object) -> Any:
        """The first column of the first row, or None."""
        cursor = await self.connection.execute(sql, self._checked(sql, params))
        row = await cursor.fetchone()
        return row[0] if row else None

    async def run(self, sql: LiteralString, **params: object) -> int:
        """Execute, and say how many rows it touched."""
        cursor = await self.connection.execute(sql, self._checked(sql, params))
        return cursor.rowcount

    def _checked(self, sql: str, params: dict[str, object]) -> Params:
        del sql
        return params


class TenantStatements(Statements):
    """Statements of one organization: each must say `%(organization_id)s`, or it is refused."""

    def __init__(self, connection: Connection, organization_id: OrganizationId) -> None:
        super().__init__(connection)
        self.organization_id = organization_id

    def _checked(self, sql: str, params: dict[str, object]) -> Params:
        if "%(organization_id)s" not in sql:
            raise AssertionError(f"this statement forgets the organization: {sql}")
        return {"organization_id": self.organization_id, **params}


class System:
    """Every tenant's rows. For the engine, start-up and key look-up only."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool

    @contextlib.asynccontextmanager
    async def statements(self) -> AsyncGenerator[Statements]:
        """Single statements, each a transaction of its own."""
        async with self._pool.connection() as connection:
            yield Statements(connection)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Statements]:
        """One transaction, committed at the end of the block."""
        async with self._pool.connection() as connection, connection.transaction():
            yield Statements(connection)


class Tenant:
    """The rows of one organization."""

    def __init__(
        self, pool: AsyncConnectionPool[Connection], organization_id: OrganizationId
    ) -> None:
        self._pool = pool
        self.organization_id = organization_id

    @contextlib.asynccontextmanager
    async def statements(self) -> AsyncGenerator[TenantStatements]:
        """Single statements, each a transaction of its own."""
        async with self._pool.connection() as connection:
            yield TenantStatements(connection, self.organization_id)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[TenantStatements]:
        """One transaction, committed at the end of the block."""
        async with self._pool.connection() as connection, connection.transaction():
            yield TenantStatements(connection, self.organization_id)

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[TenantStatements]:
        """Reads that all see the same moment."""
        async with self._pool.connection() as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield TenantStatements(connection, self.organization_id)
            finally:
                # Nothing was written. A broken connection is replaced by the pool.
                if not connection.broken:
                    await connection.execute("ROLLBACK")


class Database:
    """An open pool of connections on a migrated schema."""

    def __init__(self, url: str, pool: AsyncConnectionPool[Connection]) -> None:
        self.url = url
        self.pool = pool

    def tenant(self, organization_id: OrganizationId) -> Tenant:
        """What belongs to one organization."""
        return Tenant(self.pool, organization_id)

    def system(self) -> System:
        """What belongs to every organization."""
        return System(self.pool)

    async def dedicated_connection(self) -> Connection:
        """A connection outside the pool, for LISTEN; the caller closes it."""
        connection = await AsyncConnection.connect(conninfo.make_conninfo(self.url, **_KEEPALIVE))
        await _configure(connection)
        return connection


# A server that vanished without a word is noticed within about 20 s.
_KEEPALIVE: dict[str, int] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}


async def _configure(connection: Connection) -> None:
    await connection.set_autocommit(True)
    # Years up to 9999 are read in the session's zone, and further east there is no room for them.
    await connection.execute("SET TIME ZONE 'UTC'")


async def _note_use(connection: Connection) -> None:
    connection.used_at = time.monotonic()  # pyright: ignore[reportAttributeAccessIssue] # read by check_rested


def _new_pool(url: str) -> AsyncConnectionPool[Connection]:
    async def check_rested(connection: Connection) -> None:
        rested_s = time.monotonic() - getattr(connection, "used_at", 0.0)
        if rested_s <= _TRUST_IDLE_CONNECTION_S:
            return
        try:
            await connection.execute("SELECT 1")
        except psycopg.OperationalError:
            # The others are probably broken too. The pool itself would find that out of one after
            # the other, with a pause in between that doubles each time.
            await pool.check()
            raise

    pool = AsyncConnectionPool(
        url,
        connection_class=AsyncConnection[Any],
        kwargs=_KEEPALIVE,
        configure=_configure,
        min_size=2,
        max_size=16,
        timeout=_CONNECTION_TIMEOUT_S,
        # The pause between attempts doubles. Given up early, the next statement tries anew.
        reconnect_timeout=3,
        open=False,
        check=check_rested,
        reset=_note_use,
        name="handinger",
    )
    return pool


@contextlib.asynccontextmanager
async def open_database(
    settings: Settings,
    postgres: Future[EmbeddedPostgres] | None = None,
) -> AsyncGenerator[Database]:
    """PostgreSQL, started or joined where it is embedded, with its schema migrated to this version.

    Whoever has the embedded one start already gives back its share. Raises DatabaseError with a
    sentence that says what to do.
    """
    async with contextlib.AsyncExitStack() as stack:
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            url = await stack.enter_async_context(_embedded(settings.data_dir, postgres))
        await schema.migrate(url)
        pool = _new_pool(url)
        try:
            await pool.open(wait=True, timeout=15)
        except PoolTimeout as error:
            await pool.close()
            raise DatabaseError(
                "PostgreSQL does not accept connections; check HANDINGER_DATABASE_URL."
            ) from error
        stack.push_async_callback(pool.close)
        yield Database(url, pool)


@contextlib.asynccontextmanager
async def _embedded(
    data_dir: Path, starting: Future[EmbeddedPostgres] | None
) -> AsyncGenerator[str]:
    async with contextlib.AsyncExitStack() as stack:
        if starting is not None:
            postgres = await asyncio.wrap_future(starting)
        else:
            postgres = await asyncio.to_thread(EmbeddedPostgres.join, data_dir)
            stack.push_async_callback(asyncio.to_thread, postgres.leave)
        supervisor = asyncio.create_task(_supervise(postgres))
        try:
            yield postgres.url
        finally:
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor


async def _supervise(postgres: EmbeddedPostgres) -> None:
    while True:
        await asyncio.sleep(_SUPERVISE_INTERVAL_S)
        if postgres.is_running():
            continue
        try:
            restarted = await asyncio.to_thread(postgres.ensure_running)
        except DatabaseError as error:
            logger.error("PostgreSQL ended and cannot be started again: %s", error)
            continue
        if restarted:
            logger.error("PostgreSQL had ended and was started again")


def is_connection_error(error: BaseException | None) -> bool:
    """Whether the connection is to blame, so that the same work may succeed on another one.

    The queue's library wraps the driver's errors.
    """
    if isinstance(error, ConnectorException):
        return is_connection_error(error.__cause__)
    return isinstance(error, psycopg.OperationalError)
