"""Tools with a price: they cost what they say, never more than is left, and are paid for once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic_ai import RunContext, Tool
from tests.support.spending import NANO, ONLY_MONEY, Answer, Stage, stage

from handinger import keys
from handinger.agent.shell import Shell
from handinger.agent.tools import commands
from handinger.agent.tools.context import ToolContext, ToolPrice, effects, reserved_nano
from handinger.budgets import Spending, accounts
from handinger.storage.database import TenantStatements
from handinger.storage.embedded import EmbeddedPostgres
from handinger.turns.accept import NewTurn

pytestmark = pytest.mark.anyio


async def buy(ctx: RunContext[ToolContext], usd: float) -> str:
    """Buy something, at half of what it may cost."""
    effects(ctx).spending += Spending(tool_cost_nano=round(usd * NANO / 2))
    return f"bought for {usd / 2}"


async def compute(ctx: RunContext[ToolContext]) -> str:
    """Compute as long as there is money."""
    granted = reserved_nano(ctx)
    assert granted is not None
    effects(ctx).spending += Spending(sandbox_cost_nano=granted)
    return f"computed for {granted}"


BUY = Tool(
    buy,
    metadata={"price": ToolPrice("tool", lambda _, args: round(float(args["usd"]) * NANO))},
)
COMPUTE = Tool(
    compute,
    metadata={"price": ToolPrice("sandbox", lambda _settings, _args: NANO, is_divisible=True)},
)


async def test_tools_of_one_step_are_reserved_together(postgres: EmbeddedPostgres, tmp_path: Path):
    """Each alone would fit; the third does not any more."""

    def answers(number: int) -> Answer:
        if number > 1:
            return Answer("Done.", output_tokens=10)
        return Answer(calls=[("buy", {"usd": 0.2})] * 3, output_tokens=10)

    async with stage(postgres, tmp_path, answers, tools=[BUY], budgets=ONLY_MONEY) as here:
        turn = await here.run("standard")
        rows = await here.ledger(turn)
    assert turn["tool_cost_nano"] == 2 * 0.1 * NANO
    assert [row["subject"] for row in rows] == ["a:b", "buy", "buy", "a:b"]
    assert turn["cost_nano"] <= 0.5 * NANO
    assert turn["incomplete_reason"] is None


async def test_a_call_that_is_not_made_says_whose_money_it_is(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """Also when it is the organization's, which a larger budget would not help."""

    def answers(number: int) -> Answer:
        if number % 2 == 0:
            return Answer("Done.", output_tokens=10)
        return Answer(calls=[("buy", {"usd": 0.6})], output_tokens=10)

    async with stage(postgres, tmp_path, answers, tools=[BUY], budgets=ONLY_MONEY) as here:
        poor = await here.run("standard")
        organization = await keys.first_organization(here.database)
        await accounts.grant(here.database, organization.id, credits=50)
        try:
            capped = await here.run("high")
        finally:
            await accounts.lift(here.database, organization.id)
    said = [str(turn["assistant_message"]) for turn in (poor, capped)]
    assert "and the budget 'standard' of this turn does not cover that" in said[0]
    assert "and what this organization has left of its credits" in said[1]
    assert [turn["tool_cost_nano"] for turn in (poor, capped)] == [0, 0]


