"""The files of one worker, as its agent uses them: found, read, and prepared to be written.

Bytes are stored as blobs before the row that names them is committed.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from handinger.files import manifest
from handinger.files.manifest import Change, File, Manifest
from handinger.files.paths import (
    FileError,
    is_pattern,
    is_published_by_default,
    matches,
    media_type,
    normalize,
)
from handinger.ids import OrganizationId, WorkerId
from handinger.settings import Settings
from handinger.storage.blobs import Blobs, Content, Digest, size_of
from handinger.storage.database import Database


class Workspace:
    """The files of one worker, as its agent uses them."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        settings: Settings,
        *,
        organization_id: OrganizationId,
        worker_id: WorkerId,
    ) -> None:
        self._tenant = database.tenant(organization_id)
        self._blobs = blobs
        self._settings = settings
        self.worker_id = worker_id

    async def find(self, path: str) -> File:
        """The file at this path. Raises FileError."""
        normal = normalize(path)
        async with self._tenant.statements() as sql:
            file = await manifest.find(sql, self.worker_id, normal)
        if file is None:
            raise FileError(f"There is no file {normal!r} in the workspace; see list_files.")
        return file

    async def load(self, file: File) -> Content:
        """All the bytes of a file."""
        return await self._blobs.load(self.worker_id, file.sha256)

    def pieces(self, file: File, *, start: int = 0, end: int) -> AsyncGenerator[bytes]:
        """The bytes of a file from `start` up to `end`, or to where it ends."""
        end = min(end, file.size)
        return self._blobs.stream(self.worker_id, file.sha256, start=start, end=end)

    async def read_picture(self, sha256: str) -> bytes:
        """Bytes that a picture has, or had. Raises FileNotFoundError if they were removed."""
        return await self._blobs.read(self.worker_id, sha256)

    async def list(self, folder: str = ".") -> list[File]:
        """Every file under a folder, or that a pattern means, by path.

        Raises FileError for a path that leads out.
        """
        normal = "" if folder.strip("/") in ("", ".") else normalize(folder)
        async with self._tenant.statements() as sql:
            prefix = f"{normal}/" if normal else ""
            found = await manifest.load(sql, self.worker_id, prefix=prefix)
            # A folder may have such a mark in its name.
            if found or not is_pattern(normal):
                return found
            every = await manifest.load(sql, self.worker_id)
        return [file for file in every if matches(file.path, normal)]

    async def refresh(self, known: Manifest) -> Manifest:
        """Every file, of which these are known from before."""
        async with self._tenant.statements() as sql:
            return await manifest.refresh(sql, self.worker_id, known)

    async def prepare(self, path: str, content: Content) -> Change:
        """Store the bytes of a file that is about to be written; nothing is visible yet.

        Raises FileError when a limit would be passed.
        """
        normal = normalize(path)
        size, limit = size_of(content), self._settings.max_file_bytes
        if size > limit:
            raise FileError(f"{normal!r} has {size} bytes; a file may have {limit}.")
        await self._require_room(normal, size)
        stored = await self._blobs.put(self._tenant, self.worker_id, content)
        return Change(
            path=normal,
            sha256=stored.sha256,
            size=stored.size,
            media_type=media_type(normal, stored.head),
            published=is_published_by_default(normal),
        )

    async def _require_room(self, path: str, size: int) -> None:
        async with self._tenant.statements() as sql:
            others = await sql.first(
                _Room,
                "SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes,"
                " coalesce(bool_or(starts_with(path, %(path)s || '/')), false) AS is_folder,"
                " coalesce(bool_or(starts_with(%(path)s, path || '/')), false) AS under_file"
                " FROM files WHERE organization_id = %(organization_id)s"
                " AND worker_id = %(worker_id)s AND path <> %(path)s",
                worker_id=self.worker_id,
                path=path,
            )
        assert others is not None
        if others.is_folder:
            raise FileError(f"{path!r} is a folder.")
        if others.under_file:
            raise FileError(f"A part of {path!r} is a file, not a folder.")
        why_not = self.why_no_room(files=others.files + 1, size=others.bytes + size)
        if why_not is not None:
            raise FileError(why_not)

    def why_no_room(self, *, files: int, size: int) -> str | None:
        """Why a workspace cannot have so many files, of so many bytes; None if it can."""
        most_files = self._settings.max_workspace_files
        most_bytes = self._settings.max_workspace_bytes
        if files > most_files:
            return f"The workspace would have {files} files; it may have {most_files}."
        if size > most_bytes:
            return f"The workspace would have {size} bytes; it may have {most_bytes}."
        return None

    async def store(self, content: Content, known: Digest) -> None:
        """Store bytes that a file is to have. No file has them yet."""
        await self._blobs.put(self._tenant, self.worker_id, content, known=known)

    @property
    def max_file_bytes(self) -> int:
        """How large one file may be."""
        return self._settings.max_file_bytes


@dataclass(frozen=True, slots=True)
class _Room:
    files: int
    bytes: int
    is_folder: bool
    under_file: bool
