"""Files that come with an instruction: named safely, stored, and given a place in `inbox/`.

They are in the workspace from the start of their own turn on, and not before: a turn that still
runs must not find its files changed under its hands.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from pathvalidate import sanitize_filename

from handinger import files
from handinger.errors import BodyTooLarge
from handinger.files import Change
from handinger.ids import OrganizationId, WorkerId
from handinger.settings import Settings
from handinger.storage.blobs import Blobs, Content, size_of
from handinger.storage.database import Database, TenantStatements

INBOX = "inbox"

_NAMELESS = "file"
# A name of 255 bytes is what file systems take; a suffix must fit as well.
_MAX_NAME_BYTES = 200
_MAX_EXTENSION_BYTES = 20
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,99}/[a-z0-9][a-z0-9!#$&^_.+-]{0,99}")
# What a client says when it does not know.
_UNKNOWN_TYPES = ("", "application/octet-stream", "binary/octet-stream")


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """A file as somebody sent it; nothing of it is trusted."""

    filename: str | None
    media_type: str | None
    content: Content


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of an instruction; its bytes are stored already."""

    path: str
    sha256: str
    size: int  # bytes
    media_type: str
    url: str
    delivered: bool = False  # into the workspace; then its path is final

    def row(self) -> dict[str, Any]:
        """As the turn's row keeps it."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "size": self.size,
            "mediaType": self.media_type,
            "url": self.url,
            "delivered": self.delivered,
        }

    @property
    def filename(self) -> str:
        """The last part of its path."""
        return self.path.rsplit("/", 1)[-1]


def of_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[Attachment, ...]:
    """The attachments that a turn's row keeps."""
    return tuple(
        Attachment(
            path=row["path"],
            sha256=row["sha256"],
            size=row["size"],
            media_type=row["mediaType"],
            url=row["url"],
            delivered=row["delivered"],
        )
        for row in rows
    )


async def attach(
    database: Database,
    blobs: Blobs,
    settings: Settings,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    incoming: Sequence[IncomingFile],
) -> tuple[Attachment, ...]:
    """Store the files of an instruction that is about to be accepted, and choose their places.

    The worker may be new. Nothing is visible before the turn starts, and what is never accepted is
    removed by and by. Raises BodyTooLarge, and then has stored nothing.
    """
    if not incoming:
        return ()
    _require_sizes(settings, incoming)
    tenant = database.tenant(organization_id)
    async with tenant.statements() as sql:
        rows = await sql.all(_Taken, _IN_INBOX + _WAITING, worker_id=worker_id, inbox=INBOX)
    inbox = _Inbox(row.path for row in rows)
    attached: list[Attachment] = []
    for file in incoming:
        digest = await blobs.put(tenant, worker_id, file.content)
        path = inbox.place(safe_name(file.filename))
        attached.append(
            Attachment(
                path=path,
                sha256=digest.sha256,
                size=digest.size,
                media_type=_media_type(path, digest.head, declared=file.media_type),
                url=files.url(settings, worker_id, path),
            )
        )
    return tuple(attached)


def require_count(settings: Settings, count: int) -> None:
    """That so many files may come with one instruction. Raises BodyTooLarge."""
    if count > settings.max_attachments:
        raise BodyTooLarge(
            f"{count} files came with the instruction; {settings.max_attachments} may "
            "(HANDINGER_MAX_ATTACHMENTS).",
            code="too_many_files",
        )


def _require_sizes(settings: Settings, incoming: Sequence[IncomingFile]) -> None:
    require_count(settings, len(incoming))
    for file in incoming:
        size = size_of(file.content)
        if size > settings.max_file_bytes:
            raise BodyTooLarge(
                f"The file {(file.filename or _NAMELESS)[:200]!r} has {size} bytes; a file may "
                f"have {settings.max_file_bytes} (HANDINGER_MAX_FILE_BYTES).",
                code="file_too_large",
            )


def _media_type(path: str, head: bytes, *, declared: str | None) -> str:
    """By name, else as it is declared, else by content."""
    by_name = files.media_type_by_name(path)
    if by_name is not None:
        return by_name
    declared = (declared or "").split(";")[0].strip().lower()
    if declared not in _UNKNOWN_TYPES and _MEDIA_TYPE.fullmatch(declared):
        return declared
    return files.media_type(path, head)


