"""`/api/workers/{workerId}/turns`: single turns and their list."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from handinger import workers
from handinger.api.deps import CallerDep, ServicesDep, TurnIdDep, WorkerIdDep
from handinger.api.models.errors import Error
from handinger.api.models.workers import Turn, TurnPage, WorkerStatus
from handinger.api.pages import PageDep
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
    wanted: PageDep,
    status: Annotated[WorkerStatus | None, Query(description="Only these.")] = None,
) -> Response:
    """Newest first."""
    found = await reading.page(
        services.database,
        caller.organization_id,
        worker_id,
        limit=wanted.look_for,
        before=wanted.before("trn"),
        status=status,
    )
    page, following = wanted.cut(found)
    body = {"turns": [turn.wire() for turn in page], "nextCursor": following}
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
