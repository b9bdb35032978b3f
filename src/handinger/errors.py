"""Every error that a caller of this server may see, as one tree.

HandingerServerError
├── ConfigurationError        a setting is wrong; the server does not start
├── DatabaseError             PostgreSQL cannot be used as it is
├── Superseded                another process took this turn over; stop at once
└── RequestError              the answer to one request; each class states its HTTP status
    ├── MalformedRequest      400
    ├── Unauthorized          401
    ├── OutOfCredits          402
    │   └── MonthlyCapReached
    ├── NotFound              404
    ├── Conflict              409
    │   ├── WorkerBusy
    │   └── TooManySchedules
    ├── BodyTooLarge          413
    ├── UnsupportedMediaType  415
    ├── InvalidInput          422
    │   ├── IdempotencyKeyReused
    │   └── PriceUnknown
    ├── RateLimited           429
    └── Unavailable           503
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self


class HandingerServerError(Exception):
    """The root; its message is one sentence that says what was wrong and what to do."""


class ConfigurationError(HandingerServerError):
    """A setting is wrong; the message names the variable."""


class DatabaseError(HandingerServerError):
    """PostgreSQL cannot be reached or its schema cannot be used."""


class Superseded(HandingerServerError):
    """Another process executes this turn now, so nothing may be written for it here."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One invalid value of a request: where it stood and what is wrong with it."""

    path: tuple[str | int, ...]
    message: str


class RequestError(HandingerServerError):
    """The answer to a request that cannot be served as asked."""

    status: ClassVar[int]
    default_code: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Sequence[Detail] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.details = tuple(details)
        self.retry_after_s = retry_after_s


class MalformedRequest(RequestError):
    """The body is not JSON, or not UTF-8."""

    status = 400
    default_code = "malformed_json"


class Unauthorized(RequestError):
    """The key is missing, malformed, unknown or revoked."""

    status = 401
    default_code = "unauthorized"


class OutOfCredits(RequestError):
    """The organization has no credits left."""

    status = 402
    default_code = "out_of_credits"


class MonthlyCapReached(OutOfCredits):
    """The organization has spent what it may in this month."""

    default_code = "monthly_cap_reached"


class NotFound(RequestError):
    """It does not exist, or belongs to another organization; never say which."""

    status = 404
    default_code = "not_found"


class Conflict(RequestError):
    """The request is right, but not in the present state of things."""

    status = 409
    default_code = "conflict"


class WorkerBusy(Conflict):
    """As many turns wait for this worker as may."""

    default_code = "worker_busy"


class TooManySchedules(Conflict):
    """A worker has as many schedules as it may."""

    default_code = "too_many_schedules"


class BodyTooLarge(RequestError):
    """The body is larger than the configured limit."""

    status = 413
    default_code = "body_too_large"


class UnsupportedMediaType(RequestError):
    """The body is of a type that this endpoint does not read."""

    status = 415
    default_code = "unsupported_media_type"


class InvalidInput(RequestError):
    """The JSON is well-formed, its values are not."""

    status = 422
    default_code = "invalid_input"

    @classmethod
    def of(cls, problem: str, *path: str | int) -> Self:
        """For the one value that stands at `path` in the request."""
        where = ".".join(str(part) for part in path)
        message = f"The value of {where} is not valid: {problem}."
        return cls(message, details=[Detail(path, problem)])


class IdempotencyKeyReused(InvalidInput):
    """The key was used before with another request."""

    default_code = "idempotency_key_reused"


class PriceUnknown(InvalidInput):
    """The budget has a cap in USD, and nobody knows what the model costs."""

    default_code = "price_unknown"


class RateLimited(RequestError):
    """The key sent more requests than it may in this window."""

    status = 429
    default_code = "rate_limited"

    def __init__(
        self, message: str, *, retry_after_s: int, limit: int, window_s: int, remaining: int
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit = limit
        self.window_s = window_s
        self.remaining = remaining


class Unavailable(RequestError):
    """The server is shutting down, or its queue is full; try again later."""

    status = 503
    default_code = "unavailable"
