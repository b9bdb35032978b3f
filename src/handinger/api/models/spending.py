"""What was used, what it cost, and what may be."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from handinger.settings import BudgetName


class Costs(BaseModel):
    """In USD."""

    modelCostUsd: Annotated[float, Field(ge=0, description="The agent's own model calls.")]
    toolCostUsd: Annotated[float, Field(ge=0, description="Paid tools.")]
    sandboxCostUsd: Annotated[float, Field(ge=0, description="Compute time of commands.")]
    internalCostUsd: Annotated[
        float, Field(ge=0, description="Model calls that the platform makes for itself.")
    ]


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


class Usage(UsageTotals):
    """Tokens, steps, money and time."""

    credits: Annotated[
        int,
        Field(ge=0, description="Of 0.01 USD, unless configured otherwise; rounded up per turn."),
    ]
    durationMs: Annotated[int, Field(ge=0, description="Time in which turns ran.")]


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


class BudgetCaps(BaseModel):
    """What one turn with this budget may use."""

    name: Annotated[BudgetName, Field(description="As `budget` of an instruction names it.")]
    modelCalls: Annotated[int | None, Field(description="Calls; null means no cap.")]
    usd: Annotated[float | None, Field(description="US dollars; null means no cap.")]
    seconds: Annotated[float | None, Field(description="Wall clock; null means no cap.")]


class BudgetList(BaseModel):
    """The budgets of this server."""

    budgets: Annotated[list[BudgetCaps], Field(description="Each with its caps.")]
