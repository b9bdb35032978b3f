"""The provider's own count takes the place of a bound by bytes that leaves too little money."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider
from tests.support.counting_provider import CountingProvider, serving
from tests.support.spending import NANO, Answer, Stage, stage

from handinger.agent import counting
from handinger.agent.counting import Counter
from handinger.ids import WorkerId
from handinger.storage.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

# By bytes it may cost 0.18 USD to send this, and the cap is 0.09.
LONG = "All of this was said. " * 2700
CAPS = {"low": {"usd": 0.09}}


def _anthropic(url: str) -> Model:
    return AnthropicModel("claude-opus-4-8", provider=AnthropicProvider(base_url=url, api_key="x"))


def _openai(url: str) -> Model:
    return OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(base_url=url, api_key="x"))


def _google(url: str) -> Model:
    return GoogleModel("gemini-2.5-pro", provider=GoogleProvider(base_url=url, api_key="x"))


@asynccontextmanager
async def counted(
    postgres: EmbeddedPostgres,
    folder: Path,
    provider: CountingProvider,
    *,
    model: str = "anthropic:claude-opus-4-8",
    make: Callable[[str], Model] = _anthropic,
) -> AsyncGenerator[Stage]:
    prices = {"*": {"input": 3, "output": 15}}
    with serving(provider):
        async with stage(
            postgres, folder, lambda _: Answer(), model=model, prices=prices, budgets=CAPS
        ) as here:
            here.model = make(provider.url)
            here.counter = Counter.of(here.configured)
            yield here


@pytest.mark.parametrize(
    ("model", "make", "limit"),
    [
        ("anthropic:claude-opus-4-8", _anthropic, lambda body: body["max_tokens"]),
        ("openai:gpt-5", _openai, lambda body: body["max_output_tokens"]),
        (
            "google:gemini-2.5-pro",
            _google,
            lambda body: body["generationConfig"]["maxOutputTokens"],
        ),
    ],
)
async def test_a_call_that_fits_by_the_providers_count_is_made(
    postgres: EmbeddedPostgres,
    tmp_path: Path,
    model: str,
    make: Callable[[str], Model],
    limit: Callable[[dict[str, dict[str, int]]], int],
):
    provider = CountingProvider(count=4000)
    async with counted(postgres, tmp_path, provider, model=model, make=make) as here:
        turn = await here.run("low", input=LONG)
        assert (turn["error"], turn["incomplete_reason"]) == (None, None)
        assert turn["output"][-1]["content"][0]["text"] == "Done."
        assert (len(provider.counted), len(provider.called)) == (1, 1)
        assert LONG.strip()[-100:] in str(provider.counted[0])
        # What was reserved for it fits into the cap, with the margin that a count may be wrong by.
        assert 4000 * 3000 + 4000 * 60 + limit(provider.called[0]) * 15_000 <= 0.09 * NANO
        # From now on the provider has reported what it counts.
        await here.run("low", worker=WorkerId(turn["worker_id"]), input="And on.")
    assert (len(provider.counted), len(provider.called)) == (1, 2)


async def test_tools_are_counted_by_their_bytes_where_the_provider_leaves_them_out(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """Gemini's count is of the messages alone; so it says less than Anthropic's does."""
    limits: list[int] = []
    for model, make in (("anthropic:a", _anthropic), ("google:a", _google)):
        provider = CountingProvider(count=4000)
        async with counted(postgres, tmp_path / model, provider, model=model, make=make) as here:
            await here.run("low", input=LONG)
        body = provider.called[0]
        limits.append(body.get("max_tokens") or body["generationConfig"]["maxOutputTokens"])
    assert limits[1] < limits[0]


async def test_a_call_for_which_there_is_money_enough_is_not_counted(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    provider = CountingProvider(count=500)
    async with counted(postgres, tmp_path, provider) as here:
        turn = await here.run("high", input=LONG)
    assert turn["error"] is None
    assert provider.counted == []


@pytest.mark.parametrize(
    "provider",
    [
        CountingProvider(count=4000, count_status=500),
        CountingProvider(count=4000, count_status=404),
        CountingProvider(count=4000, count_delay_s=2),
        CountingProvider(count=5),  # for 60,000 bytes
    ],
    ids=["fails", "is not there", "is late", "is absurd"],
)
async def test_without_a_count_that_can_be_believed_the_bytes_decide(
    postgres: EmbeddedPostgres,
    tmp_path: Path,
    provider: CountingProvider,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(counting, "_TIMEOUT_S", 0.5 if provider.count_delay_s else 5.0)
    async with counted(postgres, tmp_path, provider) as here:
        turn = await here.run("low", input=LONG)
        assert turn["error"]["code"] == "budget_too_small"
        assert provider.called == []
        assert len(provider.counted) == 1
        await here.run("low", input=LONG)
    # After a failure it is not asked again for a while.
    assert len(provider.counted) == (2 if provider.count == 5 else 1)


async def test_a_call_that_ends_while_the_provider_counts_it_costs_nothing(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """It was not sent yet; the time for it is over."""
    provider = CountingProvider(count=4000, count_delay_s=2)
    prices = {"*": {"input": 3, "output": 15}}
    # So much that the call would be made without a count as well, if with little to say.
    budgets = {"low": {"usd": 0.21, "seconds": 1}}
    with serving(provider):
        async with stage(
            postgres,
            tmp_path,
            lambda _: Answer(),
            model="anthropic:claude-opus-4-8",
            prices=prices,
            budgets=budgets,
        ) as here:
            here.model = _anthropic(provider.url)
            here.counter = Counter.of(here.configured)
            turn = await here.run("low", input=LONG)
            rows = await here.ledger(turn)
    assert len(provider.counted) == 1
    assert turn["incomplete_reason"] == "budget_exhausted"
    assert [row["settled"] for row in rows] == [True] * len(provider.called)
