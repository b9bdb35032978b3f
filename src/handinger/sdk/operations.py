"""One function per endpoint: the request it takes and how its answer is read."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Required, TypeAlias, TypedDict, Unpack, cast
from urllib.parse import quote

from handinger.sdk import answers, uploads
from handinger.sdk.answers import FileContent
from handinger.sdk.errors import InvalidPathError
from handinger.sdk.exchange import Operation, Request, Timeout
from handinger.sdk.uploads import FileInput, Upload

if TYPE_CHECKING:
    from pydantic import JsonValue

    from handinger.sdk.models import (
        Budget,
        BudgetList,
        Cancellation,
        Deletion,
        EmailPage,
        EmailSettings,
        JsonObject,
        Turn,
        TurnPage,
        UsageGrouping,
        UsageReport,
        Worker,
        WorkerPage,
        WorkerSchedule,
        WorkerSchedules,
        WorkerStatus,
    )

_WORKERS = "/api/workers"
_EMAIL_SETTINGS = "/api/email-settings"
_EVENT_STREAM = {"accept": "text/event-stream"}


class RequestOptions(TypedDict, total=False):
    """What every method takes beside its own parameters."""

    extra_headers: Mapping[str, str] | None
    """Sent along, and instead of ours where the names are the same."""
    extra_query: Mapping[str, str] | None
    """Added to the URL."""
    extra_body: Mapping[str, JsonValue] | None
    """Added to the JSON object that is sent."""
    timeout: Timeout
    """How long the server may be silent, in seconds; the client's own limit by default."""


class PostOptions(RequestOptions, total=False):
    """What every method takes that starts something."""

    idempotency_key: str | None
    """The same key within 24 hours joins the first request; by default each call makes its own."""


class ContinueParams(PostOptions, total=False):
    """What an instruction to a worker may say."""

    input: Required[str]
    """What to do, 1 to 100,000 characters."""
    budget: Budget | None
    """The hard cap for this turn, `standard` by default."""
    files: Iterable[FileInput] | None
    """Files for the workspace: paths, open files, or (name, content[, media type])."""


class CreateParams(ContinueParams, total=False):
    """What a new worker may be given."""

    metadata: Mapping[str, JsonValue] | None
    """Yours to use; it is echoed in `Worker.metadata`."""


class RunOptions(PostOptions, total=False):
    """What `run` takes beside the instruction: the same as `create`."""

    budget: Budget | None
    files: Iterable[FileInput] | None
    metadata: Mapping[str, JsonValue] | None


class ScheduledWhen(TypedDict, total=False):
    """Once, at a date; one without an offset is in the timezone, UTC unless there is one."""

    type: Required[Literal["scheduled"]]
    date: Required[str | datetime.datetime]
    timezone: str


class DelayedWhen(TypedDict):
    """Once, after so many seconds."""

    type: Literal["delayed"]
    delay_in_seconds: int


class CronWhen(TypedDict, total=False):
    """Again and again, as five fields say; in UTC unless there is a timezone."""

    type: Required[Literal["cron"]]
    cron: Required[str]
    timezone: str


class IntervalWhen(TypedDict):
    """Again and again, every so many seconds."""

    type: Literal["interval"]
    interval_seconds: int


When: TypeAlias = "ScheduledWhen | DelayedWhen | CronWhen | IntervalWhen"
# ISO 8601 if it is a text; in UTC if it has no offset.
Moment: TypeAlias = "str | datetime.date | datetime.datetime"
_WIRE_NAMES = {"delay_in_seconds": "delayInSeconds", "interval_seconds": "intervalSeconds"}


def create(
    *,
    input: str,
    budget: Budget | None = None,
    metadata: Mapping[str, JsonValue] | None = None,
    files: Iterable[FileInput] | None = None,
    background: bool = False,
    **options: Unpack[PostOptions],
) -> Operation[Worker]:
    """A new worker and its first turn."""
    body = _instruction(input, budget)
    if metadata is not None:
        body["metadata"] = dict(metadata)
    request = _post(_WORKERS, body, files=files, background=background, **options)
    return Operation(request, answers.read_worker)


def continue_(
    worker_id: str,
    *,
    input: str,
    budget: Budget | None = None,
    files: Iterable[FileInput] | None = None,
    background: bool = False,
    **options: Unpack[PostOptions],
) -> Operation[Worker]:
    """The next turn in the same conversation."""
    body = _instruction(input, budget)
    request = _post(_worker(worker_id), body, files=files, background=background, **options)
    return Operation(request, answers.read_worker)


def streamed(operation: Operation[Worker]) -> Request:
    """The same request, answered with events."""
    request = operation.request
    if "prefer" in request.headers:
        raise ValueError("a turn is either streamed or in the background")
    return replace(
        request,
        body={**(request.body or {}), "stream": True},
        headers={**request.headers, **_EVENT_STREAM},
    )


