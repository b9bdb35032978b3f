"""What goes over the wire, described: requests are checked by these, answers are tested by them."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    field_validator,
)

from handinger import mailbox
from handinger.schedules.records import Skip
from handinger.schedules.when import When
from handinger.settings import BudgetName
from handinger.turns.accept import require_storable, trimmed_input

MAX_METADATA_DEPTH = 32

Input = Annotated[
    str,
    AfterValidator(trimmed_input),
    Field(
        description="The instruction; 1 to 100,000 characters after trimming.",
        examples=["What is 12.5% of 240? Write the result to result.txt."],
    ),
]
Budget = Annotated[
    BudgetName, Field(description="A hard cap on calls, money and time of this turn.")
]
Stream = Annotated[
    StrictBool, Field(description="Answer with server-sent events of this turn instead of JSON.")
]


class FileInput(BaseModel):
    """A file that comes with an instruction."""

    model_config = ConfigDict(extra="ignore")

    filename: Annotated[
        str | None, Field(description="What to call it in `inbox/`.", examples=["totals.csv"])
    ] = None
    mediaType: Annotated[  # The wire's name.
        str | None, Field(description="If its name does not tell.", examples=["text/csv"])
    ] = None
    data: Annotated[
        str | None,
        Field(description="Its bytes, in base64 or as a `data:` URL.", examples=["YSxiCjEsMgo="]),
    ] = None
    url: Annotated[
        str | None,
        Field(
            description="Instead of `data`: where to fetch it, by http or https.",
            examples=["https://example.com/totals.csv"],
        ),
    ] = None


class WorkerContinue(BaseModel):
    """The next instruction of a worker."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"input": "Now add up the numbers in totals.csv."}]},
    )

    input: Input
    budget: Budget = "standard"
    stream: Stream = False
    files: Annotated[
        list[FileInput],
        Field(description="Put into `inbox/` of the workspace before the turn starts."),
    ] = Field(default_factory=list[FileInput])


class WorkerCreate(WorkerContinue):
    """A new worker's first instruction."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "input": "What is 12.5% of 240? Write the result to result.txt.",
                    "budget": "low",
                    "metadata": {"team": "a"},
                }
            ]
        }
    )

    metadata: Annotated[
        dict[str, JsonValue],
        Field(description="Kept with the worker and given back with it.", examples=[{"team": "a"}]),
    ] = Field(default_factory=dict)

    # Before its type is checked, for which it must not be nested too deep.
    @field_validator("metadata", mode="before")
    @classmethod
    def _storable(cls, value: JsonValue) -> JsonValue:
        for leaf, depth in _leaves(value):
            if depth > MAX_METADATA_DEPTH:
                raise ValueError(f"is nested deeper than {MAX_METADATA_DEPTH} levels")
            if isinstance(leaf, float) and not math.isfinite(leaf):
                raise ValueError("has a number that is too large")
            if isinstance(leaf, str):
                require_storable(leaf)
        return value


def _leaves(root: JsonValue) -> Iterator[tuple[JsonValue, int]]:
    """Every key and every value that holds no other, with its depth."""
    waiting: list[tuple[JsonValue, int]] = [(root, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_METADATA_DEPTH:
            yield None, depth
            return
        if isinstance(value, dict):
            for key, item in value.items():
                yield key, depth
                waiting.append((item, depth + 1))
        elif isinstance(value, list):
            waiting.extend((item, depth + 1) for item in value)
        else:
            yield value, depth


class WorkerCancel(BaseModel):
    """Which turns to stop."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{}]})

    turnId: Annotated[  # The wire's name.
        str | None, Field(description="Stop only this turn; without it, all that run or wait.")
    ] = None


class ScheduleCreate(BaseModel):
    """When a worker gets which instruction by itself."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "input": "Summarise what is new.",
                    "when": {"type": "cron", "cron": "0 9 * * MON", "timezone": "Europe/Madrid"},
                }
            ]
        },
    )

    input: Input
    when: Annotated[When, Field(description="One of four types, by `type`.")]
    budget: Budget = "standard"


class ScheduleChange(BaseModel):
    """What is to become of a schedule; what is left out stays."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"paused": True}]})

    input: Annotated[Input | None, Field(description="The instruction of its next turns.")] = None
    when: Annotated[
        When | None, Field(description="Counts anew from now, also if it is the same.")
    ] = None
    budget: Annotated[BudgetName | None, Field(description="The caps of its next turns.")] = None
    paused: Annotated[
        StrictBool | None,
        Field(description="While it is, nothing fires, and `nextRunAt` is when it would."),
    ] = None


