"""Pages that a worker has used, each URL once, so that a reader of its answer can look them up."""

from dataclasses import dataclass

from handinger import ids
from handinger.ids import WorkerId
from handinger.storage.database import TenantStatements


@dataclass(frozen=True, slots=True)
class Source:
    """One page."""

    id: str
    url: str
    title: str | None

    @classmethod
    def new(cls, url: str, title: str | None) -> "Source":
        """With a fresh id."""
        return cls(ids.new("src"), url, title)


async def of_worker(sql: TenantStatements, worker_id: WorkerId) -> list[Source]:
    """All of a worker's, in the order in which they were used first."""
    return await sql.all(
        Source,
        "SELECT id, url, title FROM sources WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s ORDER BY created_at, id",
        worker_id=worker_id,
    )


async def add(sql: TenantStatements, worker_id: WorkerId, source: Source) -> None:
    """Store a source, in the caller's transaction; of one that is there, a title it lacked."""
    await sql.run(
        "INSERT INTO sources (id, organization_id, worker_id, url, title)"
        " VALUES (%(id)s, %(organization_id)s, %(worker_id)s, %(url)s, %(title)s)"
        " ON CONFLICT (worker_id, url)"
        " DO UPDATE SET title = coalesce(sources.title, excluded.title)",
        id=source.id,
        worker_id=worker_id,
        url=source.url,
        title=source.title,
    )