async def test_a_call_that_never_began_costs_nothing(postgres: EmbeddedPostgres, tmp_path: Path):
    """The time is over while the call before it still runs."""
    began: list[str] = []

    async def wait(ctx: RunContext[ToolContext], name: str) -> str:
        """Wait for ever."""
        began.append(name)
        await asyncio.Event().wait()
        return name

    price = ToolPrice("tool", lambda _settings, _args: NANO // 100)
    tool = Tool(wait, sequential=True, metadata={"price": price})

    def answers(number: int) -> Answer:
        if number > 1:
            return Answer("Done.", output_tokens=10)
        return Answer(calls=[("wait", {"name": "a"}), ("wait", {"name": "b"})], output_tokens=10)

    caps = {"standard": {"usd": 0.5, "seconds": 3}}
    async with stage(postgres, tmp_path, answers, tools=[tool], budgets=caps) as here:
        turn = await here.run("standard")
        rows = await here.ledger(turn)
    assert began == ["a"]
    assert [(row["kind"], row["settled"]) for row in rows] == [
        ("model", True),
        ("tool", False),
        ("model", True),
    ]
    assert turn["tool_cost_nano"] == NANO // 100


async def test_a_tool_that_makes_do_with_less_gets_what_is_left_beside_the_answer(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    def answers(number: int) -> Answer:
        return Answer("Done.") if number > 1 else Answer(calls=[("compute", {})], output_tokens=10)

    async with stage(postgres, tmp_path, answers, tools=[COMPUTE], budgets=ONLY_MONEY) as here:
        turn = await here.run("standard")
    assert 0.3 * NANO < turn["sandbox_cost_nano"] < 0.5 * NANO
    assert turn["cost_nano"] <= 0.5 * NANO
    assert turn["output"][-1]["content"][0]["text"] == "Done."


# Calls that are cut off


def _run_up(began: asyncio.Event) -> Tool[ToolContext]:
    async def run_up(ctx: RunContext[ToolContext], nano: int) -> str:
        """Work until the call is cut off; the meter says so much then."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            effects(ctx).spending += Spending(sandbox_cost_nano=nano)
        return ""

    price = ToolPrice("sandbox", lambda _settings, _args: NANO // 10, is_metered=True)
    return Tool(run_up, metadata={"price": price})


SHORT = {"standard": {"usd": 0.5, "seconds": 2}}


def _once(name: str, **arguments: Any) -> Answer:
    return Answer(calls=[(name, arguments)], output_tokens=10)


async def _tool_rows(here: Stage, turn: dict[str, Any]) -> list[tuple[str, bool, int]]:
    """What was booked for a turn besides its model calls."""
    return [
        (row["subject"], row["settled"], row["cost_nano"])
        for row in await here.ledger(turn)
        if row["kind"] != "model"
    ]


@pytest.mark.parametrize("nano", [0, 7])
async def test_a_metered_call_that_is_cut_off_costs_what_its_meter_says(
    postgres: EmbeddedPostgres, tmp_path: Path, nano: int
):
    def answers(number: int) -> Answer:
        return _once("run_up", nano=nano) if number == 1 else Answer("Done.", output_tokens=10)

    tool = _run_up(asyncio.Event())
    async with stage(postgres, tmp_path, answers, tools=[tool], budgets=SHORT) as here:
        turn = await here.run("standard")
        rows = await _tool_rows(here, turn)
    assert turn["incomplete_reason"] == "budget_exhausted"
    assert rows == ([("run_up", True, nano)] if nano else [])


async def _held_by_a_stop(here: Stage, accepted: NewTurn, moment: asyncio.Event) -> int:
    """What stays reserved for a turn whose server stops at this moment."""
    stopping = asyncio.create_task(here.carry_out(accepted))
    async with asyncio.timeout(30):
        await moment.wait()
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    return (await here.row(accepted))["reserved_nano"]


@pytest.mark.parametrize("nano", [0, 7])
async def test_and_so_does_one_that_a_stopping_server_cuts_off(
    postgres: EmbeddedPostgres, tmp_path: Path, nano: int
):
    """The next attempt books it, and does not repeat the call."""

    def answers(number: int) -> Answer:
        return _once("run_up", nano=nano) if number == 1 else Answer("Done.", output_tokens=10)

    began = asyncio.Event()
    tool = _run_up(began)
    async with stage(postgres, tmp_path, answers, tools=[tool], budgets=ONLY_MONEY) as here:
        accepted = await here.accept("standard")
        held = await _held_by_a_stop(here, accepted, began)
        turn = await here.carry_out(accepted)
        rows = await _tool_rows(here, turn)
    assert held == nano
    assert rows == ([("run_up", False, nano)] if nano else [])
    assert turn["output"][-1]["content"][0]["text"] == "Done."


async def test_and_so_does_one_that_was_cut_off_as_the_server_stops(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its files are being saved, so that the turn has not heard of its end yet."""

    def answers(number: int) -> Answer:
        return _once("run_up", nano=7) if number == 1 else Answer("Done.", output_tokens=10)

    saving = asyncio.Event()

    async def hang(shell: Shell) -> None:
        saving.set()
        await asyncio.Event().wait()

    tool = _run_up(asyncio.Event())
    async with stage(postgres, tmp_path, answers, tools=[tool], budgets=SHORT) as here:
        here.sandboxes = NeverStarts()  # pyright: ignore[reportAttributeAccessIssue] # All that is used of them.
        accepted = await here.accept("standard")
        with monkeypatch.context() as patched:
            patched.setattr(Shell, "salvage", hang)
            held = await _held_by_a_stop(here, accepted, saving)
        turn = await here.carry_out(accepted)
        rows = await _tool_rows(here, turn)
    assert held == 7
    assert rows == [("run_up", False, 7)]


class NeverStarts:
    """Sandboxes that take their time."""

    async def take(self) -> None:
        await asyncio.Event().wait()


async def test_a_command_that_is_cut_off_while_its_sandbox_starts_costs_nothing(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    def answers(number: int) -> Answer:
        if number > 1:
            return Answer("Done.", output_tokens=10)
        return _once("run_command", command="true")

    async with stage(
        postgres,
        tmp_path,
        answers,
        tools=commands.tools(),
        budgets=SHORT,
        sandbox_usd_per_second=0.001,
    ) as here:
        here.sandboxes = NeverStarts()  # pyright: ignore[reportAttributeAccessIssue] # All that is used of them.
        turn = await here.run("standard")
        rows = await _tool_rows(here, turn)
    assert turn["incomplete_reason"] == "budget_exhausted"
    assert "cut off" in str(turn["assistant_message"])
    assert (rows, turn["sandbox_cost_nano"]) == ([], 0)


# Results that cannot be stored


async def spoil(ctx: RunContext[ToolContext]) -> str:
    """Buy something, and ask for what the database refuses."""

    async def refused(sql: TenantStatements) -> None:
        await sql.run("SELECT 1 / (%(one)s - 1)", one=1)

    effects(ctx).spending += Spending(tool_cost_nano=12345)
    effects(ctx).writes.append(refused)
    return "bought"


SPOIL = Tool(spoil, metadata={"price": ToolPrice("tool", lambda _settings, _args: NANO // 100)})


async def test_a_call_whose_result_cannot_be_stored_is_paid_for(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    async with stage(
        postgres, tmp_path, lambda _: _once("spoil"), tools=[SPOIL], budgets=ONLY_MONEY
    ) as here:
        turn = await here.run("standard")
        rows = await _tool_rows(here, turn)
    assert turn["error"]["code"] == "internal_error"
    assert rows == [("spoil", True, 12345)]


# Whose money it is


@asynccontextmanager
async def _capped(here: Stage, limit: str, cap_nano: int) -> AsyncGenerator[None]:
    """The organization of all turns here has so much, by one of its limits, until the end."""
    organization = await keys.first_organization(here.database)
    if limit == "month":
        spent = await _spent(here)
        await accounts.cap_month(here.database, organization.id, spent + cap_nano)
    elif limit == "balance":
        await accounts.grant(here.database, organization.id, credits=cap_nano * 100 // NANO)
    else:
        caps = {"usd": cap_nano / NANO, "modelCalls": None, "seconds": None}
        await accounts.set_budget(here.database, organization.id, "unlimited", caps)
    try:
        yield
    finally:
        await accounts.cap_month(here.database, organization.id, None)
        await accounts.lift(here.database, organization.id)
        await accounts.set_budget(here.database, organization.id, "unlimited", {})


async def _spent(here: Stage) -> int:
    async with here.database.system().statements() as sql:
        return int(await sql.value("SELECT coalesce(sum(cost_nano), 0) FROM ledger"))


LIMITS = ["month", "balance", "budget"]


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_limit_of_an_organization_is_one_of_its_tools_as_well(
    postgres: EmbeddedPostgres, tmp_path: Path, limit: str
):
    """Of three searches two fit, and then a command gets what is left beside the answer."""

    def answers(number: int) -> Answer:
        calls: list[list[tuple[str, dict[str, Any]]]] = [
            [("buy", {"usd": 0.2})] * 3,
            [("compute", {})],
        ]
        if number > len(calls):
            return Answer("Done.", output_tokens=10)
        return Answer(calls=calls[number - 1], output_tokens=10)

    async with stage(postgres, tmp_path, answers, tools=[BUY, COMPUTE], budgets=ONLY_MONEY) as here:
        async with _capped(here, limit, NANO // 2):
            turn = await here.run("unlimited")
        rows = await _tool_rows(here, turn)
    assert [row[0] for row in rows] == ["buy", "buy", "compute"]
    assert turn["tool_cost_nano"] == 0.2 * NANO
    assert 0.1 * NANO < turn["sandbox_cost_nano"] < 0.3 * NANO
    assert turn["cost_nano"] <= 0.5 * NANO
    assert turn["output"][-1]["content"][0]["text"] == "Done."
    whose = "the budget 'unlimited' of this turn" if limit == "budget" else "this organization has"
    assert whose in str(turn["assistant_message"])


_spenders = st.builds(
    Answer,
    calls=st.lists(
        st.one_of(
            st.tuples(st.just("buy"), st.fixed_dictionaries({"usd": st.floats(0, 0.3)})),
            st.tuples(st.just("compute"), st.just({})),
        ),
        max_size=4,
    ),
    output_tokens=st.one_of(st.none(), st.integers(1, 300)),
)


@pytest.mark.parametrize("limit", LIMITS)
async def test_tools_and_calls_together_never_pass_a_limit_of_their_organization(
    postgres: EmbeddedPostgres, tmp_path: Path, limit: str
):
    script: list[Answer] = []
    async with stage(
        postgres,
        tmp_path,
        lambda number: script[(number - 1) % len(script)],
        tools=[BUY, COMPUTE],
        budgets=ONLY_MONEY,
    ) as here:

        async def example(answers: list[Answer], cents: int) -> None:
            script[:] = answers
            here.calls.clear()
            async with _capped(here, limit, cents * NANO // 100):
                turn = await here.run("unlimited")
                account = await accounts.show(here.database, turn["organization_id"])
            assert turn["cost_nano"] <= cents * NANO // 100
            if limit == "balance":
                assert account is not None
                assert account.balance_credits == cents - turn["credits"] >= 0
            if limit == "month":
                assert account is not None
                assert account.monthly_cap_nano is not None
                assert account.month_nano <= account.monthly_cap_nano

        runner = asyncio.get_running_loop()

        @hypothesis_settings(
            max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
        @given(st.lists(_spenders, min_size=1, max_size=3), st.integers(1, 60))
        def examples(answers: list[Answer], cents: int) -> None:
            asyncio.run_coroutine_threadsafe(example(answers, cents), runner).result()

        await asyncio.to_thread(examples)