def safe_name(filename: str | None) -> str:
    """The last part of what somebody calls a file, as a name that every system can hold.

    It can neither lead anywhere, nor look like an option, nor play tricks on who reads it.
    """
    name = unicodedata.normalize("NFC", filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    # Controls, invisible marks that turn the direction of writing, halves of characters.
    name = "".join(" " if unicodedata.category(c) in ("Zl", "Zp") else c for c in name)
    name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Cn"))
    name = _shortened(" ".join(name.split()))
    name = sanitize_filename(name, replacement_text="_").strip(" ")
    if name.startswith(("-", "~")):
        name = "_" + name
    return name if name.strip(". _") else _NAMELESS


def _shortened(name: str) -> str:
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension.encode()) > _MAX_EXTENSION_BYTES:
        stem, dot, extension = name, "", ""
    room = _MAX_NAME_BYTES - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + extension


class _Inbox:
    """The places in `inbox/` that are taken."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        for path in paths:
            self._take(path)

    def _take(self, path: str) -> None:
        self._files.add(path)
        for end, character in enumerate(path):
            if character == "/":
                self._folders.add(path[:end])

    def place(self, name: str) -> str:
        """A path that no file and no folder has, numbered if it must be; it is taken from now."""
        # A worker may have made a file that is called like the folder.
        folder = _numbered(INBOX, lambda path: path in self._files)
        path = _numbered(f"{folder}/{name}", self.is_taken)
        self._take(path)
        return path

    def is_taken(self, path: str) -> bool:
        """Whether no file can be put there."""
        folder = path.rpartition("/")[0]
        return path in self._files or path in self._folders or folder in self._files


def _numbered(path: str, is_taken: Callable[[str], bool]) -> str:
    folder, slash, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    candidate, number = path, 2
    while is_taken(candidate):
        candidate = f"{folder}{slash}{stem}-{number}{dot}{extension}"
        number += 1
    return candidate


# Also finds what stands in the way of the folder itself.
_IN_INBOX = """
SELECT path FROM files WHERE organization_id = %(organization_id)s
    AND worker_id = %(worker_id)s AND starts_with(path, %(inbox)s)
"""

_WAITING = """
UNION ALL
SELECT attached->>'path' FROM turns, jsonb_array_elements(attachments) attached
WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s
    AND status = 'pending'
"""


@dataclass(frozen=True, slots=True)
class _Taken:
    path: str


async def require_room(
    sql: TenantStatements,
    settings: Settings,
    worker_id: WorkerId,
    attached: Sequence[Attachment],
) -> None:
    """See that they fit into the workspace, beside what waits for it. Raises BodyTooLarge."""
    if not attached:
        return
    held = await sql.first(
        _Held,
        "WITH held AS (SELECT size FROM files WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s UNION ALL SELECT (attached->>'size')::bigint FROM turns,"
        " jsonb_array_elements(attachments) attached WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s AND status = 'pending')"
        " SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes FROM held",
        worker_id=worker_id,
    )
    assert held is not None
    count = held.files + len(attached)
    if count > settings.max_workspace_files:
        raise BodyTooLarge(
            f"The workspace would have {count} files with these; it may have "
            f"{settings.max_workspace_files} (HANDINGER_MAX_WORKSPACE_FILES).",
            code="workspace_full",
        )
    size = held.bytes + sum(file.size for file in attached)
    if size > settings.max_workspace_bytes:
        raise BodyTooLarge(
            f"The workspace would have {size} bytes with these files; it may have "
            f"{settings.max_workspace_bytes} (HANDINGER_MAX_WORKSPACE_BYTES).",
            code="workspace_full",
        )


@dataclass(frozen=True, slots=True)
class _Held:
    files: int
    bytes: int


async def deliver(
    sql: TenantStatements, worker_id: WorkerId, attached: Sequence[Attachment]
) -> tuple[Attachment, ...]:
    """Put them into the workspace, in the caller's transaction, which notes that they are there.

    What an earlier turn wrote to such a place in the meantime stays; the attachment gets the next
    free one.
    """
    rows = await sql.all(_Taken, _IN_INBOX, worker_id=worker_id, inbox=INBOX)
    inbox = _Inbox(row.path for row in rows)
    delivered: list[Attachment] = []
    for file in attached:
        path = inbox.place(file.filename) if inbox.is_taken(file.path) else file.path
        url = file.url.removesuffix(quote(file.path)) + quote(path)
        delivered.append(replace(file, path=path, url=url, delivered=True))
    changes = [
        Change(
            path=file.path,
            sha256=file.sha256,
            size=file.size,
            media_type=file.media_type,
            published=False,
        )
        for file in delivered
    ]
    await files.apply(sql, worker_id, changes)
    return tuple(delivered)
