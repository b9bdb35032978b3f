"""What an answer must look like: the contract's fields, exactly, and what holds at every moment.

The fields are listed here by hand, so that a change of the server's own models cannot go unseen.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, cast

import httpx2
from pydantic import BaseModel, Field, JsonValue, TypeAdapter

from handinger.api.models.errors import Error
from handinger.api.models.workers import Turn, TurnPage, Worker, WorkerPage

WORKER_FIELDS = {
    "id",
    "object",
    "created_at",
    "status",
    "running",
    "error",
    "incomplete_details",
    "output",
    "output_text",
    "messages",
    "files",
    "sources",
    "metadata",
    "costs",
    "usage",
    "url",
}
COSTS_FIELDS = {"modelCostUsd", "toolCostUsd", "sandboxCostUsd", "internalCostUsd"}
USAGE_FIELDS = {
    "inputTokens",
    "outputTokens",
    "reasoningTokens",
    "cacheReadTokens",
    "cacheWriteTokens",
    "totalTokens",
    "steps",
    "costUsd",
    "credits",
    "durationMs",
}
TURN_FIELDS = {
    "id",
    "workerId",
    "status",
    "source",
    "input",
    "budget",
    "output_text",
    "error",
    "incomplete_details",
    "costs",
    "usage",
    "createdAt",
    "startedAt",
    "endedAt",
}
ID = re.compile(r"(wrk|tsk|trn|msg|sch|org|key|src)_[0-9a-zA-Z_]+")
NEVER_SMALLER = (
    "inputTokens",
    "outputTokens",
    "reasoningTokens",
    "cacheReadTokens",
    "cacheWriteTokens",
    "totalTokens",
    "steps",
    "costUsd",
    "credits",
)

Json = dict[str, Any]


class _TextPart(BaseModel):
    type: Literal["text", "reasoning"]
    text: str
    state: Literal["streaming", "done"] = "done"


class _StepStart(BaseModel):
    type: Literal["step-start"]


class _FilePart(BaseModel):
    type: Literal["file"]
    url: str
    mediaType: str


class _AttachmentPart(_FilePart):
    filename: str


class _SourcePart(BaseModel):
    type: Literal["source-url"]
    sourceId: str
    url: str
    title: str | None = None


class _ToolPart(BaseModel):
    type: Annotated[str, Field(pattern=r"^tool-\w+$")]
    toolCallId: str
    state: Literal["input-streaming", "input-available", "output-available", "output-error"]
    input: JsonValue = None
    output: JsonValue = None
    errorText: str | None = None


_PARTS: TypeAdapter[list[Any]] = TypeAdapter(
    list[_TextPart | _StepStart | _FilePart | _SourcePart | _ToolPart]
)
_USER_PARTS: TypeAdapter[list[Any]] = TypeAdapter(list[_TextPart | _AttachmentPart])


def worker_in(response: httpx2.Response, *, status: int = 200) -> Json:
    """The `Worker` that a response is, checked in full."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    worker = cast(Json, response.json())
    check_worker(worker)
    return worker


def check_worker(worker: Json) -> None:
    """All fields, their types, and the invariants of one moment."""
    Worker.model_validate(worker, strict=True, extra="forbid")
    assert set(worker) == WORKER_FIELDS
    assert worker["id"].startswith("wrk_")
    assert worker["running"] is (worker["status"] != "completed")
    assert worker["error"] is None or worker["error"]["message"]
    texts = [content["text"] for item in worker["output"] for content in item["content"]]
    assert worker["output_text"] == "\n\n".join(texts)
    assert all(texts)
    assert len({item["id"] for item in worker["output"]}) == len(worker["output"])
    urls = [source["url"] for source in worker["sources"]]
    assert len(set(urls)) == len(urls)
    assert isinstance(worker["metadata"]["model"], str)
    check_sums(worker)
    for message in worker["messages"]:
        check_message(message)