def retrieve(
    worker_id: str, *, messages: bool = True, **options: Unpack[RequestOptions]
) -> Operation[Worker]:
    """A worker as of now."""
    query = {} if messages else {"messages": "false"}
    request = _request("GET", _worker(worker_id), query=query, **options)
    return Operation(request, answers.read_worker)


def list_workers(
    *,
    limit: int | None = None,
    cursor: str | None = None,
    status: WorkerStatus | None = None,
    **options: Unpack[RequestOptions],
) -> Operation[WorkerPage]:
    """Workers, newest first."""
    query = _query(limit=limit, cursor=cursor, status=status)
    return Operation(_request("GET", _WORKERS, query=query, **options), answers.read_worker_page)


def cancel(
    worker_id: str, *, turn_id: str | None = None, **options: Unpack[PostOptions]
) -> Operation[Worker]:
    """Stop the running turn and drop the waiting ones, or one turn only."""
    body: JsonObject = {} if turn_id is None else {"turnId": turn_id}
    return Operation(_post(f"{_worker(worker_id)}/cancel", body, **options), answers.read_worker)


def delete(worker_id: str, **options: Unpack[RequestOptions]) -> Operation[Deletion]:
    """Remove a worker and all that is its own."""
    return Operation(_request("DELETE", _worker(worker_id), **options), answers.read_deletion)


def list_turns(
    worker_id: str,
    *,
    limit: int | None = None,
    cursor: str | None = None,
    **options: Unpack[RequestOptions],
) -> Operation[TurnPage]:
    """The turns of a worker, newest first."""
    query = _query(limit=limit, cursor=cursor)
    request = _request("GET", f"{_worker(worker_id)}/turns", query=query, **options)
    return Operation(request, answers.read_turn_page)


def retrieve_turn(
    worker_id: str, turn_id: str, **options: Unpack[RequestOptions]
) -> Operation[Turn]:
    """One turn."""
    path = f"{_worker(worker_id)}/turns/{_segment(turn_id)}"
    return Operation(_request("GET", path, **options), answers.read_turn)


def retrieve_email(worker_id: str, **options: Unpack[RequestOptions]) -> Operation[str]:
    """The address of a worker."""
    request = _request("GET", f"{_worker(worker_id)}/email", **options)
    return Operation(request, answers.read_address)


def retrieve_file(
    worker_id: str, path: str, **options: Unpack[RequestOptions]
) -> Operation[FileContent]:
    """Any regular file of a worker's workspace."""
    segments = "/".join(_segment(name) for name in path.split("/"))
    path = f"{_worker(worker_id)}/files/{segments}"
    return Operation(_request("GET", path, headers={"accept": "*/*"}, **options), answers.read_file)


def list_budgets(**options: Unpack[RequestOptions]) -> Operation[BudgetList]:
    """The budgets of the server."""
    return Operation(_request("GET", "/api/budgets", **options), answers.read_budgets)


def list_schedules(worker_id: str, **options: Unpack[RequestOptions]) -> Operation[WorkerSchedules]:
    """What is still to fire, soonest first."""
    request = _request("GET", _schedules(worker_id), **options)
    return Operation(request, answers.read_schedules)


def create_schedule(
    worker_id: str,
    *,
    input: str,
    when: When | Mapping[str, JsonValue],
    budget: Budget | None = None,
    **options: Unpack[PostOptions],
) -> Operation[WorkerSchedule]:
    """An instruction that a worker gets by itself."""
    body: JsonObject = {**_instruction(input, budget), "when": _when(when)}
    return Operation(_post(_schedules(worker_id), body, **options), answers.read_schedule)


def retrieve_schedule(
    worker_id: str, schedule_id: str, **options: Unpack[RequestOptions]
) -> Operation[WorkerSchedule]:
    """A schedule, with its last firings and its next times."""
    request = _request("GET", _schedule(worker_id, schedule_id), **options)
    return Operation(request, answers.read_schedule)


def update_schedule(
    worker_id: str,
    schedule_id: str,
    *,
    input: str | None = None,
    when: When | Mapping[str, JsonValue] | None = None,
    budget: Budget | None = None,
    paused: bool | None = None,
    **options: Unpack[RequestOptions],
) -> Operation[WorkerSchedule]:
    """What is given changes, the rest stays."""
    timing = None if when is None else _when(when)
    changes: JsonObject = {"input": input, "when": timing, "budget": budget, "paused": paused}
    body: JsonObject = {name: value for name, value in changes.items() if value is not None}
    request = _request("PATCH", _schedule(worker_id, schedule_id), body=body, **options)
    return Operation(request, answers.read_schedule)


def cancel_schedule(
    worker_id: str, schedule_id: str, **options: Unpack[RequestOptions]
) -> Operation[Cancellation]:
    """Nothing fires any more."""
    request = _request("DELETE", _schedule(worker_id, schedule_id), **options)
    return Operation(request, answers.read_cancellation)


