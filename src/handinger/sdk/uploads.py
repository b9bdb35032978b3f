"""Files that a request carries: paths, bytes or open files, sent anew with each attempt."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias, cast

from handinger.sdk.errors import UploadError

FileContent: TypeAlias = "bytes | IO[bytes] | os.PathLike[str]"
FileInput: TypeAlias = (
    "str | os.PathLike[str] | IO[bytes] | tuple[str, FileContent] | tuple[str, FileContent, str]"
)

# As `httpx2` wants it: the name of the field, then name, content and media type of the file.
Field: TypeAlias = "tuple[str, tuple[str, bytes | IO[bytes], str]]"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be sent; its name is what the worker will see."""

    name: str
    content: bytes | IO[bytes] | Path
    media_type: str


def of_inputs(files: Iterable[FileInput]) -> tuple[Upload, ...]:
    """Raises UploadError for what cannot be sent, before anything is."""
    return tuple(_of_input(file) for file in files)


@contextmanager
def opened(uploads: Sequence[Upload]) -> Generator[list[Field]]:
    """The fields of one attempt; files that were opened for it are closed afterwards."""
    with ExitStack() as stack:
        fields: list[Field] = []
        for upload in uploads:
            content = upload.content
            if isinstance(content, Path):
                content = stack.enter_context(_open(content))
            elif not isinstance(content, bytes):
                content.seek(0)
            fields.append(("files", (upload.name, content, upload.media_type)))
        yield fields


def _of_input(file: FileInput) -> Upload:
    match file:
        case str() | os.PathLike():
            return _named(os.path.basename(os.fspath(file)), Path(file))
        case (str(name), content):
            return _named(name, content)
        case (str(name), content, str(media_type)):
            return _named(name, content, media_type)
        case _:
            name: object = getattr(file, "name", None)
            if not isinstance(name, str):
                raise UploadError(
                    "A file is a path, an open file with a name, or (name, content[, media type])."
                )
            return _named(os.path.basename(name), file)


def _named(name: str, content: FileContent, media_type: str | None = None) -> Upload:
    if not name:
        raise UploadError("A file needs a name.")
    guessed = media_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
    match content:
        case bytes():
            return Upload(name, content, guessed)
        case os.PathLike():
            _open(Path(content)).close()
            return Upload(name, Path(content), guessed)
        case _:
            return Upload(name, _repeatable(name, content), guessed)


def _repeatable(name: str, file: IO[bytes]) -> bytes | IO[bytes]:
    """A pipe can be read once only, and a request may have to be sent again."""
    seekable = getattr(file, "seekable", None)
    if seekable is not None and seekable():
        return file
    content = cast("object", file.read())
    if not isinstance(content, bytes):
        raise UploadError(f"{name} was opened as text; open it with mode 'rb'.")
    return content


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise UploadError(f"{path} cannot be sent: {error.strerror}.") from error
