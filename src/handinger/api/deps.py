"""What every route needs: the process's services, the caller, and a body that was checked."""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pydantic import BaseModel, ValidationError

from handinger import ids, keys, workers
from handinger.api import json_text
from handinger.engine import Seat
from handinger.errors import (
    BodyTooLarge,
    Detail,
    InvalidInput,
    RateLimited,
    UnsupportedMediaType,
)
from handinger.ids import OrganizationId, ScheduleId, TurnId, WorkerId
from handinger.keys import Caller
from handinger.live import Hub
from handinger.schedules import records as schedules
from handinger.schedules.clock import Clock, database_clock
from handinger.settings import RateLimit, Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database
from handinger.turns import reading
from handinger.turns.accept import RequestIdentity
from handinger.turns.claiming import Claims
from handinger.turns.deliveries import Deliveries
from handinger.web.fetching import Fetcher

if TYPE_CHECKING:
    from handinger.email.inbound import Inbound

Body = TypeVar("Body", bound=BaseModel)

# A client that sends too much is heard out this far, so that it reads our answer and not a reset.
_DISCARD_FACTOR = 4


class RateLimiter:
    """A moving window per key, in this process."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._item = RateLimitItemPerSecond(limit.requests, limit.window_s)
        self._strategy = MovingWindowRateLimiter(MemoryStorage())

    async def require(self, caller: Caller) -> None:
        """Count one request. Raises RateLimited."""
        if await self._strategy.hit(self._item, caller.key_id):
            return
        window = await self._strategy.get_window_stats(self._item, caller.key_id)
        wait_s = max(1, math.ceil(window.reset_time - time.time()))
        raise RateLimited(
            f"This key may send {self._limit.requests} requests in {self._limit.window_s} s; "
            f"try again in {wait_s} s.",
            retry_after_s=wait_s,
            limit=self._limit.requests,
            window_s=self._limit.window_s,
            remaining=window.remaining,
        )


@dataclass(slots=True)
class Services:
    """What the routes share, once per process."""

    settings: Settings
    database: Database
    blobs: Blobs
    fetcher: Fetcher
    hub: Hub
    deliveries: Deliveries
    inbound: Callable[[], "Inbound"]
    engine_runs: Callable[[], bool]
    seat: Callable[[OrganizationId], AbstractAsyncContextManager[Seat | None]]
    claims: Claims
    queue_is_full: Callable[[], bool]
    rate_limiter: RateLimiter | None
    clock: Clock = database_clock
    # Set when the server shuts down: no new work, and open answers end.
    draining: asyncio.Event = field(default_factory=asyncio.Event)


def services_of(request: Request) -> Services:
    """The services of the process that answers."""
    return cast(Services, request.app.state.services)


# Dependencies are asynchronous, because each that is not is called in a thread.


async def services(request: Request) -> Services:
    """This process's services."""
    return services_of(request)


async def authenticated(request: Request) -> Caller:
    """Whose request this is. Raises Unauthorized, RateLimited."""
    own = services_of(request)
    caller = await keys.authenticate(own.database, request.headers.get("authorization"))
    if own.rate_limiter is not None:
        await own.rate_limiter.require(caller)
    return caller


ServicesDep = Annotated[Services, Depends(services)]
CallerDep = Annotated[Caller, Depends(authenticated)]


async def worker_id(workerId: str) -> WorkerId:  # The wire's name.
    """The path's worker id. Raises NotFound for what can be none."""
    if not ids.is_valid("wrk", workerId):
        raise workers.not_found(workerId)
    return WorkerId(workerId)


async def turn_id(turnId: str) -> TurnId:  # The wire's name.
    """The path's turn id. Raises NotFound for what can be none."""
    if not ids.is_valid("trn", turnId):
        raise reading.not_found(turnId)
    return TurnId(turnId)


async def schedule_id(scheduleId: str) -> ScheduleId:  # The wire's name.
    """The path's schedule id. Raises NotFound for what can be none."""
    if not ids.is_valid("sch", scheduleId):
        raise schedules.not_found(scheduleId)
    return ScheduleId(scheduleId)


WorkerIdDep = Annotated[WorkerId, Depends(worker_id)]
TurnIdDep = Annotated[TurnId, Depends(turn_id)]
ScheduleIdDep = Annotated[ScheduleId, Depends(schedule_id)]


async def body_stream(request: Request, limit: int, *, variable: str) -> AsyncGenerator[bytes]:
    """The body in pieces. Raises BodyTooLarge."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            yield chunk
        elif size > limit * _DISCARD_FACTOR:
            break
    if size > limit:
        raise BodyTooLarge(f"The body is larger than {limit} bytes ({variable}).")


async def read_json(request: Request, model: type[Body]) -> tuple[Body, dict[str, Any]]:
    """The body, checked, and what it is known by. An empty body is an empty object.

    Raises UnsupportedMediaType, BodyTooLarge, MalformedRequest, InvalidInput.
    """
    content_type = request.headers.get("content-type", "application/json").split(";")[0].strip()
    media_type = content_type.lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            f"This endpoint reads JSON, not {content_type[:80]}; "
            "send Content-Type: application/json."
        )
    settings = services_of(request).settings
    raw = bytearray()
    async for chunk in body_stream(
        request, settings.max_json_bytes, variable="HANDINGER_MAX_JSON_BYTES"
    ):
        raw += chunk
    sent: object = {}
    if raw and not raw.isspace():
        sent = await json_text.read(raw, max_values=settings.max_json_values)
    if not isinstance(sent, dict):
        raise InvalidInput(
            "The body must be a JSON object.", details=[Detail((), "must be a JSON object")]
        )
    fields = cast("dict[str, Any]", sent)
    body = check_body(model, fields)
    return body, await json_text.shortened(fields) if len(raw) > json_text.PIECE else fields


def check_body(model: type[Body], fields: dict[str, Any]) -> Body:
    """What was sent, as the model has it. Raises InvalidInput."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> InvalidInput:
    details = tuple(
        Detail(path=_path(item["loc"]), message=item["msg"].removeprefix("Value error, "))
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    )
    first = details[0]
    where = ".".join(str(part) for part in first.path) or "body"
    return InvalidInput(f"The value of {where} is not valid: {first.message}.", details=details)


def _path(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Where the value stands in the request: without the type that was chosen for a `when`."""
    if location[:1] == ("when",) and len(location) > 2:
        return (location[0], *location[2:])
    return location


def request_identity(request: Request, caller: Caller, sent: dict[str, Any]) -> RequestIdentity:
    """What makes this request the same as another. Raises InvalidInput for a bad key."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise InvalidInput.of("must have 1 to 255 characters", "Idempotency-Key")
    canonical = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    text = f"{request.method}\n{request.url.path}\n{canonical}"
    retries = request.headers.get("x-stainless-retry-count", "")
    return RequestIdentity(
        key_id=caller.key_id,
        fingerprint=hashlib.sha256(text.encode()).digest(),
        idempotency_key=key,
        is_retry=retries.isdecimal() and retries.strip("0") != "",
    )
