"""Brings a database to the schema of this version, once, whoever starts first.

The engine's tables move by the migration files that its library ships; then what is ours moves by
Alembic, our trigger on the engine's tables too. Both run under one advisory lock. Alembic and
SQLAlchemy are only loaded when there is something to migrate.
"""

import asyncio
import re
from pathlib import Path
from typing import LiteralString, cast

import psycopg
from procrastinate.schema import SchemaManager
from psycopg import sql

from handinger.errors import DatabaseError

# The newest of our own migrations; a test holds it against the migrations folder.
HEAD = "0015"
# The version of the engine's schema that the pinned library's `schema.sql` makes.
ENGINE_HEAD = "03.04.00_50"

_LOCK_KEY = 0x48414E44  # "HAND"
_MIGRATIONS = Path(__file__).parent / "migrations"
_ENGINE_MIGRATION = re.compile(r"(\d\d\.\d\d\.\d\d_\d\d)_.+\.sql")


async def migrate(url: str) -> None:
    """Migrate to this version's schema; a newer one is refused.

    Raises DatabaseError. Safe to call from several processes at once.
    """
    await asyncio.to_thread(_migrate, url)


def _migrate(url: str) -> None:
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK_KEY])
            _refuse_unsupported_server(connection)
            _refuse_newer(connection)
            _migrate_engine(connection)
            _migrate_ours(connection, url)
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DatabaseError(
            f"PostgreSQL cannot be used: {reason}. Check HANDINGER_DATABASE_URL."
        ) from error


def _refuse_unsupported_server(connection: psycopg.Connection) -> None:
    major = connection.info.server_version // 10_000
    if major < 14:
        raise DatabaseError(f"PostgreSQL {major} is too old; 14 or newer is needed.")


def _refuse_newer(connection: psycopg.Connection) -> None:
    current = _current_revision(connection)
    known = {path.name.split("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")}
    if current is not None and current not in known:
        raise DatabaseError(
            f"The database has schema {current}, which is newer than this version of Handinger "
            f"knows ({HEAD}). Run the newer version again; going back is not supported."
        )


def _migrate_ours(connection: psycopg.Connection, url: str) -> None:
    if _current_revision(connection) != HEAD:
        _run_alembic(url)


def _current_revision(connection: psycopg.Connection) -> str | None:
    exists = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
    if exists is None or exists[0] is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return cast(str, row[0]) if row else None


def _run_alembic(url: str) -> None:
    from alembic import command  # noqa: PLC0415 # Slow to load and rarely needed.
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["url"] = url
    command.upgrade(config, "head")


def _migrate_engine(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS engine_schema (version text PRIMARY KEY)")
    row = connection.execute("SELECT max(version) FROM engine_schema").fetchone()
    current = cast("str | None", row[0] if row else None)
    if current == ENGINE_HEAD:
        return
    if current is not None and current > ENGINE_HEAD:
        raise DatabaseError(
            f"The job queue's tables have schema {current}, which is newer than this version of "
            f"Handinger knows ({ENGINE_HEAD}). Run the newer version again."
        )
    with connection.transaction():
        if current is None:
            connection.execute(sql.SQL(SchemaManager.get_schema()))
        else:
            for statement in _engine_migrations_after(current):
                connection.execute(sql.SQL(statement))
        connection.execute("INSERT INTO engine_schema VALUES (%s)", [ENGINE_HEAD])


def _engine_migrations_after(version: str) -> list[LiteralString]:
    folder = Path(SchemaManager.get_migrations_path())
    found = sorted(
        (m[1], path)
        for path in folder.glob("*.sql")
        if (m := _ENGINE_MIGRATION.fullmatch(path.name))
    )
    # The library vouches for its own files, as it does for `get_schema`.
    return [
        cast(LiteralString, path.read_text(encoding="utf-8"))
        for number, path in found
        if number > version
    ]
