"""One function per endpoint: the request it takes and how its answer is read."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Required, TypedDict, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import JsonValue, ValidationError

from handinger.sdk.errors import APIResponseError, InvalidPathError
from handinger.sdk.exchange import Operation, Request
from handinger.sdk.models import (
    ApiObject,
    Budget,
    Deletion,
    JsonObject,
    Turn,
    TurnPage,
    Worker,
    WorkerPage,
    WorkerStatus,
)

M = TypeVar("M", bound=ApiObject)

_WORKERS = "/api/workers"
_EVENT_STREAM = {"accept": "text/event-stream"}


class ContinueParams(TypedDict, total=False):
    """What an instruction to a worker may say."""

    input: Required[str]
    """What to do, 1 to 100,000 characters."""
    budget: Budget | None
    """The hard cap for this turn, `standard` by default."""
    idempotency_key: str | None
    """The same key within 24 hours joins the first request; by default each call makes its own."""


class CreateParams(ContinueParams, total=False):
    """What a new worker may be given."""

    metadata: Mapping[str, JsonValue] | None
    """Yours to use; it is echoed in `Worker.metadata`."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file of a worker's workspace, whole."""

    content: bytes
    media_type: str
    etag: str | None = None

    def read(self) -> bytes:
        """The bytes."""
        return self.content

    def write_to_file(self, path: str | Path) -> None:
        """Create or replace the file at `path`."""
        Path(path).write_bytes(self.content)


def create(
    *,
    input: str,
    budget: Budget | None = None,
    metadata: Mapping[str, JsonValue] | None = None,
    idempotency_key: str | None = None,
    background: bool = False,
) -> Operation[Worker]:
    """A new worker and its first turn."""
    body = _instruction(input, budget)
    if metadata is not None:
        body["metadata"] = dict(metadata)
    return Operation(_post(_WORKERS, body, idempotency_key, background), _reader(Worker))


def continue_(
    worker_id: str,
    *,
    input: str,
    budget: Budget | None = None,
    idempotency_key: str | None = None,
    background: bool = False,
) -> Operation[Worker]:
    """The next turn in the same conversation."""
    body = _instruction(input, budget)
    request = _post(_worker(worker_id), body, idempotency_key, background)
    return Operation(request, _reader(Worker))


def streamed(operation: Operation[Worker]) -> Request:
    """The same request, answered with events."""
    request = operation.request
    if "prefer" in request.headers:
        raise ValueError("a turn is either streamed or in the background")
    return Request(
        method=request.method,
        path=request.path,
        body={**(request.body or {}), "stream": True},
        headers={**request.headers, **_EVENT_STREAM},
    )


def retrieve(worker_id: str, *, messages: bool = True) -> Operation[Worker]:
    """A worker as of now."""
    query = {} if messages else {"messages": "false"}
    return Operation(Request("GET", _worker(worker_id), query=query), _reader(Worker))


def list_workers(
    *,
    limit: int | None = None,
    cursor: str | None = None,
    status: WorkerStatus | None = None,
) -> Operation[WorkerPage]:
    """Workers, newest first."""
    query = _query(limit=limit, cursor=cursor, status=status)
    return Operation(Request("GET", _WORKERS, query=query), _reader(WorkerPage))


def cancel(
    worker_id: str, *, turn_id: str | None = None, idempotency_key: str | None = None
) -> Operation[Worker]:
    """Stop the running turn and drop the waiting ones, or one turn only."""
    body: JsonObject = {} if turn_id is None else {"turnId": turn_id}
    request = _post(f"{_worker(worker_id)}/cancel", body, idempotency_key)
    return Operation(request, _reader(Worker))


def delete(worker_id: str) -> Operation[Deletion]:
    """Remove a worker and all that is its own."""
    return Operation(Request("DELETE", _worker(worker_id)), _reader(Deletion))


def list_turns(
    worker_id: str, *, limit: int | None = None, cursor: str | None = None
) -> Operation[TurnPage]:
    """The turns of a worker, newest first."""
    query = _query(limit=limit, cursor=cursor)
    return Operation(Request("GET", f"{_worker(worker_id)}/turns", query=query), _reader(TurnPage))


def retrieve_turn(worker_id: str, turn_id: str) -> Operation[Turn]:
    """One turn."""
    path = f"{_worker(worker_id)}/turns/{_segment(turn_id)}"
    return Operation(Request("GET", path), _reader(Turn))


def retrieve_file(worker_id: str, path: str) -> Operation[FileContent]:
    """Any regular file of a worker's workspace."""
    segments = "/".join(_segment(name) for name in path.split("/"))
    request = Request("GET", f"{_worker(worker_id)}/files/{segments}", headers={"accept": "*/*"})
    return Operation(request, _read_file)


def stream_updates(
    worker_id: str, *, last_event_id: str | None = None, messages: bool = True
) -> Request:
    """The events of a worker, after a place or from the beginning."""
    headers = dict(_EVENT_STREAM)
    if last_event_id:
        headers["last-event-id"] = last_event_id
    query = {} if messages else {"messages": "false"}
    return Request("GET", f"{_worker(worker_id)}/stream", query=query, headers=headers)


def _instruction(input: str, budget: Budget | None) -> JsonObject:
    return {"input": input} if budget is None else {"input": input, "budget": budget}


def _post(
    path: str, body: JsonObject, idempotency_key: str | None, background: bool = False
) -> Request:
    # Retries carry the same key, so that they join the first attempt and never pay twice.
    headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
    if background:
        headers["prefer"] = "respond-async"
    return Request("POST", path, body=body, headers=headers)


def _query(**values: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _worker(worker_id: str) -> str:
    return f"{_WORKERS}/{_segment(worker_id)}"


def _segment(value: str) -> str:
    # URLs resolve "", "." and ".." away, so that such an id would reach another endpoint.
    if value in ("", ".", ".."):
        raise InvalidPathError(f"{value!r} can be no part of an id or of a file's path.")
    return quote(value, safe="")


def _reader(model: type[M]) -> Callable[[httpx2.Response], M]:
    def read(response: httpx2.Response) -> M:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise APIResponseError(
                f"The answer from {response.url} is no {model.__name__}; is this the right URL?"
            ) from error

    return read


def _read_file(response: httpx2.Response) -> FileContent:
    return FileContent(
        content=response.content,
        media_type=response.headers.get("content-type", "application/octet-stream"),
        etag=response.headers.get("etag"),
    )
