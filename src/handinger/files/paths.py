"""The rules for the paths of files, and what a path says about a file."""

import json
import mimetypes
from fnmatch import fnmatchcase
from urllib.parse import quote

from handinger.errors import HandingerServerError
from handinger.ids import WorkerId
from handinger.settings import Settings

# Files there are the worker's own business, or came in from outside.
UNPUBLISHED_FOLDERS = ("scratchpad", "inbox")
MAX_PATH_BYTES = 1024
# So much of a file tells of what kind it is.
HEAD_BYTES = 4096
# What file systems allow; commands work on a real one.
_MAX_NAME_BYTES = 255


class FileError(HandingerServerError):
    """A file cannot be read or written; the message is fit for the model that asked."""


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
    if size > MAX_PATH_BYTES:
        raise FileError(f"A path may have at most {MAX_PATH_BYTES} bytes.")
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise FileError(f"A name in a path may have at most {_MAX_NAME_BYTES} bytes.")
    return normal


def spelled(path: str) -> str:
    """How a list names a file: on one line and as it is, whatever is in the name.

    One with line breaks, or with characters that nobody sees, stands in quotes, as JSON has it; so
    does one that begins with a quote itself.
    """
    return path if path.isprintable() and not path.startswith('"') else json.dumps(path)


def is_published_by_default(path: str) -> bool:
    """Whether writing this file publishes it: not under scratchpad/ or inbox/, nor hidden."""
    parts = path.split("/")
    return parts[0] not in UNPUBLISHED_FOLDERS and not any(part.startswith(".") for part in parts)


def is_pattern(path: str) -> bool:
    """Whether a path has marks that may stand for several names."""
    return any(mark in path for mark in "*?[")


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern means this path.

    `*`, `?` and `[...]` stand for parts of one name, `**` for any folders.
    """
    names = path.split("/")
    # How many names may be used up so far; no pattern makes this slow.
    reached = {0}
    for part in pattern.split("/"):
        if part == "**":
            reached = {count for first in reached for count in range(first, len(names) + 1)}
        else:
            reached = {
                count + 1
                for count in reached
                if count < len(names) and fnmatchcase(names[count], part)
            }
    return len(names) in reached


def media_type_by_name(path: str) -> str | None:
    """What the name's ending says, if it is known."""
    guessed, encoding = mimetypes.guess_type(path, strict=False)
    return guessed if encoding is None else f"application/{encoding}"


def media_type(path: str, content: bytes) -> str:
    """By name, else by content: UTF-8 without NUL is plain text."""
    by_name = media_type_by_name(path)
    if by_name is not None:
        return by_name
    return "text/plain" if looks_like_text(content[:HEAD_BYTES]) else "application/octet-stream"


def looks_like_text(head: bytes) -> bool:
    """Whether what begins so is UTF-8 without NUL."""
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        # A character may be cut at the end of the head.
        return len(head) == HEAD_BYTES and error.start >= len(head) - 3
    return True


def url(settings: Settings, worker_id: WorkerId, path: str) -> str:
    """Where the bytes of a file are served."""
    return f"{settings.base_url}/api/workers/{worker_id}/files/{quote(path)}"
