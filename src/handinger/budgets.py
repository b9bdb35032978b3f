"""What a turn may use, calls, money and time, and what it did use."""

from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from handinger.settings import BudgetLimits, BudgetName, Settings

# So much of a turn's time is kept for its concluding answer, but never more than a minute.
_CONCLUDING_SHARE = 0.2
_CONCLUDING_MAX_S = 60.0

# One credit is 0.01 USD.
NANO_PER_CREDIT = 10_000_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """The caps of one turn that has started."""

    name: BudgetName
    limits: BudgetLimits
    started_at: datetime

    @property
    def deadline(self) -> datetime | None:
        """When the turn is cut short, whatever it does."""
        if self.limits.seconds is None:
            return None
        return self.started_at + timedelta(seconds=self.limits.seconds)

    @property
    def conclude_at(self) -> datetime | None:
        """From when on only the concluding call may start."""
        if self.limits.seconds is None:
            return None
        kept_s = min(self.limits.seconds * _CONCLUDING_SHARE, _CONCLUDING_MAX_S)
        return self.started_at + timedelta(seconds=self.limits.seconds - kept_s)

    def must_conclude(self, *, calls_made: int, now: datetime) -> bool:
        """Whether the next model call is the last one that fits."""
        cap = self.limits.model_calls
        if cap is not None and calls_made >= cap - 1:
            return True
        return self.conclude_at is not None and now >= self.conclude_at

    def is_spent(self, *, calls_made: int, now: datetime) -> bool:
        """Whether not even one more model call fits."""
        cap = self.limits.model_calls
        if cap is not None and calls_made >= cap:
            return True
        return self.deadline is not None and now >= self.deadline


def allowance(settings: Settings, name: BudgetName, *, started_at: datetime) -> Allowance:
    """The caps that this server sets for a budget."""
    return Allowance(name=name, limits=settings.budgets[name], started_at=started_at)


@dataclass(frozen=True, slots=True)
class Spending:
    """What was used and what it cost, in tokens and nano-dollars (1e-9 USD)."""

    steps: int = 0  # model calls
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    model_cost_nano: int = 0
    tool_cost_nano: int = 0
    sandbox_cost_nano: int = 0
    internal_cost_nano: int = 0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Spending)))

    def columns(self) -> dict[str, int]:
        """By the names of the columns that hold it."""
        return asdict(self)

    @property
    def cost_nano(self) -> int:
        """All four costs."""
        return (
            self.model_cost_nano
            + self.tool_cost_nano
            + self.sandbox_cost_nano
            + self.internal_cost_nano
        )

    @property
    def credits(self) -> int:
        """Credits of one turn, rounded up."""
        return -(-self.cost_nano // NANO_PER_CREDIT)

    def costs_json(self) -> dict[str, Any]:
        """The wire's `costs`, in USD."""
        return {
            "modelCostUsd": self.model_cost_nano / 1e9,
            "toolCostUsd": self.tool_cost_nano / 1e9,
            "sandboxCostUsd": self.sandbox_cost_nano / 1e9,
            "internalCostUsd": self.internal_cost_nano / 1e9,
        }

    def usage_json(self, *, credits: int, duration_ms: int) -> dict[str, Any]:
        """The wire's `usage`."""
        return {
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "reasoningTokens": self.reasoning_tokens,
            "cacheReadTokens": self.cache_read_tokens,
            "cacheWriteTokens": self.cache_write_tokens,
            "totalTokens": self.input_tokens + self.output_tokens,
            "steps": self.steps,
            "costUsd": self.cost_nano / 1e9,
            "credits": credits,
            "durationMs": duration_ms,
        }