class ErrorDetail(BaseModel):
    """One invalid value."""

    path: Annotated[list[str | int], Field(description="Where it stands in the request.")]
    message: Annotated[str, Field(description="What is wrong with it.")]


class Error(BaseModel):
    """Every error's answer."""

    error: Annotated[str, Field(description="One sentence: what was wrong and what to do.")]
    code: Annotated[str, Field(description="For programs.", examples=["not_found"])]
    details: Annotated[list[ErrorDetail] | None, Field(description="For validation errors.")] = None


class TurnError(BaseModel):
    """Why a turn failed."""

    code: Annotated[
        Literal["model_error", "timeout", "budget_too_small", "internal_error"],
        Field(description="For programs."),
    ]
    message: Annotated[str, Field(description="For people.")]


class IncompleteDetails(BaseModel):
    """Why an answer is cut short."""

    reason: Annotated[
        Literal["budget_exhausted", "max_output_tokens", "cancelled"],
        Field(description="What cut it short."),
    ]


class OutputText(BaseModel):
    """A text."""

    type: Annotated[Literal["output_text"], Field(description="Always the same.")]
    text: Annotated[str, Field(description="As the model wrote it.")]


class OutputItem(BaseModel):
    """The text of one model response."""

    id: Annotated[str, Field(description="Stable.")]
    type: Annotated[Literal["message"], Field(description="Always the same.")]
    role: Annotated[Literal["assistant"], Field(description="Always the same.")]
    status: Annotated[Literal["completed"], Field(description="Always the same.")]
    content: Annotated[list[OutputText], Field(description="Its texts.")]


class WorkerFile(BaseModel):
    """A published file."""

    filename: Annotated[str | None, Field(description="Its path in the workspace.")]
    mediaType: Annotated[str, Field(description="As it is served.")]
    url: Annotated[str, Field(description="Where its bytes are.")]
    size: Annotated[int, Field(ge=0, description="Bytes.")]


class Source(BaseModel):
    """A page that the worker used."""

    id: Annotated[str, Field(description="Opaque.")]
    type: Annotated[Literal["url"], Field(description="Always the same.")]
    url: Annotated[str, Field(description="Of the page.")]
    title: Annotated[str | None, Field(description="Of the page, if it has one.")]


class Costs(BaseModel):
    """In USD."""

    modelCostUsd: Annotated[float, Field(ge=0, description="The agent's own model calls.")]
    toolCostUsd: Annotated[float, Field(ge=0, description="Paid tools.")]
    sandboxCostUsd: Annotated[float, Field(ge=0, description="Compute time of commands.")]
    internalCostUsd: Annotated[
        float, Field(ge=0, description="Model calls that the platform makes for itself.")
    ]


class Usage(BaseModel):
    """Tokens, steps, money and time."""

    inputTokens: Annotated[int, Field(ge=0, description="Sent to the model.")]
    outputTokens: Annotated[int, Field(ge=0, description="Answered by the model.")]
    reasoningTokens: Annotated[int, Field(ge=0, description="Of the output, for reasoning.")]
    cacheReadTokens: Annotated[
        int, Field(ge=0, description="Of the input, from the provider's cache.")
    ]
    cacheWriteTokens: Annotated[
        int, Field(ge=0, description="Of the input, to the provider's cache.")
    ]
    totalTokens: Annotated[int, Field(ge=0, description="Input and output.")]
    steps: Annotated[int, Field(ge=0, description="Model calls.")]
    costUsd: Annotated[float, Field(ge=0, description="The sum of the costs.")]
    credits: Annotated[
        int,
        Field(ge=0, description="Of 0.01 USD, unless configured otherwise; rounded up per turn."),
    ]
    durationMs: Annotated[int, Field(ge=0, description="Time in which turns ran.")]


class UsageTotals(BaseModel):
    """Tokens, steps and money of many turns; tokens and steps are the agent's own calls."""

    inputTokens: Annotated[int, Field(ge=0, description="Sent to models.")]
    outputTokens: Annotated[int, Field(ge=0, description="Answered by models.")]
    reasoningTokens: Annotated[int, Field(ge=0, description="Of the output, for reasoning.")]
    cacheReadTokens: Annotated[
        int, Field(ge=0, description="Of the input, from the provider's cache.")
    ]
    cacheWriteTokens: Annotated[
        int, Field(ge=0, description="Of the input, to the provider's cache.")
    ]
    totalTokens: Annotated[int, Field(ge=0, description="Input and output.")]
    steps: Annotated[int, Field(ge=0, description="Model calls.")]
    costUsd: Annotated[float, Field(ge=0, description="The sum of the costs.")]


