"""`/api/workers/{workerId}/files/...`: the bytes of workspace files (RFC 9110)."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response, StreamingResponse

from handinger import files
from handinger.api.deps import CallerDep, ServicesDep, WorkerIdDep
from handinger.api.errors import error_response
from handinger.api.models.errors import Error
from handinger.errors import NotFound
from handinger.files import File, FileError


class _FilePathConvertor(PathConvertor):
    """A file's name may have line breaks in it, which the framework's own `path` does not take."""

    regex = "(?s:.*)"


register_url_convertor("file", _FilePathConvertor())

router = APIRouter(prefix="/api/workers/{workerId}/files", tags=["files"])

# Shown in place by a browser; everything else is downloaded. HTML and SVG could run scripts.
_INLINE = re.compile(r"image/(?!svg)[\w.+-]+|application/pdf|text/plain")
# No file is so large that it needs more digits; a range that cannot be read is ignored.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@router.get(
    "/{filePath:file}",
    operation_id="getWorkerFile",
    summary="Read a file",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The bytes."},
        206: {"description": "The range that was asked for."},
        304: {"description": "Unchanged."},
        412: {"model": Error},
        416: {"model": Error},
        **{status: {"model": Error} for status in (401, 404, 422, 429, 503)},
    },
)
@router.head("/{filePath:file}", include_in_schema=False)
async def get_file(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    filePath: str,  # The wire's name.
) -> Response:
    """Any regular file of the workspace, published or not."""
    file = await _find(services, caller, worker_id, filePath)
    headers = _headers(file)
    unmet = _precondition(request, file)
    if unmet == 304:
        return Response(status_code=304, headers=_cache_headers(file))
    if unmet == 412:
        return error_response(412, "The file is not the one you expect.", "precondition_failed")
    part = _range(request, file)
    if part is None:
        return error_response(
            416,
            f"The file has {file.size} bytes; the range lies outside.",
            "range_not_satisfiable",
            headers={"Content-Range": f"bytes */{file.size}"},
        )
    headers["Content-Length"] = str(part.end - part.start)
    if part.is_partial:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{file.size}"
    status = 206 if part.is_partial else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    content = services.blobs.stream(worker_id, file.sha256, start=part.start, end=part.end)
    return StreamingResponse(content, status, headers=headers)


async def _find(
    services: ServicesDep, caller: CallerDep, worker_id: WorkerIdDep, path: str
) -> File:
    missing = NotFound(f"There is no file {path[:200]!r} in this worker's workspace.")
    try:
        normal = files.normalize(path)
    except FileError as error:
        raise missing from error
    if normal != path:
        raise missing
    async with services.database.tenant(caller.organization_id).statements() as sql:
        file = await files.find(sql, worker_id, path)
    if file is None:
        raise missing
    return file


def _cache_headers(file: File) -> dict[str, str]:
    return {
        "ETag": f'"{file.sha256}"',
        "Last-Modified": format_datetime(_seconds(file.updated_at), usegmt=True),
        "Cache-Control": "private, no-cache",
    }


def _headers(file: File) -> dict[str, str]:
    name = file.path.rsplit("/", 1)[-1]
    disposition = "inline" if _INLINE.fullmatch(file.media_type) else "attachment"
    content_type = file.media_type
    if content_type.startswith("text/"):
        content_type += "; charset=utf-8"
    return {
        **_cache_headers(file),
        "Content-Type": content_type,
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(name, safe='')}",
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }


def _seconds(moment: datetime) -> datetime:
    """HTTP dates have no fractions."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _precondition(request: Request, file: File) -> int | None:
    """304 or 412 if the request is conditional and not met; RFC 9110, section 13.2.2."""
    if_match = request.headers.get("if-match")
    if if_match is not None:
        if not _names(if_match, file):
            return 412
    else:
        unmodified_since = _date(request.headers.get("if-unmodified-since"))
        if unmodified_since is not None and _seconds(file.updated_at) > unmodified_since:
            return 412
    if_none_match = request.headers.get("if-none-match")
    if if_none_match is not None:
        return 304 if _names(if_none_match, file, weakly=True) else None
    modified_since = _date(request.headers.get("if-modified-since"))
    if modified_since is not None and _seconds(file.updated_at) <= modified_since:
        return 304
    return None


def _names(header: str, file: File, *, weakly: bool = False) -> bool:
    tags = [tag.strip() for tag in header.split(",")]
    if weakly:
        tags = [tag.removeprefix("W/") for tag in tags]
    return "*" in tags or f'"{file.sha256}"' in tags


def _date(header: str | None) -> datetime | None:
    if header is None:
        return None
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None  # RFC 9110 wants an invalid date ignored.
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Part:
    start: int
    end: int  # exclusive
    is_partial: bool


def _range(request: Request, file: File) -> _Part | None:
    """The bytes to send; None if the range lies outside. RFC 9110, section 14.2.

    Several ranges, and a range whose `If-Range` names another version, get the whole file. Only a
    GET has ranges.
    """
    whole = _Part(0, file.size, is_partial=False)
    if request.method != "GET":
        return whole
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or match.groups() == ("", "") or not _range_applies(request, file):
        return whole
    first, last = match.groups()
    if not first:
        start, end = max(0, file.size - int(last)), file.size
    else:
        start, end = int(first), min(file.size, int(last) + 1 if last else file.size)
    if last and first and int(last) < int(first):
        return whole
    return _Part(start, end, is_partial=True) if start < end else None


def _range_applies(request: Request, file: File) -> bool:
    if_range = request.headers.get("if-range")
    if if_range is None:
        return True
    if if_range.startswith('"'):
        return if_range == f'"{file.sha256}"'
    return _date(if_range) == _seconds(file.updated_at)
