"""Removes bytes that nothing names any more: of replaced files, broken steps, refused uploads.

A blob is noted before it is stored (`Blobs.put`), and the note is renewed each time. So whoever is
about to name one has used it just now, and it is safe for as long as the grace lasts. While one is
being removed its note is locked: who wants to store the same bytes waits, then stores them anew.
"""

from dataclasses import dataclass

from handinger.ids import WorkerId
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database

# Removed in one transaction; whoever stores the same bytes waits for no more than these.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class _Garbage:
    worker_id: WorkerId
    sha256: str


async def collect(database: Database, blobs: Blobs, *, grace_s: float) -> int:
    """Remove what nothing named for so long; how much it was. Several servers may do so at once."""
    collected = 0
    while removed := await _collect_batch(database, blobs, grace_s):
        collected += removed
        if removed < _BATCH:
            break
    return collected


async def _collect_batch(database: Database, blobs: Blobs, grace_s: float) -> int:
    async with database.system().transaction() as sql:
        garbage = await sql.all(
            _Garbage,
            "WITH garbage AS (SELECT b.worker_id, b.sha256 FROM blobs b"
            " WHERE b.used_at < now() - make_interval(secs => %(grace_s)s)"
            " AND NOT EXISTS (SELECT 1 FROM files f"
            " WHERE f.worker_id = b.worker_id AND f.sha256 = b.sha256)"
            " AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.worker_id = b.worker_id"
            " AND t.status <> 'completed'"
            " AND t.attachments @> jsonb_build_array(jsonb_build_object('sha256', b.sha256)))"
            " AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.worker_id = b.worker_id"
            " AND t.published @> jsonb_build_array(jsonb_build_object('sha256', b.sha256)))"
            " AND NOT EXISTS (SELECT 1 FROM inbound_emails e"
            " WHERE e.worker_id = b.worker_id AND e.sha256 = b.sha256)"
            " AND NOT EXISTS (SELECT 1 FROM outbound_emails o WHERE o.worker_id = b.worker_id"
            " AND o.attachments @> jsonb_build_array(jsonb_build_object('sha256', b.sha256)))"
            " LIMIT %(batch)s FOR UPDATE SKIP LOCKED)"
            " DELETE FROM blobs USING garbage WHERE blobs.worker_id = garbage.worker_id"
            " AND blobs.sha256 = garbage.sha256 RETURNING blobs.worker_id, blobs.sha256",
            grace_s=grace_s,
            batch=_BATCH,
        )
        for blob in garbage:
            await blobs.delete(blob.worker_id, blob.sha256)
    return len(garbage)
