"""A turn never costs more than its cap, whatever a model reports; and all sums agree."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic_ai import RunContext, Tool
from tests.support.spending import (
    AGAIN,
    CAPS_USD,
    INPUT_NANO,
    NANO,
    ONLY_MONEY,
    OUTPUT_NANO,
    Answer,
    limited,
    stage,
)

from handinger import keys
from handinger.agent.tools.context import ToolContext
from handinger.budgets import accounts
from handinger.errors import PriceUnknown
from handinger.ids import WorkerId
from handinger.settings import BudgetName
from handinger.storage.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("budget", ["low", "standard"])
async def test_an_endless_loop_is_ended_by_money_and_concludes(
    postgres: EmbeddedPostgres, tmp_path: Path, budget: BudgetName
):
    async with stage(postgres, tmp_path, lambda _: AGAIN, budgets=ONLY_MONEY) as here:
        turn = await here.run(budget)
    cap = round(CAPS_USD[budget] * NANO)
    assert turn["incomplete_reason"] == "budget_exhausted"
    assert turn["error"] is None
    assert turn["output"][-1]["content"][0]["text"] == "Here is what I have."
    assert [call.concluding for call in here.calls] == [False] * (len(here.calls) - 1) + [True]
    assert len(here.calls) > 2
    assert cap / 3 < turn["cost_nano"] <= cap
    assert all(call.max_tokens for call in here.calls)


async def test_without_a_cap_no_limit_is_sent(postgres: EmbeddedPostgres, tmp_path: Path):
    def answers(number: int) -> Answer:
        return AGAIN if number < 4 else Answer("Done.", input_tokens=1000, output_tokens=100)

    async with stage(postgres, tmp_path, answers, budgets=ONLY_MONEY) as here:
        turn = await here.run("unlimited")
        rows = await here.ledger(turn)
    assert [call.max_tokens for call in here.calls] == [None] * 4
    assert (turn["incomplete_reason"], turn["steps"]) == (None, 4)
    assert [row["settled"] for row in rows] == [True] * 4
    assert rows[-1]["cost_nano"] == 1000 * INPUT_NANO + 100 * OUTPUT_NANO
    assert rows[-1]["unit_prices"] == {"input_mtok": "3", "output_mtok": "15"}
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


async def test_a_budget_that_does_not_cover_one_call_makes_none(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    small = {"low": {"usd": 0.001}}
    async with stage(postgres, tmp_path, lambda _: AGAIN, budgets=small) as here:
        turn = await here.run("low")
    assert here.calls == []
    assert turn["error"]["code"] == "budget_too_small"
    assert "0.001 USD are left" in turn["error"]["message"]
    assert (turn["steps"], turn["cost_nano"]) == (0, 0)


async def test_a_capped_budget_needs_a_price(postgres: EmbeddedPostgres, tmp_path: Path):
    async with stage(
        postgres, tmp_path, lambda _: Answer("Done."), model="no:price", prices={}
    ) as here:
        with pytest.raises(PriceUnknown, match="HANDINGER_PRICES"):
            await here.run("low")  # over HTTP
        capped = await here.run("low", source="schedule")
        uncapped = await here.run("unlimited")
    assert capped["error"]["code"] == "budget_too_small"
    assert "HANDINGER_PRICES" in capped["error"]["message"]
    assert (uncapped["error"], uncapped["cost_nano"], uncapped["steps"]) == (None, 0, 1)
    assert len(here.calls) == 1


async def test_results_that_the_conclusion_cannot_afford_are_sent_in_part(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """The tool's answer alone would cost more than all that is left."""

    def answers(number: int) -> Answer:
        return Answer(calls=[("look", {"size": 400_000})], output_tokens=20)

    async with stage(postgres, tmp_path, answers, budgets=ONLY_MONEY) as here:
        turn = await here.run("low")
    assert [call.concluding for call in here.calls] == [False, True]
    assert here.calls[1].bytes_sent < 20_000
    assert turn["incomplete_reason"] == "budget_exhausted"
    assert turn["output"][-1]["content"][0]["text"] == "Here is what I have."
    assert turn["cost_nano"] <= 0.05 * NANO