class UsageSums(BaseModel):
    """What was used and what it cost."""

    costs: Annotated[Costs, Field(description="What it cost, in USD.")]
    usage: Annotated[UsageTotals, Field(description="Tokens, steps and money.")]


class UsageGroup(UsageSums):
    """One day, worker or model."""

    key: Annotated[
        str,
        Field(
            description="The day (UTC), the worker's id, or the model's id; `(tool)` and "
            "`(sandbox)` are what was no model's.",
            examples=["2026-01-31"],
        ),
    ]


class UsageReport(BaseModel):
    """What an organization has used, and what it has left."""

    model_config = ConfigDict(populate_by_name=True)

    since: Annotated[str, Field(alias="from", description="ISO 8601, UTC.")]
    to: Annotated[str, Field(description="ISO 8601, UTC; not part of it.")]
    groupBy: Annotated[Literal["day", "worker", "model"], Field(description="As asked.")]
    groups: Annotated[list[UsageGroup], Field(description="Those that used anything.")]
    total: Annotated[UsageSums, Field(description="The sum of all groups.")]
    balanceCredits: Annotated[
        int | None, Field(description="What may still be spent; null: not limited.")
    ]
    monthlyCapUsd: Annotated[
        float | None, Field(description="What may be spent in a month; null: not limited.")
    ]
    monthUsd: Annotated[
        float | None,
        Field(description="Spent and reserved in this month; null where nothing is limited."),
    ]


class UIMessage(BaseModel):
    """A message in the Vercel AI SDK's form."""

    id: Annotated[str, Field(description="Opaque.")]
    role: Annotated[Literal["user", "assistant"], Field(description="Who says it.")]
    parts: Annotated[list[dict[str, Any]], Field(description="Of the AI SDK's types.")]
    metadata: Annotated[
        dict[str, Any] | None,
        Field(description="Its turn, source and time; on an answer usage and costs."),
    ] = None


WorkerStatus = Literal["pending", "running", "completed"]


class Worker(BaseModel):
    """An agent with a conversation and a workspace of files."""

    id: Annotated[
        str, Field(description="Opaque.", examples=["wrk_0198c2f4a3b27d10a1b2c3d4e5f60718"])
    ]
    object: Annotated[Literal["worker"], Field(description="Always the same.")]
    created_at: Annotated[int | None, Field(description="Unix seconds.")]
    status: Annotated[WorkerStatus, Field(description="Of the worker, not of one turn.")]
    running: Annotated[bool, Field(description="Whether a turn runs or waits.")]
    error: Annotated[TurnError | None, Field(description="Why the latest turn failed.")]
    incomplete_details: Annotated[
        IncompleteDetails | None, Field(description="Why the latest answer is cut short.")
    ]
    output: Annotated[list[OutputItem], Field(description="Of the latest turn.")]
    output_text: Annotated[str, Field(description="The output's texts, joined by a blank line.")]
    messages: Annotated[list[UIMessage], Field(description="The whole conversation.")]
    files: Annotated[list[WorkerFile], Field(description="What the worker published.")]
    sources: Annotated[list[Source], Field(description="Pages it used, each once.")]
    metadata: Annotated[dict[str, Any], Field(description="As given, and `model`.")]
    costs: Annotated[Costs | None, Field(description="Of the worker's whole life.")] = None
    usage: Annotated[Usage | None, Field(description="Of the worker's whole life.")] = None
    url: Annotated[str, Field(description="Where a person sees this worker.")]


class WorkerPage(BaseModel):
    """Workers, newest first."""

    workers: Annotated[list[Worker], Field(description="Without their messages.")]
    nextCursor: Annotated[str | None, Field(description="Pass it as `cursor`.")]


