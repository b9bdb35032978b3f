"""The manifest: the rows that say which files a workspace has. They are the truth about it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import LiteralString

from handinger.ids import WorkerId
from handinger.storage.database import TenantStatements


@dataclass(frozen=True, slots=True)
class File:
    """One regular file of a workspace."""

    path: str
    sha256: str
    size: int  # bytes
    media_type: str
    published: bool
    executable: bool
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """A file as it shall be; its bytes are stored already."""

    path: str
    sha256: str
    size: int
    media_type: str
    published: bool
    executable: bool | None = None  # None: as it was


_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)

_COLUMNS: LiteralString = "path, sha256, size, media_type, published, executable, updated_at"


async def find(sql: TenantStatements, worker_id: WorkerId, path: str) -> File | None:
    """The file at exactly this path, or None."""
    return await sql.first(
        File,
        f"SELECT {_COLUMNS} FROM files"
        " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
        " AND path = %(path)s",
        worker_id=worker_id,
        path=path,
    )


@dataclass(frozen=True, slots=True)
class _State:
    """What tells one state of a manifest from the next."""

    files: int
    moments: Decimal  # microseconds since 1970, of the last changes of all files together
    newest: datetime


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every file of a workspace, as of one moment."""

    files: Mapping[str, File]  # by path
    state: _State

    @classmethod
    def empty(cls) -> "Manifest":
        """Of a workspace that nothing is known of yet."""
        return cls({}, _State(0, Decimal(0), _EPOCH))


async def refresh(sql: TenantStatements, worker_id: WorkerId, known: Manifest) -> Manifest:
    """The manifest, of which this is known from before.

    Of a large workspace that hardly changed, only what did is loaded: each change of a row, and
    nothing else, changes the time in it.
    """
    if not known.files:
        return _with(known, await load(sql, worker_id))
    state = await sql.first(
        _State,
        "SELECT count(*) AS files,"
        # Exact, as a double holds so many microseconds; and faster than `extract`.
        " coalesce(sum((date_part('epoch', updated_at) * 1000000)::bigint), 0) AS moments,"
        " coalesce(max(updated_at), to_timestamp(0)) AS newest"
        " FROM files WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s",
        worker_id=worker_id,
    )
    if state == known.state:
        return known
    changed = await sql.all(
        File,
        f"SELECT {_COLUMNS} FROM files"
        " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
        " AND updated_at > %(newest)s",
        worker_id=worker_id,
        newest=known.state.newest,
    )
    news = _with(known, changed)
    # What was removed, or committed late, shows here.
    if news.state == state:
        return news
    return _with(Manifest.empty(), await load(sql, worker_id))


def _with(known: Manifest, changed: Collection[File]) -> Manifest:
    files, moments, newest = dict(known.files), int(known.state.moments), known.state.newest
    for file in changed:
        before = files.get(file.path)
        moments += _microseconds(file) - (_microseconds(before) if before else 0)
        newest = max(newest, file.updated_at)
        files[file.path] = file
    return Manifest(files, _State(len(files), Decimal(moments), newest))


def _microseconds(file: File) -> int:
    return (file.updated_at - _EPOCH) // _MICROSECOND


async def load(sql: TenantStatements, worker_id: WorkerId, *, prefix: str = "") -> list[File]:
    """Every file whose path begins so, by path."""
    return await sql.all(
        File,
        f"SELECT {_COLUMNS} FROM files"
        " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
        " AND starts_with(path, %(prefix)s) ORDER BY path",
        worker_id=worker_id,
        prefix=prefix,
    )


async def apply(sql: TenantStatements, worker_id: WorkerId, changes: Sequence[Change]) -> None:
    """Make changes visible, in the caller's transaction. A published file stays published."""
    if not changes:
        return
    # Of several changes of one path the last counts; one statement may not touch a row twice.
    last = {change.path: change for change in changes}.values()
    await sql.run(
        "INSERT INTO files AS f"
        " (organization_id, worker_id, path, sha256, size, media_type, published, executable)"
        " SELECT %(organization_id)s, %(worker_id)s, row.path, row.sha256, row.size,"
        " row.media_type, row.published, coalesce(row.executable, was.executable, false)"
        " FROM unnest(%(paths)s::text[], %(hashes)s::text[], %(sizes)s::bigint[],"
        " %(media_types)s::text[], %(published)s::boolean[], %(executable)s::boolean[])"
        " AS row(path, sha256, size, media_type, published, executable)"
        " LEFT JOIN files was ON was.organization_id = %(organization_id)s"
        " AND was.worker_id = %(worker_id)s AND was.path = row.path"
        " ON CONFLICT (worker_id, path) DO UPDATE SET sha256 = excluded.sha256,"
        " size = excluded.size, media_type = excluded.media_type,"
        " published = f.published OR excluded.published,"
        " executable = excluded.executable, updated_at = now()",
        worker_id=worker_id,
        paths=[change.path for change in last],
        hashes=[change.sha256 for change in last],
        sizes=[change.size for change in last],
        media_types=[change.media_type for change in last],
        published=[change.published for change in last],
        executable=[change.executable for change in last],
    )


async def remove(sql: TenantStatements, worker_id: WorkerId, paths: Sequence[str]) -> None:
    """Take files out of a workspace, in the caller's transaction. Their blobs stay."""
    await sql.run(
        "DELETE FROM files WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s AND path = ANY(%(paths)s)",
        worker_id=worker_id,
        paths=list(paths),
    )
