"""Files that an instruction names by URL: fetched, under the web's guard, before any is stored."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from handinger.attachments import IncomingFile, require_count
from handinger.errors import BodyTooLarge, Detail, InvalidInput, RequestError
from handinger.settings import Settings
from handinger.web.fetching import Fetcher, TooLarge
from handinger.web.guard import WebError
from handinger.web.urls import WebUrl


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A file that is still where its URL says."""

    filename: str | None
    media_type: str | None
    url: WebUrl
    number: int  # its place in `files`

    @property
    def name(self) -> str:
        """As it was called, else as its URL ends."""
        path = self.url.target.partition("?")[0]
        return self.filename or unquote(path.rsplit("/", 1)[-1])


@contextlib.asynccontextmanager
async def fetched(
    fetcher: Fetcher, settings: Settings, sent: Sequence[IncomingFile | LinkedFile]
) -> AsyncGenerator[tuple[IncomingFile, ...]]:
    """The files, with the bytes of those that were named. They can be read within the block.

    All of them together have the time of one page and the size of one multipart body. Raises
    InvalidInput and BodyTooLarge, which name the file.
    """
    require_count(settings, len(sent))
    files: list[IncomingFile] = []
    left = settings.max_multipart_bytes
    end = asyncio.get_running_loop().time() + settings.fetch_timeout_s
    async with contextlib.AsyncExitStack() as stack:
        for file in sent:
            if isinstance(file, LinkedFile):
                incoming, size = await _fetch(stack, fetcher, settings, file, left=left, end=end)
                files.append(incoming)
                left -= size
            else:
                files.append(file)
        yield tuple(files)


async def _fetch(
    stack: contextlib.AsyncExitStack,
    fetcher: Fetcher,
    settings: Settings,
    file: LinkedFile,
    *,
    left: int,
    end: float,
) -> tuple[IncomingFile, int]:
    limit = min(left, settings.max_file_bytes)
    try:
        async with asyncio.timeout_at(end):
            found = await stack.enter_async_context(fetcher.fetch(file.url, max_bytes=limit))
    except TooLarge as error:
        raise _too_large(settings, file, limit) from error
    except WebError as error:
        raise _not_fetched(file, str(error)) from error
    except TimeoutError as error:
        raise _not_fetched(
            file,
            f"the files of the instruction took longer than {settings.fetch_timeout_s:g} seconds "
            "(HANDINGER_FETCH_TIMEOUT_S).",
        ) from error
    return IncomingFile(file.name, file.media_type or found.media_type, found.body), found.size


def _too_large(settings: Settings, file: LinkedFile, limit: int) -> RequestError:
    if limit == settings.max_file_bytes:
        return BodyTooLarge(
            f"The file {file.name[:200]!r} at {str(file.url)!r} has more than the {limit} bytes "
            "that a file may have (HANDINGER_MAX_FILE_BYTES).",
            code="file_too_large",
        )
    return BodyTooLarge(
        f"With the file {file.name[:200]!r} at {str(file.url)!r}, the files that are to be fetched "
        f"have more than {settings.max_multipart_bytes} bytes (HANDINGER_MAX_MULTIPART_BYTES)."
    )


def _not_fetched(file: LinkedFile, reason: str) -> InvalidInput:
    message = f"The file {file.name[:200]!r} cannot be fetched: {reason}"
    return InvalidInput(message, details=[Detail(("files", file.number, "url"), message)])