def list_emails(
    worker_id: str,
    *,
    limit: int | None = None,
    cursor: str | None = None,
    **options: Unpack[RequestOptions],
) -> Operation[EmailPage]:
    """The mails of a worker, newest first."""
    query = _query(limit=limit, cursor=cursor)
    request = _request("GET", f"{_worker(worker_id)}/emails", query=query, **options)
    return Operation(request, answers.read_email_page)


def retrieve_original(
    worker_id: str, email_id: str, **options: Unpack[RequestOptions]
) -> Operation[FileContent]:
    """A mail that came in, as it came."""
    path = f"{_worker(worker_id)}/emails/{_segment(email_id)}"
    return Operation(_request("GET", path, headers={"accept": "*/*"}, **options), answers.read_file)


def retrieve_usage(
    *,
    from_: Moment | None = None,
    to: Moment | None = None,
    group_by: UsageGrouping | None = None,
    **options: Unpack[RequestOptions],
) -> Operation[UsageReport]:
    """What the organization has used, and what it has left."""
    query = _query(groupBy=group_by) | {
        name: moment if isinstance(moment, str) else moment.isoformat()
        for name, moment in (("from", from_), ("to", to))
        if moment is not None
    }
    return Operation(
        _request("GET", "/api/usage", query=query, **options), answers.read_usage_report
    )


def retrieve_email_settings(**options: Unpack[RequestOptions]) -> Operation[EmailSettings]:
    """Whose mail is taken."""
    return Operation(_request("GET", _EMAIL_SETTINGS, **options), answers.read_email_settings)


def update_email_settings(
    *, allow: Iterable[str] | None, **options: Unpack[RequestOptions]
) -> Operation[EmailSettings]:
    """The list, replaced; None returns to the server's."""
    body: JsonObject = {"allow": None if allow is None else list(allow)}
    request = _request("PUT", _EMAIL_SETTINGS, body=body, **options)
    return Operation(request, answers.read_email_settings)


def stream_updates(
    worker_id: str,
    *,
    last_event_id: str | None = None,
    messages: bool = True,
    **options: Unpack[RequestOptions],
) -> Request:
    """The events of a worker, after a place or from the beginning."""
    headers = dict(_EVENT_STREAM)
    if last_event_id:
        headers["last-event-id"] = last_event_id
    query = {} if messages else {"messages": "false"}
    path = f"{_worker(worker_id)}/stream"
    return _request("GET", path, query=query, headers=headers, **options)


def _instruction(input: str, budget: Budget | None) -> JsonObject:
    return {"input": input} if budget is None else {"input": input, "budget": budget}


def _when(when: When | Mapping[str, JsonValue]) -> JsonObject:
    """As it stands on the wire; the names of the wire may be given as well."""
    return {_WIRE_NAMES.get(name, name): _date(value) for name, value in when.items()}


def _date(value: object) -> JsonValue:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return cast("JsonValue", value)


def _post(
    path: str,
    body: JsonObject,
    *,
    files: Iterable[FileInput] | None = None,
    background: bool = False,
    idempotency_key: str | None = None,
    **options: Unpack[RequestOptions],
) -> Request:
    # Retries carry the same key, so that they join the first attempt and never pay twice.
    key = idempotency_key or str(uuid.uuid4())
    headers = {"idempotency-key": key}
    if background:
        headers["prefer"] = "respond-async"
    sent = uploads.of_inputs(files or ())
    if sent:
        # The same on every attempt, so that every attempt has the same bytes.
        headers["content-type"] = f"multipart/form-data; boundary={uuid.uuid4().hex}"
    return _request("POST", path, body=body, headers=headers, uploads=sent, **options)


def _request(
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    body: JsonObject | None = None,
    headers: Mapping[str, str] | None = None,
    uploads: tuple[Upload, ...] = (),
    extra_headers: Mapping[str, str] | None = None,
    extra_query: Mapping[str, str] | None = None,
    extra_body: Mapping[str, JsonValue] | None = None,
    timeout: Timeout = "default",
) -> Request:
    added = {name.lower(): value for name, value in (extra_headers or {}).items()}
    return Request(
        method,
        path,
        query={**(query or {}), **(extra_query or {})},
        body={**(body or {}), **extra_body} if extra_body else body,
        headers={**(headers or {}), **added},
        uploads=uploads,
        timeout=timeout,
    )


def _query(**values: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _worker(worker_id: str) -> str:
    return f"{_WORKERS}/{_segment(worker_id)}"


def _schedules(worker_id: str) -> str:
    return f"{_worker(worker_id)}/schedules"


def _schedule(worker_id: str, schedule_id: str) -> str:
    return f"{_schedules(worker_id)}/{_segment(schedule_id)}"


def _segment(value: str) -> str:
    # URLs resolve "", "." and ".." away, so that such an id would reach another endpoint.
    if value in ("", ".", ".."):
        raise InvalidPathError(f"{value!r} can be no part of an id or of a file's path.")
    return quote(value, safe="")
