"""The caps of one turn: calls, money and time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from handinger.settings import BudgetLimits, BudgetName, Settings

# So much of a turn's time is kept for its concluding answer, but never more than a minute.
_CONCLUDING_SHARE = 0.2
_CONCLUDING_MAX_S = 60.0

_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """The caps of one turn that has started."""

    name: BudgetName
    limits: BudgetLimits
    started_at: datetime

    @property
    def cap_nano(self) -> int | None:
        """How much money the turn may cost, in nano-dollars."""
        if self.limits.usd is None:
            return None
        return int(Decimal(str(self.limits.usd)) * _NANO)

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


def limits_of(settings: Settings, name: BudgetName, overrides: Mapping[str, Any]) -> BudgetLimits:
    """The caps of a level: the organization's own, else the server's."""
    general = settings.budgets[name]
    own = overrides.get(name)
    if not own:
        return general
    return BudgetLimits.model_validate({**general.model_dump(by_alias=True), **own})


def allowance(
    settings: Settings,
    name: BudgetName,
    *,
    started_at: datetime,
    overrides: Mapping[str, Any] | None = None,
) -> Allowance:
    """The caps that hold for a turn; `overrides` are its organization's own levels."""
    limits = limits_of(settings, name, overrides or {})
    return Allowance(name=name, limits=limits, started_at=started_at)
