"""Every error as one JSON shape; the only place where errors meet HTTP."""

import json
import logging
from collections.abc import Mapping

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from handinger.errors import Conflict, Detail, RateLimited, RequestError

logger = logging.getLogger(__name__)

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
_HTTP_SENTENCES = {
    404: "There is nothing at this path; see /docs for the API.",
    405: "This path does not take this method; see the Allow header.",
}


def error_response(
    status: int,
    message: str,
    code: str,
    *,
    details: tuple[Detail, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The wire's error."""
    body: dict[str, object] = {"error": message, "code": code}
    if details:
        body["details"] = [{"path": list(d.path), "message": d.message} for d in details]
    return Response(
        json.dumps(body), status, headers=dict(headers or {}), media_type="application/json"
    )


def request_error_response(error: RequestError) -> Response:
    """The answer to a request that cannot be served."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Conflict):
        # Clients retry a 409 by themselves unless they are told that it is no use.
        headers["x-should-retry"] = "false"
    if isinstance(error, RateLimited):
        # draft-ietf-httpapi-ratelimit-headers-10
        headers["RateLimit-Policy"] = f'"default";q={error.limit};w={error.window_s}'
        headers["RateLimit"] = f'"default";r={error.remaining};t={error.retry_after_s}'
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return error_response(
        error.status, error.message, error.code, details=error.details, headers=headers
    )


def install(app: FastAPI) -> None:
    """Map the error tree, and what the framework raises itself, to the wire."""

    @app.exception_handler(RequestError)
    async def _request_error(_request: Request, error: RequestError) -> Response:
        return request_error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> Response:
        details = tuple(
            Detail(path=tuple(item["loc"][1:]), message=item["msg"]) for item in error.errors()
        )
        first = details[0]
        where = ".".join(str(part) for part in first.path)
        message = f"The parameter {where} is not valid: {first.message}."
        return error_response(422, message, "invalid_input", details=details)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> Response:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        message = _HTTP_SENTENCES.get(error.status_code, error.detail)
        return error_response(error.status_code, message, code, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
        # Nobody hears this; but it is no failure of ours, and nothing was made.
        return error_response(400, "The body was not sent in full.", "incomplete_body")

    @app.exception_handler(psycopg.OperationalError)
    async def _database(_request: Request, error: psycopg.OperationalError) -> Response:
        logger.error("The database does not answer: %s", error)
        return error_response(
            503,
            "The database does not answer at this moment; try again.",
            "unavailable",
            headers={"Retry-After": "2"},
        )

    @app.exception_handler(Exception)
    async def _unexpected(_request: Request, _error: Exception) -> Response:
        # The framework logs the traceback itself.
        return error_response(
            500,
            "The server failed; its log says why, under this answer's X-Request-Id.",
            "internal_error",
        )
