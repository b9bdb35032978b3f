"""A turn never costs more than its cap, whatever a model reports; and all sums agree."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic_ai import Agent, RunContext, Tool
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage
from tests.support.ledger import CHECKS

from handinger import ids, keys, prices, settings
from handinger.agent.conversation import Conversations
from handinger.agent.counting import Counter
from handinger.agent.hooks import Hooks, StepContext
from handinger.agent.metering import Metering
from handinger.agent.runner import Runner
from handinger.agent.sizes import content_bytes
from handinger.agent.tools.context import ToolContext, ToolPrice, effects, reserved_nano
from handinger.budgets import Spending, accounts
from handinger.errors import PriceUnknown
from handinger.ids import WorkerId
from handinger.live import Hub
from handinger.settings import BudgetName, Settings
from handinger.storage.blobs import open_blobs
from handinger.storage.database import Database, open_database
from handinger.storage.embedded import EmbeddedPostgres
from handinger.turns import accept, reading
from handinger.turns.accept import Instruction, NewTurn, Source

pytestmark = pytest.mark.anyio

NANO = 1_000_000_000
INPUT_NANO, OUTPUT_NANO = 3000, 15_000  # a token


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres.join(tmp_path_factory.mktemp("postgres"))
    yield postgres
    postgres.leave()


@dataclass(slots=True)
class Answer:
    """One answer of the model: what it says, and what it claims to have used."""

    text: str = ""
    calls: Sequence[tuple[str, dict[str, Any]]] = ()
    input_tokens: int | None = None  # None: an honest count
    output_tokens: int | None = None  # None: as many as it may
    more: dict[str, int] = field(default_factory=dict[str, int])
    is_measured: bool = True
    hangs: bool = False


@dataclass(slots=True)
class Call:
    """One request that the model got."""

    bytes_sent: int
    max_tokens: int | None
    concluding: bool


@dataclass(slots=True)
class Stage:
    """A worker's server in this process, with a model that says what a test wants."""

    database: Database
    configured: Settings
    answers: Callable[[int], Answer]
    price: prices.Price | None
    tools: Sequence[Tool[ToolContext]] = ()
    unmetered: Sequence[Tool[ToolContext]] = ()  # tools that no process knows ahead, as of MCP
    counter: Counter | None = None
    during: Callable[[Answer], Awaitable[None]] | None = None  # before the model answers
    calls: list[Call] = field(default_factory=list[Call])

    async def answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        given = info.model_settings or {}
        sent = sum(content_bytes(message) for message in messages)
        concluding = given.get("tool_choice") == "none"
        limit = given.get("max_tokens")
        self.calls.append(Call(sent, limit, concluding))
        answer = self.answers(len(self.calls))
        if self.during is not None:
            await self.during(answer)
        if answer.hangs:
            await asyncio.Event().wait()
        parts: list[TextPart | ToolCallPart] = [TextPart(answer.text)] if answer.text else []
        if not concluding:
            parts += [ToolCallPart(name, args) for name, args in answer.calls]
        if not parts:
            parts.append(TextPart("Here is what I have."))
        if not answer.is_measured:
            return ModelResponse(parts=parts, usage=RequestUsage(unmeasured_requests=1))
        usage = RequestUsage(
            input_tokens=sent // 4 + 300 if answer.input_tokens is None else answer.input_tokens,
            output_tokens=(limit or 50) if answer.output_tokens is None else answer.output_tokens,
            **answer.more,  # pyright: ignore[reportArgumentType] # Counts only.
        )
        return ModelResponse(parts=parts, usage=usage)

    async def run(
        self,
        budget: BudgetName = "low",
        *,
        input: str = "Work.",
        worker: WorkerId | None = None,
        source: Source = "api",
    ) -> dict[str, Any]:
        """One turn, from its acceptance to its end; its row."""
        organization = await keys.first_organization(self.database)
        instruction = Instruction(input=input, budget=budget, source=source)
        turn = NewTurn.of(worker or WorkerId(ids.new("wrk")), instruction)
        if worker is None:
            await accept.create_worker(
                self.database, self.configured, organization.id, turn, metadata={}
            )
        else:
            await accept.continue_worker(self.database, self.configured, organization.id, turn)
        async with asyncio.timeout(60):
            await self.runner().drain(turn.worker_id)
        await self.check()
        async with self.database.system().statements() as sql:
            row = await sql.value("SELECT to_json(t) FROM turns t WHERE id = %(id)s", id=turn.id)
        row["cost_nano"] = sum(
            row[f"{kind}_cost_nano"] for kind in ("model", "tool", "sandbox", "internal")
        )
        return row

    def runner(self) -> Runner:
        model = FunctionModel(self.answer)
        agent = Agent(
            model,
            deps_type=StepContext,
            tools=[*self.tools, *self.unmetered],
            capabilities=[Hooks()],
        )
        return Runner(
            database=self.database,
            blobs=open_blobs(self.configured),
            settings=self.configured,
            hub=Hub(
                self.database,
                functools.partial(reading.refresh, self.database),
                functools.partial(reading.moved, self.database),
            ),
            agent=agent,
            model=model,
            stopping=asyncio.Event(),
            conversations=Conversations(),
            metering=Metering(
                self.configured,
                price=self.price,
                output_limit=None,
                tools={tool.name: tool.tool_def for tool in self.tools},
                counter=self.counter,
            ),
        )

    async def check(self) -> None:
        """All that must hold of money does."""
        async with self.database.system().statements() as sql:
            for what, query in CHECKS.items():
                cursor = await sql.connection.execute(query.encode())
                assert await cursor.fetchall() == [], what

    async def ledger(self, turn: dict[str, Any]) -> list[dict[str, Any]]:
        async with self.database.system().statements() as sql:
            rows = await sql.value(
                "SELECT coalesce(json_agg(to_json(l) ORDER BY id), '[]') FROM ledger l"
                " WHERE turn_id = %(id)s",
                id=turn["id"],
            )
        return rows


