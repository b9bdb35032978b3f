"""Every error that the SDK raises, as one tree, and how an answer becomes one of them.

HandingerError
├── MissingAPIKeyError             no key was given and HANDINGER_API_KEY is not set
├── InvalidPathError               an id or a file's path that cannot stand in a URL
├── UploadError                    a file that cannot be sent
├── DownloadError                  a file that arrived and cannot be kept
├── APIConnectionError             no complete answer came
│   └── APITimeoutError            ... in time
├── APIResponseError               an answer that is not of this API
└── APIStatusError                 the server said no; each class is one HTTP status
    ├── BadRequestError            400
    ├── AuthenticationError        401
    ├── PaymentRequiredError       402
    ├── PermissionDeniedError      403
    ├── NotFoundError              404
    ├── ConflictError              409
    ├── UnprocessableEntityError   422
    ├── RateLimitError             429
    └── InternalServerError        500 and above

A turn that fails is not among them: it is a `Worker` whose `error` is set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httpx2


class HandingerError(Exception):
    """The root; its message is one sentence for a person."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class MissingAPIKeyError(HandingerError):
    """No API key was given and HANDINGER_API_KEY is not set."""


class InvalidPathError(HandingerError, ValueError):
    """An id or a file's path that a URL would resolve to another endpoint."""


class UploadError(HandingerError):
    """A file that is to be sent is not there, or is none."""


class DownloadError(HandingerError):
    """A file changed while it was fetched, and what it is written to cannot begin anew."""


class APIConnectionError(HandingerError):
    """No complete answer came; whether the server did what was asked is unknown."""


class APITimeoutError(APIConnectionError):
    """The server was silent for longer than `timeout` allows."""


class APIResponseError(HandingerError):
    """The answer is not one of this API, so something else listens there."""


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One invalid value of the request: where it stands and what is wrong with it."""

    path: tuple[str | int, ...] = ()
    message: str = ""


class APIStatusError(HandingerError):
    """The server answered with an error status."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        code: str | None = None,
        details: Sequence[ErrorDetail] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.details = tuple(details)
        self.request_id = request_id


class BadRequestError(APIStatusError):
    """400: the request is malformed."""


class AuthenticationError(APIStatusError):
    """401: the key is missing, malformed or revoked."""


class PaymentRequiredError(APIStatusError):
    """402: the organization is out of credits."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError):
    """404: it does not exist, or belongs to another organization."""


class ConflictError(APIStatusError):
    """409: not in the present state of things, such as too many waiting turns."""


class UnprocessableEntityError(APIStatusError):
    """422: a value is invalid; `details` says which."""


class RateLimitError(APIStatusError):
    """429: too many requests, also after the retries."""


class InternalServerError(APIStatusError):
    """500 and above: the server failed or is not available, also after the retries."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def of_response(response: httpx2.Response) -> APIStatusError:
    """The error that an answer with an error status means; the body must have been read."""
    status_code = response.status_code
    default = InternalServerError if status_code >= 500 else APIStatusError
    body = _read_body(response)
    message = body.get("error")
    code = body.get("code")
    return _BY_STATUS.get(status_code, default)(
        message if isinstance(message, str) else _describe(response),
        status_code=status_code,
        code=code if isinstance(code, str) else None,
        details=_read_details(body.get("details")),
        request_id=response.headers.get("x-request-id"),
    )


def _read_body(response: httpx2.Response) -> dict[str, object]:
    """Proxies answer too, and not in JSON; what they say is not for a terminal."""
    try:
        body: object = json.loads(response.content)
    except ValueError:
        return {}
    return cast("dict[str, object]", body) if isinstance(body, dict) else {}


def _describe(response: httpx2.Response) -> str:
    said = f"The server answered {response.status_code} {response.reason_phrase}".rstrip()
    location = response.headers.get("location")
    return f"{said}, to {location}." if location else f"{said}."


def _read_details(value: object) -> list[ErrorDetail]:
    listed = cast("list[object]", value) if isinstance(value, list) else []
    details: list[ErrorDetail] = []
    for item in listed:
        detail = cast("dict[str, object]", item) if isinstance(item, dict) else {}
        message, path = detail.get("message"), detail.get("path")
        steps = cast("list[object]", path) if isinstance(path, list) else []
        if isinstance(message, str):
            known = tuple(step for step in steps if isinstance(step, (str, int)))
            details.append(ErrorDetail(known, message))
    return details


def of_transport(error: httpx2.RequestError, *, base_url: str) -> APIConnectionError:
    """The error that a request without a complete answer means."""
    if isinstance(error, httpx2.TimeoutException):
        message = f"The server at {base_url} did not answer in time ({type(error).__name__})."
        failure = APITimeoutError(message)
    elif isinstance(error, httpx2.ConnectError):
        failure = APIConnectionError(f"No server can be reached at {base_url}: {error}.")
    else:
        what = str(error) or type(error).__name__
        failure = APIConnectionError(f"The connection to {base_url} failed: {what}.")
    failure.__cause__ = error
    return failure