class Turn(BaseModel):
    """One instruction and everything that the agent does about it."""

    id: Annotated[str, Field(description="Opaque.")]
    workerId: Annotated[str, Field(description="Whose turn it is.")]
    status: Annotated[WorkerStatus, Field(description="Of this turn.")]
    source: Annotated[
        Literal["api", "schedule", "email", "agent"], Field(description="What started it.")
    ]
    input: Annotated[str, Field(description="The instruction.")]
    budget: Annotated[BudgetName, Field(description="Its caps.")]
    output_text: Annotated[str, Field(description="Its answer.")]
    error: Annotated[TurnError | None, Field(description="Why it failed.")]
    incomplete_details: Annotated[
        IncompleteDetails | None, Field(description="Why it is cut short.")
    ]
    costs: Annotated[Costs, Field(description="Of this turn.")]
    usage: Annotated[Usage, Field(description="Of this turn.")]
    createdAt: Annotated[str, Field(description="ISO 8601, UTC.")]
    startedAt: Annotated[str | None, Field(description="When it ran first.")]
    endedAt: Annotated[str | None, Field(description="When it ended.")]


class TurnPage(BaseModel):
    """Turns of a worker, newest first."""

    turns: Annotated[list[Turn], Field(description="A page of them.")]
    nextCursor: Annotated[str | None, Field(description="Pass it as `cursor`.")]


class _Schedule(BaseModel):
    id: Annotated[str, Field(description="Opaque.", examples=["sch_0198c2f4a3b27d10a1b2c3d4"])]
    input: Annotated[str, Field(description="The instruction of each of its turns.")]
    budget: Annotated[BudgetName, Field(description="The caps of each of its turns.")]
    nextRunAt: Annotated[str, Field(description="ISO 8601, UTC.")]
    paused: Annotated[bool, Field(description="Whether it fires nothing for now.")]


class ScheduledWorkerSchedule(_Schedule):
    """Fires once, at a moment."""

    type: Annotated[Literal["scheduled"], Field(description="Its type.")]


class DelayedWorkerSchedule(_Schedule):
    """Fires once, after a delay."""

    type: Annotated[Literal["delayed"], Field(description="Its type.")]
    delayInSeconds: Annotated[int, Field(description="Counted from its creation.")]


class CronWorkerSchedule(_Schedule):
    """Fires again and again, by a cron expression."""

    type: Annotated[Literal["cron"], Field(description="Its type.")]
    cron: Annotated[str, Field(description="As it was given.")]
    timezone: Annotated[str, Field(description="IANA name.")]


class IntervalWorkerSchedule(_Schedule):
    """Fires again and again, so many seconds apart."""

    type: Annotated[Literal["interval"], Field(description="Its type.")]
    intervalSeconds: Annotated[int, Field(description="Counted from its creation.")]


WorkerSchedule = Annotated[
    ScheduledWorkerSchedule | DelayedWorkerSchedule | CronWorkerSchedule | IntervalWorkerSchedule,
    Field(discriminator="type"),
]


class ScheduleList(BaseModel):
    """The schedules of a worker that have something to do yet, soonest first."""

    schedules: Annotated[list[WorkerSchedule], Field(description="All of them.")]
    workerId: Annotated[str, Field(description="Whose they are.")]


class SkippedFiring(BaseModel):
    """Why no turn came of a time at which a schedule was due."""

    reason: Annotated[
        Skip,
        Field(description="For programs."),
    ]
    message: Annotated[str, Field(description="For people.")]
    times: Annotated[
        int, Field(ge=1, description="How many times in a row, of which `dueAt` is the first.")
    ]


class Firing(BaseModel):
    """What came of a time at which a schedule was due."""

    dueAt: Annotated[str, Field(description="ISO 8601, UTC.")]
    firedAt: Annotated[str, Field(description="ISO 8601, UTC: when the server came to it.")]
    turnId: Annotated[str | None, Field(description="The turn that it started.")]
    skipped: Annotated[SkippedFiring | None, Field(description="Why it started none.")]


class ScheduleDetails(BaseModel):
    """A schedule, what came of it, and what will."""

    id: Annotated[str, Field(description="Opaque.")]
    type: Annotated[
        Literal["scheduled", "delayed", "cron", "interval"],
        Field(description="Decides which of the next four there are."),
    ]
    delayInSeconds: Annotated[int | None, Field(description="Counted from its creation.")] = None
    cron: Annotated[str | None, Field(description="As it was given.")] = None
    timezone: Annotated[str | None, Field(description="IANA name.")] = None
    intervalSeconds: Annotated[int | None, Field(description="Counted from its creation.")] = None
    input: Annotated[str, Field(description="The instruction of each of its turns.")]
    budget: Annotated[BudgetName, Field(description="The caps of each of its turns.")]
    nextRunAt: Annotated[
        str | None, Field(description="ISO 8601, UTC; null once it has fired for good.")
    ]
    paused: Annotated[bool, Field(description="Whether it fires nothing for now.")]
    createdAt: Annotated[str, Field(description="ISO 8601, UTC.")]
    createdBy: Annotated[
        Literal["api", "agent"], Field(description="A caller, or the worker's own agent.")
    ]
    firings: Annotated[list[Firing], Field(description="The last 50, newest first.")]
    nextRuns: Annotated[list[str], Field(description="The next 10 times, ISO 8601, UTC.")]


