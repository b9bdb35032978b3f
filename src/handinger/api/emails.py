"""`/api/workers/{workerId}/email` and `/emails`: a worker's address, and its mails."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path
from starlette.responses import Response, StreamingResponse

from handinger import ids, workers
from handinger.api.deps import CallerDep, ServicesDep, WorkerIdDep
from handinger.api.models.emails import EmailPage
from handinger.api.models.errors import Error
from handinger.api.pages import PageDep
from handinger.email import addresses, listing
from handinger.errors import NotFound

router = APIRouter(prefix="/api/workers/{workerId}", tags=["email"])
files_router = APIRouter(prefix="/api/email-files", tags=["email"])


@router.get(
    "/email",
    operation_id="getWorkerEmail",
    summary="Read a worker's mail address",
    response_model=str,
    responses={status: {"model": Error} for status in (401, 404, 422, 429, 503)},
)
async def get_email(services: ServicesDep, caller: CallerDep, worker_id: WorkerIdDep) -> Response:
    """Mail to it is an instruction, if its sender is allowed; the answer goes back by mail."""
    address = await addresses.of_worker(
        services.database, services.settings, caller.organization_id, worker_id
    )
    return Response(workers.dump(str(address)), media_type="application/json")


@router.get(
    "/emails",
    operation_id="listEmails",
    summary="List a worker's mails",
    response_model=EmailPage,
    responses={status: {"model": Error} for status in (401, 404, 422, 429, 503)},
)
async def list_emails(
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    wanted: PageDep,
) -> Response:
    """What came in and what went out, newest first; also what started no turn."""
    found = await listing.page(
        services.database,
        caller.organization_id,
        worker_id,
        limit=wanted.look_for,
        before=wanted.before("eml"),
    )
    page, following = wanted.cut(found)
    body = {"emails": [email.wire() for email in page], "nextCursor": following}
    return Response(workers.dump(body), media_type="application/json")


@router.get(
    "/emails/{emailId}",
    operation_id="getEmail",
    summary="Read a mail that came in",
    response_class=Response,
    responses={
        200: {"content": {"message/rfc822": {}}, "description": "The bytes, as they came in."},
        **{status: {"model": Error} for status in (401, 404, 422, 429, 503)},
    },
)
async def get_email_original(
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    email_id: Annotated[str, Path(alias="emailId", description="Its id.")],
) -> Response:
    """The original, untouched."""
    if not ids.is_valid("eml", email_id):
        raise NotFound(f"No mail {email_id[:80]!r} has come in for this worker.")
    original = await listing.original(
        services.database, caller.organization_id, worker_id, email_id
    )
    content = services.blobs.stream(worker_id, original.sha256, start=0, end=original.size)
    headers = {
        "Content-Type": "message/rfc822",
        "Content-Length": str(original.size),
        "Content-Disposition": f'attachment; filename="{email_id}.eml"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(content, headers=headers)


@files_router.get(
    "/{token}/{number}",
    operation_id="getEmailFile",
    summary="Fetch a file that was too large for a mail",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The bytes."},
        **{status: {"model": Error} for status in (404, 422)},
    },
)
async def get_email_file(
    services: ServicesDep,
    token: Annotated[str, Path(description="Of the mail.", max_length=100)],
    number: Annotated[int, Path(description="Of the file.", ge=0, le=1000)],
) -> Response:
    """As it was when the mail was written. Needs no key: the mail has the link."""
    worker_id, file = await listing.sent_file(services.database, token, number)
    content = services.blobs.stream(worker_id, file.sha256, start=0, end=file.size)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(file.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "Cache-Control": "private, no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(content, headers=headers)
