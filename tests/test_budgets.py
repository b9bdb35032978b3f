"""Caps and sums of a turn."""

from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handinger import budgets, settings
from handinger.budgets import Allowance, Spending
from handinger.budgets.spending import COLUMNS, each_column
from handinger.settings import BudgetLimits

START = datetime(2026, 1, 1, tzinfo=UTC)


def _allowance(*, calls: int | None = None, seconds: float | None = None) -> Allowance:
    return Allowance("low", BudgetLimits(model_calls=calls, seconds=seconds), START)


@pytest.mark.parametrize(
    ("made", "concludes", "spent"),
    [(0, False, False), (2, False, False), (3, True, False), (4, True, True), (9, True, True)],
)
def test_the_last_call_that_fits_concludes(made: int, concludes: bool, spent: bool) -> None:
    allowance = _allowance(calls=4)
    assert allowance.must_conclude(calls_made=made, now=START) is concludes
    assert allowance.is_spent(calls_made=made, now=START) is spent


def test_time_is_kept_for_the_concluding_call() -> None:
    allowance = _allowance(seconds=100)
    assert not allowance.must_conclude(calls_made=0, now=START + timedelta(seconds=79))
    assert allowance.must_conclude(calls_made=0, now=START + timedelta(seconds=80))
    assert not allowance.is_spent(calls_made=0, now=START + timedelta(seconds=99))
    assert allowance.is_spent(calls_made=0, now=START + timedelta(seconds=100))


def test_no_more_than_a_minute_is_kept() -> None:
    assert _allowance(seconds=7200).conclude_at == START + timedelta(seconds=7140)


def test_no_cap_never_ends() -> None:
    allowance = _allowance()
    assert not allowance.must_conclude(calls_made=10**6, now=START + timedelta(days=400))
    assert not allowance.is_spent(calls_made=10**6, now=START + timedelta(days=400))
    assert allowance.deadline is None


def test_the_settings_decide_the_caps() -> None:
    allowance = budgets.allowance(settings.load(), "low", started_at=START)
    assert allowance.limits.model_calls == 4
    assert allowance.deadline == START + timedelta(seconds=120)


_counts = st.integers(min_value=0, max_value=10**12)
_spendings = st.builds(Spending, *([_counts] * 10))


@given(_spendings, _spendings)
def test_sums_agree_with_their_parts(one: Spending, other: Spending) -> None:
    both = one + other
    assert asdict(both) == {
        name: value + asdict(other)[name] for name, value in asdict(one).items()
    }
    costs, usage = both.costs_json(), both.usage_json(credits=0, duration_ms=0)
    assert usage["costUsd"] == pytest.approx(sum(costs.values()), abs=1e-9, rel=1e-12)
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    credits = both.credits(10_000_000)
    assert credits * 10_000_000 >= both.cost_nano > (credits - 1) * 10_000_000


def test_a_credit_is_worth_what_the_setting_says_and_is_never_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cent = settings.load().nano_per_credit
    assert Spending(model_cost_nano=10_000_001).credits(cent) == 2
    monkeypatch.setenv("HANDINGER_USD_PER_CREDIT", "0.5")
    half_a_dollar = settings.load().nano_per_credit
    told = [Spending(tool_cost_nano=nano).credits(half_a_dollar) for nano in (0, 1, 500_000_001)]
    assert told == [0, 1, 2]


def test_spending_is_read_from_its_columns_in_the_order_of_its_fields():
    assert [field.name for field in fields(Spending)] == list(COLUMNS)
    assert each_column("t.@").startswith("t.steps, t.input_tokens, ")
