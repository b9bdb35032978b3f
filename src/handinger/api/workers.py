"""`/api/workers`: create, continue, watch, cancel, delete."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from handinger import attachments, ids, workers
from handinger.api import answers, links, sse, uploads
from handinger.api.deps import (
    CallerDep,
    ServicesDep,
    WorkerIdDep,
    read_json,
    request_identity,
)
from handinger.api.description import body_of
from handinger.api.models.errors import Error
from handinger.api.models.instructions import WorkerCancel, WorkerContinue, WorkerCreate
from handinger.api.models.workers import Deleted, Worker, WorkerPage, WorkerStatus
from handinger.api.pages import PageDep
from handinger.attachments import Attachment
from handinger.errors import InvalidInput, Unavailable
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.story import Place
from handinger.turns import accept, cancelling, reading
from handinger.turns.accept import Accepted, Instruction, NewTurn, RequestIdentity

router = APIRouter(prefix="/api/workers", tags=["workers"])

Messages = Annotated[
    bool, Query(description="False leaves the conversation out, for long ones.", alias="messages")
]
StreamQuery = Annotated[bool, Query(description="As `stream` in the body.", alias="stream")]
LastEventId = Annotated[
    str | None, Header(description="Go on after this event.", alias="Last-Event-ID")
]

_STREAM = {
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
    "description": "The worker; or, with streaming, events of the AI SDK's UI message stream.",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Error} for status in (401, *statuses, 422, 429, 503)}


@router.post(
    "",
    operation_id="createWorker",
    summary="Create a worker and run its first turn",
    response_model=Worker,
    responses={
        200: _STREAM,
        202: {"model": Worker, "description": "With `Prefer: respond-async`."},
        **_errors(400, 402, 413, 415, 422),
    },
    openapi_extra=body_of("WorkerCreate", with_files=True),
)
async def create_worker(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    messages: Messages = True,
    stream: StreamQuery = False,
) -> Response:
    """Answers when the turn ends, or streams it. The turn goes on if the client hangs up."""
    async with uploads.read_instruction(request, WorkerCreate) as sent:
        body = sent.body
        size = len(workers.dump(body.metadata).encode())
        limit = services.settings.max_metadata_bytes
        if size > limit:
            raise InvalidInput.of(
                f"has {size} bytes; {limit} may be sent (HANDINGER_MAX_METADATA_BYTES)", "metadata"
            )
        worker_id = WorkerId(ids.new("wrk"))
        turn, identity = await _prepare(request, services, caller, worker_id, sent)

    async def create(turn: NewTurn) -> Accepted:
        async with services.seat(caller.organization_id) as seat:
            return await accept.create_worker(
                services.database,
                services.settings,
                caller.organization_id,
                turn,
                metadata=body.metadata,
                request=identity,
                seat=seat,
                claims=services.claims,
            )

    return await answers.run_turn(
        request,
        services,
        caller.organization_id,
        turn=turn,
        stream=stream or body.stream,
        with_messages=messages,
        accepting=create,
    )


@router.get(
    "",
    operation_id="listWorkers",
    summary="List workers",
    response_model=WorkerPage,
    responses=_errors(422),
)
async def list_workers(
    services: ServicesDep,
    caller: CallerDep,
    wanted: PageDep,
    status: Annotated[WorkerStatus | None, Query(description="Only these.")] = None,
) -> Response:
    """Newest first, without their messages."""
    found = await workers.page(
        services.database,
        caller.organization_id,
        limit=wanted.look_for,
        before=wanted.before("wrk"),
        status=status,
    )
    page, following = wanted.cut(found)
    told = ",".join(workers.wire(worker, services.settings) for worker in page)
    body = f'{{"workers":[{told}],"nextCursor":{workers.dump(following)}}}'
    return Response(body, media_type="application/json")


@router.get(
    "/{workerId}",
    operation_id="getWorker",
    summary="Read a worker",
    response_model=Worker,
    responses={200: _STREAM, **_errors(404, 422)},
)
async def get_worker(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    stream: Annotated[bool, Query(description="As the stream endpoint.")] = False,
    messages: Messages = True,
    last_event_id: LastEventId = None,
) -> Response:
    """The worker as of now."""
    if stream or "text/event-stream" in request.headers.get("accept", ""):
        return await stream_worker(services, caller, worker_id, messages, last_event_id)
    view = await workers.view(
        services.database, caller.organization_id, worker_id, with_messages=messages
    )
    return Response(workers.wire(view, services.settings), media_type="application/json")


@router.post(
    "/{workerId}",
    operation_id="continueWorker",
    summary="Give a worker its next instruction",
    response_model=Worker,
    responses={
        200: _STREAM,
        202: {"model": Worker, "description": "With `Prefer: respond-async`."},
        **_errors(400, 402, 404, 409, 413, 415, 422),
    },
    openapi_extra=body_of("WorkerContinue", with_files=True),
)
async def continue_worker(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    messages: Messages = True,
    stream: StreamQuery = False,
) -> Response:
    """Turns of one worker run one at a time; this one's answer comes when it has ended."""
    async with uploads.read_instruction(request, WorkerContinue) as sent:
        body = sent.body
        if sent.files:
            async with services.database.tenant(caller.organization_id).statements() as sql:
                await workers.require(sql, worker_id)
        turn, identity = await _prepare(request, services, caller, worker_id, sent)
    return await answers.run_turn(
        request,
        services,
        caller.organization_id,
        turn=turn,
        stream=stream or body.stream,
        with_messages=messages,
        accepting=lambda turn: accept.continue_worker(
            services.database,
            services.settings,
            caller.organization_id,
            turn,
            request=identity,
        ),
    )


