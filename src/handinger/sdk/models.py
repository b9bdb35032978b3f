"""What the API speaks of, as typed objects: snake_case attributes over the names on the wire.

They are lenient: a field that is missing has a default, an unknown one is kept, and a closed set
may grow. So a newer server never breaks an older client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PrivateAttr,
    Tag,
    TypeAdapter,
)

from handinger.sdk.errors import HandingerError

if TYPE_CHECKING:
    from handinger.sdk.streams import WorkerEvents

JsonObject: TypeAlias = dict[str, JsonValue]

Budget: TypeAlias = Literal["low", "standard", "high", "unlimited"]
WorkerStatus: TypeAlias = Literal["pending", "running", "completed"]
TurnSource: TypeAlias = Literal["api", "schedule", "email", "agent"]
UsageGrouping: TypeAlias = Literal["day", "worker", "model"]


class ApiObject(BaseModel):
    """The base of all; fields that this version does not know are attributes too."""

    model_config = ConfigDict(
        extra="allow",
        validate_by_name=True,
        validate_by_alias=True,
        # Building all of them takes longer than to fetch a worker; most programs see a few.
        defer_build=True,
    )

    def to_dict(self) -> JsonObject:
        """As it came: the names on the wire, and only what was sent."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Costs(ApiObject):
    """US dollars by what they were spent on."""

    model_cost_usd: Annotated[float, Field(alias="modelCostUsd")] = 0.0
    tool_cost_usd: Annotated[float, Field(alias="toolCostUsd")] = 0.0
    sandbox_cost_usd: Annotated[float, Field(alias="sandboxCostUsd")] = 0.0
    internal_cost_usd: Annotated[float, Field(alias="internalCostUsd")] = 0.0


class UsageTotals(ApiObject):
    """What was used; `steps` are model calls."""

    input_tokens: Annotated[int, Field(alias="inputTokens")] = 0
    output_tokens: Annotated[int, Field(alias="outputTokens")] = 0
    reasoning_tokens: Annotated[int, Field(alias="reasoningTokens")] = 0
    cache_read_tokens: Annotated[int, Field(alias="cacheReadTokens")] = 0
    cache_write_tokens: Annotated[int, Field(alias="cacheWriteTokens")] = 0
    total_tokens: Annotated[int, Field(alias="totalTokens")] = 0
    steps: int = 0
    cost_usd: Annotated[float, Field(alias="costUsd")] = 0.0


class Usage(UsageTotals):
    """What one turn or one worker used, with what is counted for each turn."""

    credits: int = 0
    duration_ms: Annotated[int, Field(alias="durationMs")] = 0


class File(ApiObject):
    """A file that a worker published."""

    filename: str | None = None
    media_type: Annotated[str, Field(alias="mediaType")] = "application/octet-stream"
    url: str = ""
    size: int = 0


class Source(ApiObject):
    """A page that a worker used."""

    id: str = ""
    type: Literal["url"] | str = "url"
    url: str = ""
    title: str | None = None


class OutputText(ApiObject):
    """A text inside an output."""

    type: Literal["output_text"] | str = "output_text"
    text: str = ""


class Output(ApiObject):
    """One response of the model that has text."""

    id: str = ""
    type: Literal["message"] | str = "message"
    role: Literal["assistant"] | str = "assistant"
    status: Literal["completed"] | str = "completed"
    content: list[OutputText] = []


class TurnError(ApiObject):
    """Why a turn failed."""

    code: str = ""
    message: str = ""


class IncompleteDetails(ApiObject):
    """Why an answer is cut short."""

    reason: Literal["budget_exhausted", "max_output_tokens", "cancelled"] | str = ""


class Part(ApiObject):
    """A piece of a message; the classes below are the known types, this one stands for others."""

    type: str


class TextPart(Part):
    """Text of the message."""

    type: str = "text"
    text: str = ""
    state: Literal["streaming", "done"] | str | None = None


class ReasoningPart(Part):
    """What the model thought before it spoke."""

    type: str = "reasoning"
    text: str = ""
    state: Literal["streaming", "done"] | str | None = None


class ToolPart(Part):
    """One use of a tool; its type is `tool-` and the tool's name."""

    tool_call_id: Annotated[str, Field(alias="toolCallId")] = ""
    state: (
        Literal["input-streaming", "input-available", "output-available", "output-error"] | str
    ) = "input-streaming"
    input: JsonValue = None
    output: JsonValue = None
    error_text: Annotated[str | None, Field(alias="errorText")] = None

    @property
    def tool_name(self) -> str:
        """The name of the tool."""
        return self.type.removeprefix("tool-")


class SourceUrlPart(Part):
    """A page that was used."""

    type: str = "source-url"
    source_id: Annotated[str, Field(alias="sourceId")] = ""
    url: str = ""
    title: str | None = None


class FilePart(Part):
    """A file of the message."""

    type: str = "file"
    url: str = ""
    media_type: Annotated[str, Field(alias="mediaType")] = "application/octet-stream"