def check_sums(told: Json) -> None:
    """Costs and usage of a worker or of a turn agree with each other."""
    costs, usage = told["costs"], told["usage"]
    assert set(costs) == COSTS_FIELDS
    assert set(usage) == USAGE_FIELDS
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    assert abs(usage["costUsd"] - sum(costs.values())) <= 1e-9
    assert all(value >= 0 for value in [*costs.values(), *usage.values()])
    assert all(isinstance(value, int) for name, value in usage.items() if name != "costUsd")


def check_never_smaller(earlier: Json, later: Json) -> None:
    """Money and tokens never go down."""
    for name in NEVER_SMALLER:
        assert later["usage"][name] >= earlier["usage"][name], name
    for name in COSTS_FIELDS:
        assert later["costs"][name] >= earlier["costs"][name], name


def check_message(message: Json) -> None:
    """A UI message of the AI SDK, with what ours adds to it."""
    assert message["id"].startswith("msg_")
    parts = _USER_PARTS if message["role"] == "user" else _PARTS
    parts.validate_python(message["parts"], extra="forbid")
    metadata = message["metadata"]
    assert metadata["turnId"].startswith("trn_")
    assert metadata["source"] in ("api", "schedule", "email", "agent")
    check_time(metadata["createdAt"])
    if "usage" in metadata:
        assert message["role"] == "assistant"
        check_sums(metadata)


def turn_in(response: httpx2.Response) -> Json:
    """The turn that a response is, checked in full."""
    assert response.status_code == 200, response.text
    turn = cast(Json, response.json())
    check_turn(turn)
    return turn


def check_turn(turn: Json) -> None:
    """All fields, their types, and the invariants of one moment."""
    Turn.model_validate(turn, strict=True, extra="forbid")
    assert set(turn) == TURN_FIELDS
    assert turn["id"].startswith("trn_")
    check_sums(turn)
    assert (turn["endedAt"] is not None) is (turn["status"] == "completed")
    assert turn["status"] != "running" or turn["startedAt"] is not None
    times = [turn[name] for name in ("createdAt", "startedAt", "endedAt") if turn[name]]
    for moment in times:
        check_time(moment)
    assert times == sorted(times)


def check_time(text: str) -> None:
    """ISO 8601, UTC, `Z`."""
    assert text.endswith("Z")
    moment = datetime.fromisoformat(text)
    offset = moment.utcoffset()
    assert offset is not None
    assert not offset


def workers_in(response: httpx2.Response) -> Json:
    """The page of workers that a response is."""
    assert response.status_code == 200, response.text
    page = cast(Json, response.json())
    WorkerPage.model_validate(page, strict=True, extra="forbid")
    assert set(page) == {"workers", "nextCursor"}
    for worker in page["workers"]:
        check_worker(worker)
        assert worker["messages"] == []
    return page


def turns_in(response: httpx2.Response) -> Json:
    """The page of turns that a response is."""
    assert response.status_code == 200, response.text
    page = cast(Json, response.json())
    TurnPage.model_validate(page, strict=True, extra="forbid")
    assert set(page) == {"turns", "nextCursor"}
    for turn in page["turns"]:
        check_turn(turn)
    return page


def error_in(response: httpx2.Response, status: int, code: str | None = None) -> Json:
    """The error that a response is: one shape, whatever went wrong."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    # A client that retries a conflict by itself would only meet it again.
    assert response.headers.get("x-should-retry") == ("false" if status == 409 else None)
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    return check_error(cast(Json, response.json()), status, code)


def check_error(error: Json, status: int, code: str | None = None) -> Json:
    """The body of an error: a sentence, a code, and details only where there are some."""
    Error.model_validate(error, strict=True, extra="forbid")
    assert set(error) <= {"error", "code", "details"}
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error["code"])
    assert code is None or error["code"] == code
    sentence = error["error"]
    assert sentence.strip().endswith("."), sentence
    assert not sentence[0].islower()
    assert len(sentence) < 1000
    for internal in ("Traceback", ".py", "psycopg", "pydantic", "asyncio"):
        assert internal not in sentence
    if "details" in error:
        assert status == 422
        assert error["details"]
    return error
