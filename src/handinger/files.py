"""A worker's workspace: the manifest of its files, and the rules for paths and sizes.

The manifest row is the truth; bytes are blobs that were stored before the row that names them.
"""

import mimetypes
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from handinger.errors import HandingerServerError
from handinger.ids import OrganizationId, WorkerId
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, TenantStatements

# Files there are the worker's own business, or came in from outside.
UNPUBLISHED_FOLDERS = ("scratchpad", "inbox")
_MAX_PATH_BYTES = 1024


class FileError(HandingerServerError):
    """A file cannot be read or written; the message is fit for the model that asked."""


@dataclass(frozen=True, slots=True)
class File:
    """One regular file of a workspace."""

    path: str
    sha256: str
    size: int  # bytes
    media_type: str
    published: bool
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """A file as it shall be; its bytes are stored already."""

    path: str
    sha256: str
    size: int
    media_type: str
    published: bool


def normalize(path: str) -> str:
    """A path inside the workspace, without `.` and doubled slashes.

    Raises FileError for an absolute path, one that leads out, or one that no file can have.
    """
    if "\0" in path:
        raise FileError("A path may not contain a NUL character.")
    if path.startswith(("/", "~")):
        raise FileError(f"{path!r} is absolute; give a path relative to the workspace.")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise FileError(f"{path!r} leads out of the workspace.")
    if not parts:
        raise FileError("The path of a file is needed.")
    normal = "/".join(parts)
    try:
        size = len(normal.encode())
    except UnicodeEncodeError as error:
        raise FileError("A path must be valid Unicode.") from error
    if size > _MAX_PATH_BYTES:
        raise FileError(f"A path may have at most {_MAX_PATH_BYTES} bytes.")
    return normal


def is_published_by_default(path: str) -> bool:
    """Whether writing this file publishes it: not under scratchpad/ or inbox/, nor hidden."""
    parts = path.split("/")
    return parts[0] not in UNPUBLISHED_FOLDERS and not any(part.startswith(".") for part in parts)


def media_type(path: str, content: bytes) -> str:
    """By name, else by content: UTF-8 without NUL is plain text."""
    guessed, encoding = mimetypes.guess_type(path, strict=False)
    if guessed and encoding is None:
        return guessed
    if encoding is not None:
        return f"application/{encoding}"
    head = content[:4096]
    if b"\0" in head:
        return "application/octet-stream"
    try:
        # A character may be cut at the end of the head.
        head.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return "application/octet-stream"
    return "text/plain"


def url(settings: Settings, worker_id: WorkerId, path: str) -> str:
    """Where the bytes of a file are served."""
    return f"{settings.base_url}/api/workers/{worker_id}/files/{quote(path)}"


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
            file = await find(sql, self.worker_id, normal)
        if file is None:
            raise FileError(f"There is no file {normal!r} in the workspace; see list_files.")
        return file

    async def read(self, file: File) -> bytes:
        """The bytes of a file."""
        return await self._blobs.read(self.worker_id, file.sha256)

    async def list(self, folder: str = ".") -> list[File]:
        """Every file under a folder, by path. Raises FileError for a folder that leads out."""
        prefix = "" if folder.strip("/") in ("", ".") else normalize(folder) + "/"
        async with self._tenant.statements() as sql:
            return await sql.all(
                File,
                "SELECT path, sha256, size, media_type, published, updated_at FROM files"
                " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
                " AND starts_with(path, %(prefix)s) ORDER BY path",
                worker_id=self.worker_id,
                prefix=prefix,
            )

    async def prepare(self, path: str, content: bytes) -> Change:
        """Store the bytes of a file that is about to be written; nothing is visible yet.

        Raises FileError when a limit would be passed.
        """
        normal = normalize(path)
        limit = self._settings.max_file_bytes
        if len(content) > limit:
            raise FileError(f"{normal!r} has {len(content)} bytes; a file may have {limit}.")
        await self._require_room(normal, len(content))
        return Change(
            path=normal,
            sha256=await self._blobs.put(self.worker_id, content),
            size=len(content),
            media_type=media_type(normal, content),
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
        if others.files + 1 > self._settings.max_workspace_files:
            raise FileError(
                f"The workspace has {others.files} files; "
                f"it may have {self._settings.max_workspace_files}."
            )
        if others.bytes + size > self._settings.max_workspace_bytes:
            raise FileError(
                f"The workspace would have {others.bytes + size} bytes; "
                f"it may have {self._settings.max_workspace_bytes}."
            )


@dataclass(frozen=True, slots=True)
class _Room:
    files: int
    bytes: int
    is_folder: bool
    under_file: bool


async def find(sql: TenantStatements, worker_id: WorkerId, path: str) -> File | None:
    """The file at exactly this path, or None."""
    return await sql.first(
        File,
        "SELECT path, sha256, size, media_type, published, updated_at FROM files"
        " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
        " AND path = %(path)s",
        worker_id=worker_id,
        path=path,
    )


async def apply(sql: TenantStatements, worker_id: WorkerId, change: Change) -> None:
    """Make a change visible, in the caller's transaction. A published file stays published."""
    await sql.run(
        "INSERT INTO files"
        " (organization_id, worker_id, path, sha256, size, media_type, published)"
        " VALUES (%(organization_id)s, %(worker_id)s, %(path)s, %(sha256)s, %(size)s,"
        " %(media_type)s, %(published)s)"
        " ON CONFLICT (worker_id, path) DO UPDATE SET sha256 = excluded.sha256,"
        " size = excluded.size, media_type = excluded.media_type,"
        " published = files.published OR excluded.published, updated_at = now()",
        worker_id=worker_id,
        path=change.path,
        sha256=change.sha256,
        size=change.size,
        media_type=change.media_type,
        published=change.published,
    )