class StepStartPart(Part):
    """The boundary before a model call."""

    type: str = "step-start"


_PART_TAGS = frozenset({"text", "reasoning", "source-url", "file", "step-start"})


def _tag_of_part(part: object) -> str:
    if isinstance(part, Part):
        kind: object = part.type
    else:
        kind = cast("dict[str, object]", part).get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        return "other"
    if kind.startswith("tool-"):
        return "tool"
    return kind if kind in _PART_TAGS else "other"


MessagePart: TypeAlias = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[ReasoningPart, Tag("reasoning")]
    | Annotated[ToolPart, Tag("tool")]
    | Annotated[SourceUrlPart, Tag("source-url")]
    | Annotated[FilePart, Tag("file")]
    | Annotated[StepStartPart, Tag("step-start")]
    | Annotated[Part, Tag("other")],
    Discriminator(_tag_of_part),
]


class UIMessage(ApiObject):
    """One message of the conversation, in the shape of the Vercel AI SDK."""

    id: str = ""
    role: Literal["user", "assistant"] | str = "assistant"
    parts: list[MessagePart] = []
    metadata: JsonObject = {}

    @property
    def text(self) -> str:
        """The text parts, joined by a blank line."""
        return "\n\n".join(part.text for part in self.parts if isinstance(part, TextPart))


class Worker(ApiObject):
    """An agent with a conversation and a workspace of files.

    `output`, `output_text`, `error` and `incomplete_details` are of one turn: the one that was
    asked for, or the latest.
    """

    id: str
    object: Literal["worker"] | str = "worker"
    created_at: int | None = None
    status: WorkerStatus | str = "pending"
    running: bool = False
    error: TurnError | None = None
    incomplete_details: IncompleteDetails | None = None
    output: list[Output] = []
    output_text: str = ""
    messages: list[UIMessage] = []
    files: list[File] = []
    sources: list[Source] = []
    metadata: JsonObject = {}
    costs: Costs | None = None
    usage: Usage | None = None
    url: str = ""

    # Given by the client that the worker came from.
    _follow: Callable[[str], WorkerEvents] | None = PrivateAttr(default=None)

    def follow(self) -> WorkerEvents:
        """Watch it: the conversation, then what runs or waits, live, until it is idle.

        `for event in worker.follow()` with `Handinger`, `async for` with `AsyncHandinger`.
        """
        if self._follow is None:
            raise HandingerError("This worker came from no client; use client.workers.follow(id).")
        return self._follow(self.id)

    def bind(self, follow: Callable[[str], WorkerEvents]) -> Worker:
        """Make `follow` work; clients do it by themselves."""
        self._follow = follow
        return self


class WorkerPage(ApiObject):
    """Some workers, newest first, without their messages."""

    workers: list[Worker] = []
    next_cursor: Annotated[str | None, Field(alias="nextCursor")] = None


class Turn(ApiObject):
    """One instruction and what became of it."""

    id: str
    worker_id: Annotated[str, Field(alias="workerId")] = ""
    status: WorkerStatus | str = "pending"
    source: TurnSource | str = "api"
    input: str = ""
    budget: Budget | str = "standard"
    output_text: str = ""
    error: TurnError | None = None
    incomplete_details: IncompleteDetails | None = None
    costs: Costs | None = None
    usage: Usage | None = None
    created_at: Annotated[str | None, Field(alias="createdAt")] = None
    started_at: Annotated[str | None, Field(alias="startedAt")] = None
    ended_at: Annotated[str | None, Field(alias="endedAt")] = None


class TurnPage(ApiObject):
    """Some turns of a worker, newest first."""

    turns: list[Turn] = []
    next_cursor: Annotated[str | None, Field(alias="nextCursor")] = None


class BudgetCaps(ApiObject):
    """What one turn with this budget may use; None where there is no cap."""

    name: Budget | str
    model_calls: Annotated[int | None, Field(alias="modelCalls")] = None
    usd: float | None = None
    seconds: float | None = None


class BudgetList(ApiObject):
    """The budgets of a server, the smallest first."""

    budgets: list[BudgetCaps] = []


class UsageSums(ApiObject):
    """What was used and what it cost."""

    costs: Costs = Field(default_factory=Costs)
    usage: UsageTotals = Field(default_factory=UsageTotals)


class UsageGroup(UsageSums):
    """One day, worker or model, as its `key` says."""

    key: str = ""


class UsageReport(ApiObject):
    """What an organization has used in a span of time, and what it has left.

    What is not limited is None.
    """

    from_: Annotated[str, Field(alias="from")] = ""
    to: str = ""
    group_by: Annotated[UsageGrouping | str, Field(alias="groupBy")] = "day"
    groups: list[UsageGroup] = []
    total: UsageSums = Field(default_factory=UsageSums)
    balance_credits: Annotated[int | None, Field(alias="balanceCredits")] = None
    monthly_cap_usd: Annotated[float | None, Field(alias="monthlyCapUsd")] = None
    month_usd: Annotated[float | None, Field(alias="monthUsd")] = None