class ScheduleCancelled(BaseModel):
    """It does not fire again."""

    cancelled: Annotated[Literal[True], Field(description="Always true.")]


class Email(BaseModel):
    """A mail that came in or went out."""

    id: Annotated[str, Field(description="Opaque.")]
    direction: Annotated[Literal["in", "out"], Field(description="Seen from the worker.")]
    status: Annotated[
        Literal[
            "turn", "bounce", "auto_reply", "list", "loop", "too_many",
            "pending", "delivered", "failed",
        ],
        Field(
            description="What became of it. In: `turn` if it started one, else why not. Out: "
            "whether the next host has taken it."
        ),
    ]  # fmt: skip
    sender: Annotated[str, Field(alias="from", description="Its header's address.")]
    to: Annotated[str, Field(description="Its recipient.")]
    subject: Annotated[str, Field(description="Decoded.")]
    messageId: Annotated[str | None, Field(description="With its angle brackets.")]
    turnId: Annotated[str | None, Field(description="That it started, or that sent it.")]
    size: Annotated[int | None, Field(description="Bytes; of what came in.")]
    attempts: Annotated[int | None, Field(description="To deliver it; of what goes out.")]
    error: Annotated[str | None, Field(description="Why the last attempt failed.")]
    verdict: Annotated[
        dict[str, Any] | None, Field(description="What is proven of its sender; of what came in.")
    ]
    createdAt: Annotated[str, Field(description="ISO 8601, UTC.")]
    deliveredAt: Annotated[str | None, Field(description="ISO 8601, UTC; of what went out.")]


class EmailPage(BaseModel):
    """Mails of a worker, newest first."""

    emails: Annotated[list[Email], Field(description="A page of them.")]
    nextCursor: Annotated[str | None, Field(description="Pass it as `cursor`.")]


class EmailSettings(BaseModel):
    """Whose mail the workers of an organization take, and to whom they may write."""

    allow: Annotated[
        list[str],
        Field(description="Addresses, domains, and `*.` before a domain for all below it."),
    ]
    isDefault: Annotated[
        bool, Field(description="Whether it is the server's list, for want of one's own.")
    ]


class EmailSettingsUpdate(BaseModel):
    """A new list."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"allow": ["ada@example.com", "example.org"]}]}
    )

    allow: Annotated[
        list[str] | None,
        Field(
            description="Addresses, domains, and `*.` before a domain for all below it; null "
            "returns to the server's list.",
            max_length=1000,
        ),
    ]

    @field_validator("allow", mode="after")
    @classmethod
    def _canonical(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else list(mailbox.parse_allow_list(value))


class InboundEmailResult(BaseModel):
    """What became of a mail at one recipient."""

    recipient: Annotated[str, Field(description="As it was given.")]
    status: Annotated[
        Literal["stored", "refused"], Field(description="Refused: do not send it again.")
    ]
    reason: Annotated[str | None, Field(description="Why it was refused, as SMTP says it.")]


class InboundEmail(BaseModel):
    """What became of a mail."""

    results: Annotated[list[InboundEmailResult], Field(description="One per recipient.")]


class BudgetCaps(BaseModel):
    """What one turn with this budget may use."""

    name: Annotated[BudgetName, Field(description="As `budget` of an instruction names it.")]
    modelCalls: Annotated[int | None, Field(description="Calls; null means no cap.")]
    usd: Annotated[float | None, Field(description="US dollars; null means no cap.")]
    seconds: Annotated[float | None, Field(description="Wall clock; null means no cap.")]


class BudgetList(BaseModel):
    """The budgets of this server."""

    budgets: Annotated[list[BudgetCaps], Field(description="Each with its caps.")]


class Deleted(BaseModel):
    """It is gone."""

    deleted: Annotated[Literal[True], Field(description="Always true.")]


class Health(BaseModel):
    """Whether the server can do its work."""

    status: Annotated[Literal["ok", "unavailable"], Field(description="The verdict.")]
    problems: Annotated[dict[str, str], Field(description="What does not answer, and why.")]
