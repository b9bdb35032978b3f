"""Workers, their turns, and what these made."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
)

from handinger.api.models.spending import Costs, Usage
from handinger.settings import BudgetName


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


class Deleted(BaseModel):
    """It is gone."""

    deleted: Annotated[Literal[True], Field(description="Always true.")]
