"""What is sent to give a worker an instruction."""

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    field_validator,
)

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
