"""What was used and what it cost."""

from dataclasses import asdict, dataclass, fields
from typing import Any, LiteralString


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

    def credits(self, nano_per_credit: int) -> int:
        """What one turn costs in credits, rounded up."""
        return -(-self.cost_nano // nano_per_credit)

    @property
    def costs_nano(self) -> dict[str, int]:
        """The four costs by their kind."""
        return {
            "model": self.model_cost_nano,
            "tool": self.tool_cost_nano,
            "sandbox": self.sandbox_cost_nano,
            "internal": self.internal_cost_nano,
        }

    def costs_json(self) -> dict[str, Any]:
        """The wire's `costs`, in USD."""
        return {f"{kind}CostUsd": nano / 1e9 for kind, nano in self.costs_nano.items()}

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


# The columns that hold it, in the order of the fields.
COLUMNS: tuple[LiteralString, ...] = (
    "steps",
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "model_cost_nano",
    "tool_cost_nano",
    "sandbox_cost_nano",
    "internal_cost_nano",
)


def each_column(pattern: LiteralString) -> LiteralString:
    """An SQL list with the pattern for each column, whose name takes the place of `@`."""
    listed: list[LiteralString] = [pattern.replace("@", name) for name in COLUMNS]
    return ", ".join(listed)


ADD_TO_COLUMNS: LiteralString = each_column("@ = @ + %(@)s")
