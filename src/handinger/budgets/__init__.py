"""What a turn may use, calls, money and time; what it holds in reserve, and what it did use."""

from handinger.budgets.allowance import Allowance, allowance, limits_of
from handinger.budgets.ledger import Charge, Kind, Reservation, Reserve
from handinger.budgets.spending import Spending

__all__ = [
    "Allowance",
    "Charge",
    "Kind",
    "Reservation",
    "Reserve",
    "Spending",
    "allowance",
    "limits_of",
]
