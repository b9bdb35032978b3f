"""Schedules, and what became of their firings."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
)

from handinger.api.models.instructions import Budget, Input
from handinger.schedules.records import Skip
from handinger.schedules.when import When
from handinger.settings import BudgetName


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


class _Schedule(BaseModel):
    id: Annotated[str, Field(description="Opaque.", examples=["sch_0198c2f4a3b27d10a1b2c3d4"])]
    input: Annotated[str, Field(description="The instruction of each of its turns.")]
    budget: Annotated[BudgetName, Field(description="The caps of each of its turns.")]
    nextRunAt: Annotated[str, Field(description="ISO 8601, UTC.")]
    paused: Annotated[bool, Field(description="Whether it fires nothing for now.")]
    error: Annotated[
        str | None,
        Field(description="Only of one that cannot be read, and so does not fire: what is wrong."),
    ] = None


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
    error: Annotated[
        str | None,
        Field(description="Only of one that cannot be read, and so does not fire: what is wrong."),
    ] = None
    createdAt: Annotated[str, Field(description="ISO 8601, UTC.")]
    createdBy: Annotated[
        Literal["api", "agent"], Field(description="A caller, or the worker's own agent.")
    ]
    firings: Annotated[list[Firing], Field(description="The last 50, newest first.")]
    nextRuns: Annotated[list[str], Field(description="The next 10 times, ISO 8601, UTC.")]


class ScheduleCancelled(BaseModel):
    """It does not fire again."""

    cancelled: Annotated[Literal[True], Field(description="Always true.")]
