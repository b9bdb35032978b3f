"""`/healthz`, `/readyz` and `/metrics`: for whoever watches the server; no key needed."""

import asyncio
import hmac

import psycopg
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from handinger import metrics
from handinger.api.deps import Services, ServicesDep
from handinger.api.models.errors import Error
from handinger.api.models.health import Health
from handinger.errors import Unauthorized

router = APIRouter(tags=["health"])

_TIMEOUT_S = 5.0


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", operation_id="health", summary="Is it alive?", response_model=Health)
async def health() -> Health:
    """It answers, so it serves."""
    return Health(status="ok", problems={})


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    operation_id="ready",
    summary="Can it work?",
    response_model=Health,
    responses={503: {"model": Health}},
)
async def ready(services: ServicesDep) -> Response:
    """Whether database, engine and storage answer."""
    problems = {
        name: problem
        for name, problem in (
            ("database", await _database_problem(services)),
            ("engine", None if services.engine_runs() else "is not running"),
            ("storage", await _storage_problem(services)),
            ("server", "is shutting down" if services.draining.is_set() else None),
        )
        if problem is not None
    }
    state = Health(status="unavailable" if problems else "ok", problems=problems)
    return JSONResponse(state.model_dump(), 503 if problems else 200)


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="What has it done?",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {}}}, 401: {"model": Error}},
)
async def read_metrics(request: Request, services: ServicesDep) -> Response:
    """What this server process did since its start, as text for Prometheus.

    If the operator has set a token for it, it is asked for as a bearer token.
    """
    token = services.settings.metrics_token
    if token is not None:
        expected = f"Bearer {token.get_secret_value()}"
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise Unauthorized("The metrics need the token in HANDINGER_METRICS_TOKEN.")
    return Response(metrics.text(), media_type=metrics.CONTENT_TYPE)


async def _database_problem(services: Services) -> str | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S), services.database.system().statements() as sql:
            await sql.value("SELECT 1")
    except (psycopg.Error, TimeoutError) as error:
        return f"does not answer: {type(error).__name__}"
    return None


async def _storage_problem(services: Services) -> str | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await services.blobs.check()
    except Exception as error:  # Each kind of store raises its own.
        return f"does not answer: {type(error).__name__}"
    return None