async def test_a_next_turn_is_bounded_by_what_was_counted_and_not_by_bytes(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """400,000 bytes would cost more than the cap if each were a token; the provider counted."""

    def answers(number: int) -> Answer:
        return Answer("Done.", input_tokens=100_000, output_tokens=10)

    async with stage(postgres, tmp_path, answers, budgets=ONLY_MONEY) as here:
        first = await here.run("unlimited", input="x" * 100_000 + " y" * 150_000)
        again = await here.run("standard", worker=WorkerId(first["worker_id"]))
    assert again["error"] is None
    assert again["output"][-1]["content"][0]["text"] == "Done."
    assert again["cost_nano"] == 100_000 * INPUT_NANO + 10 * OUTPUT_NANO


async def test_a_model_that_passes_its_limit_is_not_called_again(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """What it did cannot be undone, and is booked; that one call is all that passes the cap."""

    def answers(number: int) -> Answer:
        return Answer(calls=[("look", {})], output_tokens=1_000_000)

    async with stage(postgres, tmp_path, answers, budgets=ONLY_MONEY) as here:
        turn = await here.run("low")
    assert len(here.calls) == 1
    assert turn["cost_nano"] > 15 * NANO
    assert turn["incomplete_reason"] == "budget_exhausted"
    assert turn["error"] is None


async def test_usage_that_is_missing_is_booked_in_full(postgres: EmbeddedPostgres, tmp_path: Path):
    async with stage(
        postgres, tmp_path, lambda _: Answer("Done.", is_measured=False), budgets=ONLY_MONEY
    ) as here:
        turn = await here.run("low")
        (row,) = await here.ledger(turn)
    assert (row["settled"], row["input_tokens"], row["steps"]) == (False, 0, 1)
    assert 0 < turn["cost_nano"] <= 0.05 * NANO


async def test_counts_that_are_no_whole_numbers_are_rounded_up(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """A compatible server may report them; the next call, and the next turn, know them as well."""

    def answers(number: int) -> Answer:
        calls = [("look", dict[str, int]())] if number == 1 else []
        return Answer("Done.", calls, input_tokens=1000.5, output_tokens=2.25)

    async with stage(postgres, tmp_path, answers, budgets=ONLY_MONEY) as here:
        first = await here.run("high")
        again = await here.run("high", worker=WorkerId(first["worker_id"]))
        rows = await here.ledger(first)
    assert [(row["settled"], row["cost_nano"]) for row in rows] == [
        (True, 1001 * INPUT_NANO + 3 * OUTPUT_NANO)
    ] * 2
    assert (first["input_tokens"], first["output_tokens"]) == (2002, 6)
    assert first["assistant_message"]["metadata"]["usage"]["totalTokens"] == 2008
    assert (again["error"], again["input_tokens"]) == (None, 1001)


_tokens = st.one_of(
    st.sampled_from([0, -1, -(10**15), 10**15]),
    st.integers(1, 2000),
    st.integers(-(10**9), 10**9),
    st.floats(),
)
_adversarial = st.builds(
    Answer,
    text=st.sampled_from(["", "word " * 40]),
    calls=st.lists(
        st.tuples(st.just("look"), st.fixed_dictionaries({"size": st.integers(0, 20_000)})),
        max_size=3,
    ),
    input_tokens=st.one_of(st.none(), _tokens),
    output_tokens=st.one_of(st.none(), _tokens),
    more=st.dictionaries(
        st.sampled_from(
            [
                "cache_read_tokens",
                "cache_write_tokens",
                "output_reasoning_tokens",
                "input_audio_tokens",
            ]
        ),
        _tokens,
        max_size=2,
    ),
    is_measured=st.sampled_from([True, True, True, False]),
)


async def test_tools_that_only_the_turn_knows_are_reserved_for_as_well(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """Also where the organization has an account, for which each plan is made twice."""

    async def more(ctx: RunContext[ToolContext], size: int = 10) -> str:
        """Look at more."""
        return "y" * size

    more.__doc__ = "Look at more. " * 200

    def answers(number: int) -> Answer:
        return AGAIN if number < 4 else done

    done = Answer("Done.", output_tokens=10)
    async with stage(postgres, tmp_path, lambda _: done, budgets=ONLY_MONEY) as here:
        await here.run("standard")
        here.answers = answers
        here.unmetered = [Tool(more)]
        async with limited(here):
            turn = await here.run("standard")
        rows = await here.ledger(turn)
    assert (turn["error"], turn["incomplete_reason"], len(rows)) == (None, None, 3)
    without, with_it = (call.reserved_input for call in here.calls[:2])
    assert without is not None
    assert with_it is not None
    assert with_it >= without + len(more.__doc__)


async def test_the_conclusion_is_kept_from_the_other_turns_of_the_organization(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """They take all that is left while the first call is made, and that costs its worst case."""

    def answers(number: int) -> Answer:
        return Answer(calls=[("look", {})], output_tokens=50)

    async with stage(postgres, tmp_path, answers, budgets=ONLY_MONEY) as here:
        organization = await keys.first_organization(here.database)
        await accounts.grant(here.database, organization.id, credits=30)

        async def others_take_all(answer: Answer) -> None:
            async with here.database.system().statements() as sql:
                reserved, balance = await sql.value(
                    "SELECT json_build_array(t.reservations -> 0, a.balance_credits)"
                    " FROM turns t JOIN accounts a USING (organization_id)"
                    " WHERE t.status = 'running'"
                )
            if here.calls[-1].concluding:
                return
            answer.input_tokens = reserved["input_tokens"]
            answer.output_tokens = reserved["output_tokens"]
            if balance:
                await accounts.grant(here.database, organization.id, credits=-balance)

        here.during = others_take_all
        try:
            turn = await here.run("unlimited")
            account = await accounts.show(here.database, organization.id)
        finally:
            await accounts.lift(here.database, organization.id)
    assert here.calls[-1].concluding
    assert turn["output"][-1]["content"][0]["text"] == "Here is what I have."
    assert account is not None
    assert account.balance_credits is not None
    assert account.balance_credits >= 0


async def test_and_so_it_is_while_the_conversation_is_summarized(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    answers = [
        Answer("Said.", input_tokens=5000, output_tokens=10),
        Answer("It was said."),  # The summary is as long as it may be.
        Answer("Done.", output_tokens=10),
    ]
    async with stage(
        postgres,
        tmp_path,
        lambda n: answers[n - 1],
        context_window=6000,
        budgets=ONLY_MONEY,
    ) as here:
        first = await here.run("unlimited", input="All of this was said. " * 300)
        organization = await keys.first_organization(here.database)
        await accounts.grant(here.database, organization.id, credits=30)

        async def others_take_all(answer: Answer) -> None:
            account = await accounts.show(here.database, organization.id)
            assert account is not None
            if len(here.calls) == 2:
                answer.input_tokens = here.calls[-1].reserved_input
                taken = -(account.balance_credits or 0)
                await accounts.grant(here.database, organization.id, credits=taken)

        here.during = others_take_all
        try:
            turn = await here.run("unlimited", worker=WorkerId(first["worker_id"]))
            account = await accounts.show(here.database, organization.id)
        finally:
            await accounts.lift(here.database, organization.id)
    assert len(here.calls) == 3
    assert (turn["error"], turn["output"][-1]["content"][0]["text"]) == (None, "Done.")
    assert account is not None
    assert account.balance_credits is not None
    assert account.balance_credits >= 0


async def test_servers_that_share_a_balance_do_not_overdraw_it(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """Each turn has a server of its own; they know of each other by the database alone."""

    def answers(number: int) -> Answer:
        return Answer("Done.", input_tokens=1000, output_tokens=4000)

    async with stage(
        postgres, tmp_path, answers, budgets=ONLY_MONEY, max_output_tokens=4000
    ) as here:
        organization = await keys.first_organization(here.database)
        await accounts.grant(here.database, organization.id, credits=30)
        try:
            turns = [await here.accept("unlimited") for _ in range(12)]
            async with asyncio.timeout(60):
                await asyncio.gather(*(here.runner().drain(turn.worker_id) for turn in turns))
            account = await accounts.show(here.database, organization.id)
        finally:
            await accounts.lift(here.database, organization.id)
        await here.check()
        ended = [await here.row(turn) for turn in turns]
    made = [turn for turn in ended if turn["steps"]]
    # A call costs 0.063 USD, seven credits.
    assert 1 <= len(made) == len(here.calls) <= 4
    assert account is not None
    assert account.balance_credits == 30 - sum(turn["credits"] for turn in ended) >= 0
    for turn in ended:
        assert turn["steps"] or turn["error"]["code"] == "budget_too_small"


async def test_a_response_with_more_calls_than_the_conclusion_can_answer_is_left_out_of_it(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """The frames of 300 results alone would cost more than all that is left."""

    def answers(number: int) -> Answer:
        return Answer(calls=[("look", {})] * 300, output_tokens=400)

    budgets = {"low": {"modelCalls": None, "usd": 0.05, "seconds": None}}
    async with stage(postgres, tmp_path, answers, budgets=budgets) as here:
        turn = await here.run("low")
    assert [call.concluding for call in here.calls] == [False, True]
    assert here.calls[1].bytes_sent < 1000
    assert turn["incomplete_reason"] == "budget_exhausted"
    assert turn["output"][-1]["content"][0]["text"] == "Here is what I have."
    assert turn["cost_nano"] <= 0.05 * NANO


async def test_a_capped_turn_without_a_price_asks_for_no_summary(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    async with stage(
        postgres,
        tmp_path,
        lambda _: Answer("Said.", input_tokens=5000, output_tokens=10),
        model="no:price",
        prices={},
        context_window=6000,
    ) as here:
        first = await here.run("unlimited", input="All of this was said. " * 300)
        second = await here.run("low", worker=first["worker_id"], source="schedule")
    assert len(here.calls) == 1
    assert second["error"]["code"] == "budget_too_small"
    assert "HANDINGER_PRICES" in second["error"]["message"]


async def test_a_summary_that_does_not_come_leaves_time_for_the_conclusion(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    def answers(number: int) -> Answer:
        return Answer("Said.", input_tokens=5000, output_tokens=10, hangs=number == 2)

    caps = {"standard": {"seconds": None}, "low": {"usd": 5, "seconds": 3}}
    async with stage(postgres, tmp_path, answers, context_window=6000, budgets=caps) as here:
        first = await here.run("standard", input="All of this was said. " * 300)
        second = await here.run("low", worker=first["worker_id"])
        rows = await here.ledger(second)
    assert [(row["kind"], row["settled"]) for row in rows] == [("internal", False), ("model", True)]
    assert (second["error"], second["incomplete_reason"]) == (None, "budget_exhausted")
    assert second["output"][-1]["content"][0]["text"] == "Said."
    assert here.calls[2].concluding
    assert second["steps"] == 1


async def test_whatever_a_model_reports_only_its_last_call_can_pass_the_cap(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    script: list[Answer] = []
    rates = {
        "input": 3,
        "output": 15,
        "cacheRead": 0.3,
        "cacheWrite": 3.75,
        "tiers": [{"above": 8000, "input": 6, "output": 22.5}],
    }
    async with stage(
        postgres,
        tmp_path,
        lambda number: script[(number - 1) % len(script)],
        budgets=ONLY_MONEY,
        prices={"a:b": rates},
    ) as here:

        async def example(answers: list[Answer]) -> None:
            script[:] = answers
            here.calls.clear()
            turn = await here.run("low")
            costs = [row["cost_nano"] for row in await here.ledger(turn)]
            assert sum(costs) == turn["cost_nano"]
            assert len(costs) == len(here.calls) == turn["steps"]
            assert min(turn[f"{counted}_tokens"] for counted in _TOKENS) >= 0
            # Before the last call nothing passed the cap.
            assert sum(costs[:-1]) <= 0.05 * NANO

        runner = asyncio.get_running_loop()

        @hypothesis_settings(
            max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
        @given(st.lists(_adversarial, min_size=1, max_size=4))
        def examples(answers: list[Answer]) -> None:
            asyncio.run_coroutine_threadsafe(example(answers), runner).result()

        await asyncio.to_thread(examples)


_TOKENS = ("input", "output", "reasoning", "cache_read", "cache_write")

_honest = st.builds(
    Answer,
    calls=st.lists(
        st.tuples(st.just("look"), st.fixed_dictionaries({"size": st.integers(0, 20_000)})),
        min_size=1,
        max_size=3,
    ),
    output_tokens=st.one_of(st.none(), st.integers(1, 300)),
)


async def test_a_model_that_keeps_its_limit_never_passes_the_cap(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    script: list[Answer] = []
    async with stage(
        postgres,
        tmp_path,
        lambda number: script[(number - 1) % len(script)],
        budgets=ONLY_MONEY,
    ) as here:

        async def example(answers: list[Answer], budget: BudgetName) -> None:
            script[:] = answers
            here.calls.clear()
            turn = await here.run(budget)
            assert turn["cost_nano"] <= CAPS_USD[budget] * NANO
            assert turn["incomplete_reason"] == "budget_exhausted"
            assert here.calls[-1].concluding

        runner = asyncio.get_running_loop()

        @hypothesis_settings(
            max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
        @given(st.lists(_honest, min_size=1, max_size=3), st.sampled_from(["low", "standard"]))
        def examples(answers: list[Answer], budget: BudgetName) -> None:
            asyncio.run_coroutine_threadsafe(example(answers, budget), runner).result()

        await asyncio.to_thread(examples)


async def test_turns_that_keep_their_limits_never_overdraw_a_balance(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """Whatever it is, down to the last nano-dollar that a credit is worth."""
    script: list[Answer] = []
    async with stage(
        postgres,
        tmp_path,
        lambda number: script[(number - 1) % len(script)],
        budgets=ONLY_MONEY,
    ) as here:
        organization = await keys.first_organization(here.database)
        balance = 0

        async def example(answers: list[Answer], credits: int) -> None:
            nonlocal balance
            script[:] = answers
            here.calls.clear()
            if credits != balance:
                await accounts.grant(here.database, organization.id, credits=credits - balance)
            turn = await here.run("unlimited")
            account = await accounts.show(here.database, organization.id)
            assert account is not None
            balance = credits - turn["credits"]
            assert account.balance_credits == balance >= 0
            assert turn["cost_nano"] <= credits * NANO // 100
            assert turn["steps"] == len(here.calls)

        runner = asyncio.get_running_loop()

        @hypothesis_settings(
            max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
        @given(st.lists(_honest, min_size=1, max_size=3), st.integers(1, 40))
        def examples(answers: list[Answer], credits: int) -> None:
            asyncio.run_coroutine_threadsafe(example(answers, credits), runner).result()

        try:
            await asyncio.to_thread(examples)
        finally:
            await accounts.lift(here.database, organization.id)


async def test_a_summary_is_paid_for_by_the_turn_that_needs_it_and_is_no_step_of_it(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    def answers(number: int) -> Answer:
        return Answer("Said.", input_tokens=5000 if number == 1 else 100, output_tokens=10)

    async with stage(postgres, tmp_path, answers, context_window=6000) as here:
        first = await here.run("standard", input="All of this was said. " * 300)
        second = await here.run("standard", worker=first["worker_id"])
        rows = await here.ledger(second)
    assert [row["kind"] for row in rows] == ["internal", "model"]
    assert second["internal_cost_nano"] == 100 * INPUT_NANO + 10 * OUTPUT_NANO
    assert (second["steps"], second["input_tokens"], second["output_tokens"]) == (1, 100, 10)
    assert here.calls[1].max_tokens is not None
    assert here.calls[2].bytes_sent < here.calls[0].bytes_sent / 2


async def test_a_summary_that_the_budget_does_not_cover_is_not_asked_for(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """Not even where its worst case would fit, if it took more than half of what is left.

    What is left of the conversation is then pieces of its text.
    """
    caps = {"standard": {"usd": 0.5}, "low": {"usd": 0.09}}
    async with stage(
        postgres,
        tmp_path,
        lambda _: Answer("Said.", input_tokens=5000, output_tokens=10),
        context_window=6000,
        budgets=caps,
    ) as here:
        first = await here.run("standard", input="All of this was said. " * 300)
        second = await here.run("low", worker=first["worker_id"])
    assert len(here.calls) == 2
    assert second["internal_cost_nano"] == 0
    assert (second["error"], second["incomplete_reason"]) == (None, None)
    assert here.calls[1].bytes_sent < here.calls[0].bytes_sent / 2
