"""How Alembic reaches the database: the URL that `schema.migrate` hands over."""

from alembic import context
from sqlalchemy import create_engine, pool

from handinger.storage.tables import metadata

# The engine's tables are the job queue's own; `schema.py` migrates those.
_NOT_OURS = ("procrastinate_", "engine_schema")


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or not (name or "").startswith(_NOT_OURS)


def _sqlalchemy_url(url: str) -> str:
    return "postgresql+psycopg://" + url.split("://", 1)[1]


engine = create_engine(_sqlalchemy_url(context.config.attributes["url"]), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(
        connection=connection, target_metadata=metadata, include_name=_is_ours, compare_type=True
    )
    with context.begin_transaction():
        context.run_migrations()
