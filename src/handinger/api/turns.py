"""`/api/workers/{workerId}/turns`: single turns and their list."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from handinger import workers
from handinger.api.deps import CallerDep, ServicesDep, TurnIdDep, WorkerIdDep
from handinger.api.models import Error, Turn, TurnPage, WorkerStatus
from handinger.api.workers import read_cursor, write_cursor
from handinger.turns import reading

router = APIRouter(prefix="/api/workers/{workerId}/turns", tags=["turns"])


@router.get(
    "",
    operation_id="listTurns",
    summary="List a worker's turns",
    response_model=TurnPage,
    responses={status: {"model": Error} for status in (401, 404, 422, 429, 503)},
)
async def list_turns(
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(description="`nextCursor` of the page before.")] = None,
    status: Annotated[WorkerStatus | None, Query(description="Only these.")] = None,
) -> Response:
    """Newest first."""
    found = await reading.page(
        services.database,
        caller.organization_id,
        worker_id,
        limit=limit + 1,
        before=read_cursor(cursor, "trn"),
        status=status,
    )
    following = write_cursor(found[limit - 1].id) if len(found) > limit else None
    body = {"turns": [turn.wire() for turn in found[:limit]], "nextCursor": following}
    return Response(workers.dump(body), media_type="application/json")


@router.get(
    "/{turnId}",
    operation_id="getTurn",
    summary="Read a turn",
    response_model=Turn,
    responses={status: {"model": Error} for status in (401, 404, 422, 429, 503)},
)
async def get_turn(
    services: ServicesDep, caller: CallerDep, worker_id: WorkerIdDep, turn_id: TurnIdDep
) -> Response:
    """One turn as of now."""
    turn = await reading.view(services.database, caller.organization_id, worker_id, turn_id)
    return Response(workers.dump(turn.wire()), media_type="application/json")
