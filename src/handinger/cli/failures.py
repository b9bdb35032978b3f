"""What the exit codes mean, and which failure has which."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

    from handinger.sdk.errors import HandingerError
    from handinger.sdk.models import JsonObject


class ExitCode(IntEnum):
    """The exit status of every command."""

    OK = 0
    FAILED = 1  # the turn failed, or the server refused for a reason not below
    USAGE = 2  # the arguments or the configuration are wrong
    AUTH = 3  # the key is missing, unknown, or may not do this
    NOT_FOUND = 4
    NETWORK = 5  # no server there, or none that can answer now
    INTERRUPTED = 130  # Ctrl-C
    BROKEN_PIPE = 141  # nobody reads the output any more


class CommandError(Exception):
    """Ends a command with one line on the standard error output."""

    def __init__(self, message: str, *, exit_code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TurnFailed(CommandError):
    """The command did its part, and the turn failed."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message, exit_code=ExitCode.FAILED)
        self.code = code


def record_of(error: Exception, exit_code: ExitCode) -> JsonObject:
    """The error for programs; the names are those of the API's own errors."""
    from handinger.sdk.errors import APIStatusError, HandingerError

    message = error.message if isinstance(error, HandingerError) else str(error)
    record: JsonObject = {"error": message, "exitStatus": int(exit_code)}
    if isinstance(error, TurnFailed):
        record["code"] = error.code
    if isinstance(error, APIStatusError):
        details: list[JsonValue] = [
            {"path": list(detail.path), "message": detail.message} for detail in error.details
        ]
        record |= {
            "code": error.code,
            "status": error.status_code,
            "requestId": error.request_id,
            "details": details,
        }
    return record


def describe(error: HandingerError) -> str:
    """The error in one line, with what is needed to ask about it."""
    from handinger.sdk.errors import APIStatusError, MissingAPIKeyError

    if isinstance(error, MissingAPIKeyError):
        return "No API key: set HANDINGER_API_KEY, or keep one with `handinger login`."
    text = " ".join(error.message.split())
    if not isinstance(error, APIStatusError):
        return text
    details = "".join(
        f" {'.'.join(str(step) for step in detail.path)}: {detail.message}."
        for detail in error.details
        # As a rule the sentence has the first of them already.
        if detail.message not in text
    )
    request = f" (request {error.request_id})" if error.status_code >= 500 else ""
    return f"{text}{details}{request}"


def exit_code_of(error: HandingerError) -> ExitCode:
    """The exit status that tells a script what went wrong."""
    from handinger.sdk import errors

    match error:
        case (
            errors.AuthenticationError() | errors.PermissionDeniedError()
        ) | errors.MissingAPIKeyError():
            return ExitCode.AUTH
        case errors.NotFoundError():
            return ExitCode.NOT_FOUND
        case (
            errors.APIConnectionError()
            | errors.APIResponseError()
            | errors.RateLimitError()
            | errors.InternalServerError()
        ):
            return ExitCode.NETWORK
        case errors.ConflictError() | errors.PaymentRequiredError():
            return ExitCode.FAILED
        case _:
            return ExitCode.USAGE