class EmailSettings(ApiObject):
    """Whose mail the workers of an organization take, and to whom they may write."""

    allow: list[str] = []
    is_default: Annotated[bool, Field(alias="isDefault")] = False


class Email(ApiObject):
    """A mail that came in or went out."""

    id: str
    direction: Literal["in", "out"] | str = "in"
    status: str = ""
    from_: Annotated[str, Field(alias="from")] = ""
    to: str = ""
    subject: str = ""
    message_id: Annotated[str | None, Field(alias="messageId")] = None
    turn_id: Annotated[str | None, Field(alias="turnId")] = None
    size: int | None = None
    attempts: int | None = None
    error: str | None = None
    verdict: JsonObject | None = None
    created_at: Annotated[str | None, Field(alias="createdAt")] = None
    delivered_at: Annotated[str | None, Field(alias="deliveredAt")] = None


class EmailPage(ApiObject):
    """Some mails of a worker, newest first."""

    emails: list[Email] = []
    next_cursor: Annotated[str | None, Field(alias="nextCursor")] = None


class Deletion(ApiObject):
    """What a delete answers."""

    deleted: bool = False


class Cancellation(ApiObject):
    """What the cancelling of a schedule answers."""

    cancelled: bool = False


class SkippedFiring(ApiObject):
    """Why no turn came of a time at which a schedule was due, or of so many in a row."""

    reason: str = ""
    message: str = ""
    times: int = 1


class Firing(ApiObject):
    """What came of a time at which a schedule was due: a turn, or a reason why not."""

    due_at: Annotated[str, Field(alias="dueAt")] = ""
    fired_at: Annotated[str, Field(alias="firedAt")] = ""
    turn_id: Annotated[str | None, Field(alias="turnId")] = None
    skipped: SkippedFiring | None = None


class Schedule(ApiObject):
    """When a worker gets an instruction by itself.

    The classes below are the known types, this one stands for others. `created_at` and what follows
    are told of a schedule that is retrieved by itself.
    """

    id: str
    type: str
    input: str = ""
    budget: Budget | str = "standard"
    next_run_at: Annotated[str | None, Field(alias="nextRunAt")] = None
    # Why the server cannot fire it.
    error: str | None = None
    paused: bool = False
    created_at: Annotated[str | None, Field(alias="createdAt")] = None
    created_by: Annotated[Literal["api", "agent"] | str | None, Field(alias="createdBy")] = None
    firings: list[Firing] = []
    next_runs: Annotated[list[str], Field(alias="nextRuns")] = []


class ScheduledSchedule(Schedule):
    """Once, at a date."""

    type: Literal["scheduled"] = "scheduled"  # pyright: ignore[reportIncompatibleVariableOverride]


class DelayedSchedule(Schedule):
    """Once, after a while."""

    type: Literal["delayed"] = "delayed"  # pyright: ignore[reportIncompatibleVariableOverride]
    delay_in_seconds: Annotated[int, Field(alias="delayInSeconds")] = 0


class CronSchedule(Schedule):
    """Again and again, as a cron expression says."""

    type: Literal["cron"] = "cron"  # pyright: ignore[reportIncompatibleVariableOverride]
    cron: str = ""
    timezone: str | None = None


class IntervalSchedule(Schedule):
    """Again and again, counted from its creation."""

    type: Literal["interval"] = "interval"  # pyright: ignore[reportIncompatibleVariableOverride]
    interval_seconds: Annotated[int, Field(alias="intervalSeconds")] = 0


_SCHEDULE_TAGS = frozenset({"scheduled", "delayed", "cron", "interval"})


def _tag_of_schedule(schedule: object) -> str:
    if isinstance(schedule, Schedule):
        kind: object = schedule.type
    else:
        kind = cast("dict[str, object]", schedule).get("type") if isinstance(schedule, dict) else ""
    return kind if isinstance(kind, str) and kind in _SCHEDULE_TAGS else "other"


WorkerSchedule: TypeAlias = Annotated[
    Annotated[ScheduledSchedule, Tag("scheduled")]
    | Annotated[DelayedSchedule, Tag("delayed")]
    | Annotated[CronSchedule, Tag("cron")]
    | Annotated[IntervalSchedule, Tag("interval")]
    | Annotated[Schedule, Tag("other")],
    Discriminator(_tag_of_schedule),
]
WORKER_SCHEDULE: TypeAdapter[WorkerSchedule] = TypeAdapter(WorkerSchedule)
JSON_STRING: TypeAdapter[str] = TypeAdapter(str, config=ConfigDict(strict=True))


class WorkerSchedules(ApiObject):
    """The schedules of a worker that are still to fire, soonest first."""

    schedules: list[WorkerSchedule] = []
    worker_id: Annotated[str, Field(alias="workerId")] = ""