async def _prepare(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerId,
    sent: uploads.Sent[Any],
) -> tuple[NewTurn, RequestIdentity]:
    """The turn that a request asks for, its files stored, and what makes the request unique.

    A full queue takes no new turn, but a request that has its turn already is answered, and nothing
    is fetched for it again. Raises Unavailable.
    """
    is_full = services.queue_is_full()
    identity = None if sent.is_multipart else request_identity(request, caller, sent.fields)
    if identity is not None and (is_full or sent.has_links):
        identity = await _recognized(services, caller, identity, must_be=is_full)
    attached: tuple[Attachment, ...] = ()
    if identity is None or identity.made is None:
        async with links.fetched(services.fetcher, services.settings, sent.files) as incoming:
            attached = await attachments.attach(
                services.database,
                services.blobs,
                services.settings,
                caller.organization_id,
                worker_id,
                incoming,
            )
    if identity is None:
        # What a multipart body says is known once its files are read.
        identity = request_identity(request, caller, sent.identity(attached))
        if is_full:
            identity = await _recognized(services, caller, identity, must_be=True)
    instruction = Instruction(sent.body.input, sent.body.budget, "api", attached)
    return NewTurn.of(worker_id, instruction), identity


async def _recognized(
    services: ServicesDep, caller: CallerDep, identity: RequestIdentity, *, must_be: bool
) -> RequestIdentity:
    """With the turn that the request has made already, if it has. Raises Unavailable."""
    made = await accept.find_joined(services.database, caller.organization_id, identity)
    if made is None and must_be:
        raise Unavailable(
            "Too many turns wait on this server (HANDINGER_MAX_QUEUED_TURNS); try again later.",
            retry_after_s=5,
        )
    return replace(identity, made=made)


@router.get(
    "/{workerId}/stream",
    operation_id="streamWorker",
    summary="Watch a worker",
    response_class=Response,
    responses={
        200: _STREAM,
        204: {"description": "With `messages=false`: there is nothing to tell."},
        **_errors(404, 422),
    },
)
async def stream_worker(
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    messages: Messages = True,
    last_event_id: LastEventId = None,
) -> Response:
    """What has been, then what happens, until the worker is idle; resumes after Last-Event-ID."""
    tellings = await reading.tellings(services.database, caller.organization_id, worker_id)
    reader = sse.Reader(services, caller.organization_id, worker_id, messages)
    place = Place.parse(last_event_id) if last_event_id else None
    headers: dict[str, str] = {"X-Handinger-Worker-Id": worker_id}
    if messages:
        return sse.response(sse.worker_events(reader, tellings, place), headers)
    telling, place = await sse.place_to_resume(reader, tellings, place)
    if telling is None:
        return Response(status_code=204, headers=headers)
    return sse.response(sse.current_turn_events(reader, telling, place), headers)


@router.post(
    "/{workerId}/cancel",
    operation_id="cancelWorker",
    summary="Stop a worker's turns",
    response_model=Worker,
    responses=_errors(400, 404, 413, 415, 422),
    openapi_extra=body_of("WorkerCancel", required=False),
)
async def cancel_worker(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    messages: Messages = True,
) -> Response:
    """Stops the running turn and drops the waiting ones; answers once it has stopped."""
    body, sent = await read_json(request, WorkerCancel)
    turn_id = None
    if body.turnId is not None:
        if not ids.is_valid("trn", body.turnId):
            raise reading.not_found(body.turnId)
        turn_id = TurnId(body.turnId)
    identity = request_identity(request, caller, sent)
    stopped = await stop_turns(
        services,
        caller.organization_id,
        worker_id,
        turn_id=turn_id,
        # Without a key nothing tells a repeated cancel from a second one.
        request=identity if identity.idempotency_key else None,
    )
    view = await workers.view(
        services.database,
        caller.organization_id,
        worker_id,
        with_messages=messages,
    )
    headers: dict[str, str] = {"X-Handinger-Worker-Id": worker_id}
    meant = turn_id or stopped or view.turn_id
    if meant is not None:
        headers["X-Handinger-Turn-Id"] = meant
    return Response(
        workers.wire(view, services.settings), headers=headers, media_type="application/json"
    )


@router.delete(
    "/{workerId}",
    operation_id="deleteWorker",
    summary="Delete a worker",
    response_model=Deleted,
    responses=_errors(404),
)
async def delete_worker(
    services: ServicesDep, caller: CallerDep, worker_id: WorkerIdDep
) -> Deleted:
    """Stops its turns, then removes its rows, files and jobs for good."""
    deleted = False
    while not deleted:  # Somebody may give it another instruction meanwhile.
        await stop_turns(services, caller.organization_id, worker_id)
        deleted = await workers.delete(
            services.database, services.blobs, caller.organization_id, worker_id
        )
    return Deleted(deleted=True)


async def stop_turns(
    services: ServicesDep,
    organization_id: OrganizationId,
    worker_id: WorkerId,
    *,
    turn_id: TurnId | None = None,
    request: RequestIdentity | None = None,
) -> TurnId | None:
    """Cancel, and wait until what ran has stopped; that turn, if one ran.

    Raises NotFound, IdempotencyKeyReused.
    """
    stopping = await cancelling.cancel(
        services.database, organization_id, worker_id, turn_id=turn_id, request=request
    )
    if stopping is None:
        return None
    tellings = await reading.tellings(services.database, organization_id, worker_id)
    telling = next(telling for telling in tellings if telling.id == stopping)
    async with services.hub.follow(telling.story(), reads=False) as live:
        await live.wait_for_end()
    return stopping
