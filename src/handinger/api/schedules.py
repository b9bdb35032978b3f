"""`/api/workers/{workerId}/schedules`: turns that start by themselves."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from handinger import workers
from handinger.api.delivery import CountedAnswer
from handinger.api.deps import (
    CallerDep,
    ScheduleIdDep,
    ServicesDep,
    WorkerIdDep,
    read_json,
    request_identity,
)
from handinger.api.description import body_of
from handinger.api.models.errors import Error
from handinger.api.models.schedules import (
    ScheduleCancelled,
    ScheduleChange,
    ScheduleCreate,
    ScheduleDetails,
    ScheduleList,
    WorkerSchedule,
)
from handinger.schedules import changing, records
from handinger.schedules.changing import Change, NewSchedule

router = APIRouter(prefix="/api/workers/{workerId}/schedules", tags=["schedules"])


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Error} for status in (401, 404, *statuses, 422, 429, 503)}


@router.get(
    "",
    operation_id="listSchedules",
    summary="List a worker's schedules",
    response_model=ScheduleList,
    responses=_errors(),
)
async def list_schedules(
    services: ServicesDep, caller: CallerDep, worker_id: WorkerIdDep
) -> Response:
    """Those that have something to do yet, soonest first."""
    found = await records.pending(
        services.database, services.clock, caller.organization_id, worker_id
    )
    return _answer({"schedules": found, "workerId": worker_id})


@router.post(
    "",
    operation_id="createSchedule",
    summary="Give a worker an instruction for later, or again and again",
    response_model=WorkerSchedule,
    responses=_errors(400, 409, 413, 415),
    openapi_extra=body_of("ScheduleCreate"),
)
async def create_schedule(
    request: Request, services: ServicesDep, caller: CallerDep, worker_id: WorkerIdDep
) -> Response:
    """Each firing is a turn with this input and budget."""
    body, sent = await read_json(request, ScheduleCreate)
    schedule_id, schedule = await changing.create(
        services.database,
        services.settings,
        services.clock,
        caller.organization_id,
        NewSchedule(worker_id, body.input, body.budget, body.when, created_by="api"),
        request=request_identity(request, caller, sent),
    )
    return CountedAnswer(workers.dump(schedule), services.deliveries, schedule_id)


@router.get(
    "/{scheduleId}",
    operation_id="getSchedule",
    summary="Read a schedule, with its last firings and its next times",
    response_model=ScheduleDetails,
    responses=_errors(),
)
async def get_schedule(
    services: ServicesDep, caller: CallerDep, worker_id: WorkerIdDep, schedule_id: ScheduleIdDep
) -> Response:
    """One that has fired for good can be read for another 30 days."""
    details = await records.view(
        services.database, services.clock, caller.organization_id, worker_id, schedule_id
    )
    return _answer(details)


@router.patch(
    "/{scheduleId}",
    operation_id="changeSchedule",
    summary="Change, pause or resume a schedule",
    response_model=WorkerSchedule,
    responses=_errors(400, 413, 415),
    openapi_extra=body_of("ScheduleChange"),
)
async def change_schedule(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    worker_id: WorkerIdDep,
    schedule_id: ScheduleIdDep,
) -> Response:
    """What is left out stays as it is."""
    body, _ = await read_json(request, ScheduleChange)
    schedule = await changing.change(
        services.database,
        services.clock,
        caller.organization_id,
        worker_id,
        schedule_id,
        Change(input=body.input, budget=body.budget, when=body.when, paused=body.paused),
    )
    return _answer(schedule)


@router.delete(
    "/{scheduleId}",
    operation_id="cancelSchedule",
    summary="Cancel a schedule",
    response_model=ScheduleCancelled,
    responses=_errors(),
)
async def cancel_schedule(
    services: ServicesDep, caller: CallerDep, worker_id: WorkerIdDep, schedule_id: ScheduleIdDep
) -> ScheduleCancelled:
    """It does not fire again; a turn that it started goes on."""
    await changing.cancel(
        services.database, services.clock, caller.organization_id, worker_id, schedule_id
    )
    return ScheduleCancelled(cancelled=True)


def _answer(body: dict[str, Any]) -> Response:
    return Response(workers.dump(body), media_type="application/json")
