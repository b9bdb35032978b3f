"""What is planned and reserved, in the corners that whole turns hardly come to."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from pydantic_ai import Tool
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolCallPart, UserPromptPart
from tests.support.spending import NANO

from handinger import prices, settings
from handinger.agent.counting import Counter
from handinger.agent.metering import Meter, Metering, Remeasured
from handinger.agent.tools.context import ToolPrice
from handinger.budgets import Allowance, Reservation, Spending
from handinger.settings import BudgetLimits

_TIERED = {"input": 3, "output": 15, "tiers": [{"above": 8000, "input": 30, "output": 150}]}


async def buy() -> str:
    """Buy something."""
    return "bought"


def _meter(usd: float) -> Meter:
    configured = settings.load(model="a:b", prices={"a:b": _TIERED}, max_output_tokens=1000)
    price = ToolPrice("tool", lambda _settings, _args: NANO // 100)
    tool = Tool(buy, metadata={"price": price})
    metering = Metering(
        configured, prices.of(configured), output_limit=None, tools={"buy": tool.tool_def}
    )
    allowance = Allowance("low", BudgetLimits(usd=usd), datetime.now(UTC))
    return Meter(metering, allowance, model="a:b", instructions="Work.")


def _said(size: int) -> list[ModelMessage]:
    return [ModelRequest(parts=[UserPromptPart("x" * size)])]


def test_the_conclusion_is_kept_at_the_price_of_its_own_size() -> None:
    """The call is small enough for the lower tier, and the one that sends its answer too is not."""
    price = prices.of(settings.load(model="a:b", prices={"a:b": _TIERED}))
    assert price is not None
    working = 0
    for cents in range(2, 60):
        meter = _meter(cents / 100)
        meter.for_call(_said(5500), step=1)(Spending(), None)
        plan = meter.plan
        if plan is None or plan.concludes:
            continue
        working += 1
        held = plan.reservation
        assert held.input_tokens < 8000
        later = held.input_tokens + held.output_tokens + 512
        concluding = price.worst_case(later).cost_nano(later, 512)
        assert held.cost_nano + concluding <= cents * NANO // 100
    assert working > 10


def _ids(reservations: Sequence[Reservation]) -> list[str]:
    return ["kept" if held.is_kept else held.call_id for held in reservations]


def test_while_some_tools_are_open_theirs_and_the_conclusions_stay_reserved() -> None:
    meter = _meter(1.0)
    calls = [ToolCallPart("buy", {}, tool_call_id=name) for name in ("a", "b")]
    reserved = meter.for_tools(calls, _said(100), step=1)(Spending(), NANO)
    assert _ids(reserved) == ["a", "b", "kept"]
    assert _ids(meter.for_open_tools(calls[1:])(Spending(), NANO)) == ["b", "kept"]


def test_what_the_last_look_finds_is_reserved_for_in_the_next_plan() -> None:
    """Also if nobody knows where it comes from; else the call would never be made."""
    meter = _meter(5.0)
    meter.for_call(_said(100), step=1)(Spending(), None)
    with pytest.raises(Remeasured):
        meter.require(_said(3000))
    meter.for_call(_said(100), step=1)(Spending(), None)
    meter.require(_said(3000))
    # Of the next step's request it says nothing.
    meter.for_call(_said(100), step=2)(Spending(), None)
    with pytest.raises(Remeasured):
        meter.require(_said(3000))


def test_a_count_says_nothing_of_the_conversation_that_a_summary_makes() -> None:
    meter = _meter(5.0)
    assert meter.bounds.believe(1000, Counter(counts_all=True), of=_said(30_000))
    assert meter.bounds.of(_said(30_000)).tokens < 5000
    meter.for_summary(_said(100), output=100, step=1)(Spending(), None)
    assert meter.bounds.of(_said(20_000)).tokens > 20_000