async def look(ctx: RunContext[ToolContext], size: int = 10) -> str:
    """Look at something."""
    return "x" * size


LOOK = Tool(look)
AGAIN = Answer(calls=[("look", {})], output_tokens=50)


@asynccontextmanager
async def limited(here: Stage) -> AsyncGenerator[None]:
    """The organization of all turns here has an account meanwhile, with more than enough."""
    organization = await keys.first_organization(here.database)
    await accounts.cap_month(here.database, organization.id, 10**18)
    try:
        yield
    finally:
        await accounts.cap_month(here.database, organization.id, None)


@asynccontextmanager
async def stage(
    postgres: EmbeddedPostgres,
    folder: Path,
    answers: Callable[[int], Answer],
    *,
    tools: Sequence[Tool[ToolContext]] = (LOOK,),
    model: str = "a:b",
    **overrides: Any,
) -> AsyncGenerator[Stage]:
    overrides.setdefault("prices", {"a:b": {"input": 3, "output": 15}})
    configured = settings.load(data_dir=folder, database_url=postgres.url, model=model, **overrides)
    async with open_database(configured) as database:
        yield Stage(database, configured, answers, prices.of(configured), tools)


# Without a cap on calls, so that money is what ends a turn.
CAPS_USD = {"low": 0.05, "standard": 0.5, "high": 5.0}
ONLY_MONEY = {
    name: {"modelCalls": None, "usd": CAPS_USD.get(name), "seconds": None}
    for name in (*CAPS_USD, "unlimited")
}


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


_tokens = st.one_of(st.just(0), st.integers(1, 2000), st.integers(0, 10**9), st.just(10**15))
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
        return AGAIN if number < 3 else Answer("Done.", output_tokens=10)

    async with stage(postgres, tmp_path, answers, budgets=ONLY_MONEY) as here:
        here.unmetered = [Tool(more)]
        async with limited(here):
            turn = await here.run("standard")
        rows = await here.ledger(turn)
    assert (turn["error"], turn["incomplete_reason"], len(rows)) == (None, None, 3)


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


# Tools with a price


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
    """What is left of the conversation is then pieces of its text."""
    caps = {"standard": {"usd": 0.5}, "low": {"usd": 0.06}}
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
