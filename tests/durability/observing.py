"""What a test sees of a server besides its answers: rows, blobs, and what changed in them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString, TypeVar

import psycopg

Found = TypeVar("Found")

_POLL_INTERVAL_S = 0.01


def wait_for(look: Callable[[], Found | None], what: str, *, timeout_s: float = 15) -> Found:
    """Look until there is something true, and give it back."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(_POLL_INTERVAL_S)


Rows = Sequence[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Journal:
    """What is stored of one turn; `xmin` tells which transaction wrote each row last."""

    messages: Rows
    entries: Rows
    finished_tools: Rows

    def begins_with(self, earlier: "Journal") -> bool:
        """Whether everything that was stored earlier is still there, never written again."""
        return (
            self.messages[: len(earlier.messages)] == earlier.messages
            and self.entries[: len(earlier.entries)] == earlier.entries
            and set(earlier.finished_tools) <= set(self.finished_tools)
        )


class Observer:
    """Reads a server's database and blobs; it never writes."""

    def __init__(self, url: str, blobs: Path) -> None:
        self.url = url
        self._blobs = blobs
        self._connection = psycopg.connect(url, autocommit=True)

    def reconnect(self) -> None:
        """After PostgreSQL was restarted."""
        self._connection.close()
        self._connection = psycopg.connect(self.url, autocommit=True)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def rows(self, query: LiteralString, *parameters: object) -> Rows:
        """Every row."""
        return self._connection.execute(query, parameters).fetchall()

    def value(self, query: LiteralString, *parameters: object) -> object:
        """The first column of the only row, or None if there is no row."""
        rows = self.rows(query, *parameters)
        assert len(rows) <= 1, f"{len(rows)} rows for {query}"
        return rows[0][0] if rows else None

    def turns(self, worker_id: str) -> list[str]:
        """The worker's turns, in the order of their acceptance."""
        rows = self.rows("SELECT id FROM turns WHERE worker_id = %s ORDER BY position", worker_id)
        return [str(row[0]) for row in rows]

    def journal(self, turn_id: str) -> Journal:
        """What is stored of a turn now."""
        return Journal(
            messages=self.rows(
                "SELECT id, payload, xmin::text FROM messages WHERE turn_id = %s ORDER BY id",
                turn_id,
            ),
            entries=self.rows(
                "SELECT number, attempt, retry, kind, text, data::text, xmin::text FROM entries"
                " WHERE turn_id = %s ORDER BY number",
                turn_id,
            ),
            finished_tools=self.rows(
                "SELECT step, tool_call_id, result, ended_at, xmin::text FROM tool_calls"
                " WHERE turn_id = %s AND result IS NOT NULL ORDER BY step, tool_call_id",
                turn_id,
            ),
        )

    def blob_versions(self, worker_id: str) -> dict[str, tuple[int, int]]:
        """Each file's blob as it lies on the disk. Writing it again makes another file of it."""
        versions: dict[str, tuple[int, int]] = {}
        for path, sha256 in self.rows(
            "SELECT path, sha256 FROM files WHERE worker_id = %s", worker_id
        ):
            name = str(sha256)
            status = (self._blobs / worker_id / name[:2] / name).stat()
            versions[str(path)] = (status.st_ino, status.st_mtime_ns)
        return versions

    def wait_until_idle(self, *, timeout_s: float = 20) -> None:
        """Wait until no turn waits or runs, and no job is left but such as sleep."""
        wait_for(
            lambda: self.value(
                "SELECT NOT EXISTS (SELECT 1 FROM turns WHERE status <> 'completed')"
                " AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs"
                " WHERE status = 'doing'"
                " OR status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now()))"
            ),
            "all turns and jobs to end",
            timeout_s=timeout_s,
        )
