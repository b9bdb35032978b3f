"""Prices: whose they are, what a call costs, and what it costs at worst."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from handinger import prices, settings
from handinger.prices import Price

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def _price(model: str, **overrides: object) -> Price:
    price = prices.of(settings.load(model=model, **overrides))
    assert price is not None
    return price


# Ten models of four providers, with usage that meets caches, tiers, reasoning and sound.
@pytest.mark.parametrize(
    ("model", "usage"),
    [
        ("anthropic:claude-sonnet-4-5", {"input_tokens": 1000, "output_tokens": 200}),
        (
            "anthropic:claude-sonnet-4-5",
            {"input_tokens": 250_000, "cache_read_tokens": 200_000, "output_tokens": 9},
        ),
        (
            "anthropic:claude-opus-4-1",
            {"input_tokens": 5000, "cache_write_tokens": 4000, "output_tokens": 77},
        ),
        ("anthropic:claude-haiku-4-5", {"input_tokens": 12_345, "output_tokens": 678}),
        (
            "openai:gpt-5",
            {"input_tokens": 900, "output_tokens": 3000, "output_reasoning_tokens": 2500},
        ),
        (
            "openai-chat:gpt-4o",
            {"input_tokens": 1200, "cache_read_tokens": 1024, "output_tokens": 5},
        ),
        ("openai-chat:gpt-4.1-mini", {"input_tokens": 33, "output_tokens": 44}),
        ("google:gemini-2.5-pro", {"input_tokens": 300_000, "output_tokens": 1000}),
        (
            "google:gemini-2.5-flash",
            {"input_tokens": 5000, "input_audio_tokens": 2000, "output_tokens": 10},
        ),
        ("groq:llama-3.3-70b-versatile", {"input_tokens": 4096, "output_tokens": 512}),
        ("groq:llama-3.1-8b-instant", {"input_tokens": 1, "output_tokens": 1}),
    ],
)
def test_a_call_costs_what_genai_prices_says(model: str, usage: dict[str, int]) -> None:
    provider, _, name = model.partition(":")
    expected = calc_price(
        Usage(**usage),
        name,
        provider_id=provider.removesuffix("-chat"),
        genai_request_timestamp=NOW,
    )
    price = _price(model)
    assert price.source == "genai-prices"
    assert price.cost_nano(usage, at=NOW) == round(expected.total_price * 10**9)
    worst = price.worst_case(usage["input_tokens"], now=NOW)
    assert price.cost_nano(usage, at=NOW) <= worst.cost_nano(
        usage["input_tokens"], usage["output_tokens"]
    )


# As the providers list them, in USD per million tokens, and summed up here without any library.
@pytest.mark.parametrize(
    ("model", "usage", "parts"),
    [
        # Tokens of five minutes and of an hour in the cache are part of what was written.
        (
            "anthropic:claude-opus-4-1",
            {
                "input_tokens": 10_000,
                "cache_read_tokens": 2000,
                "cache_write_tokens": 5000,
                "cache_write_1h_tokens": 1000,
                "output_tokens": 50,
            },
            [(3000, "15"), (2000, "1.5"), (4000, "18.75"), (1000, "30"), (50, "75")],
        ),
        (
            "anthropic:claude-haiku-4-5",
            {"input_tokens": 700, "output_tokens": 30},
            [(700, "1"), (30, "5")],
        ),
        # Beyond a size, all tokens cost what the tier says.
        (
            "anthropic:claude-sonnet-4-5",
            {"input_tokens": 200_001, "cache_read_tokens": 1, "output_tokens": 10},
            [(200_000, "6"), (1, "0.6"), (10, "22.5")],
        ),
        (
            "google:gemini-2.5-pro",
            {"input_tokens": 200_000, "output_tokens": 10},
            [(200_000, "1.25"), (10, "10")],
        ),
        # Sound has a price of its own; a picture's tokens are input like any other.
        (
            "google:gemini-2.5-flash",
            {"input_tokens": 5000, "input_audio_tokens": 2000, "output_tokens": 10},
            [(3000, "0.3"), (2000, "1"), (10, "2.5")],
        ),
        # Reasoning is answered, and billed as what is answered.
        (
            "openai:gpt-5",
            {"input_tokens": 900, "output_tokens": 3000, "output_reasoning_tokens": 2500},
            [(900, "1.25"), (3000, "10")],
        ),
        (
            "openai-chat:gpt-4o",
            {"input_tokens": 1200, "cache_read_tokens": 1024, "output_tokens": 5},
            [(176, "2.5"), (1024, "1.25"), (5, "10")],
        ),
        (
            "openai-chat:gpt-4.1-mini",
            {"input_tokens": 33, "output_tokens": 44},
            [(33, "0.4"), (44, "1.6")],
        ),
        (
            "groq:llama-3.3-70b-versatile",
            {"input_tokens": 4096, "output_tokens": 512},
            [(4096, "0.59"), (512, "0.79")],
        ),
        (
            "groq:llama-3.1-8b-instant",
            {"input_tokens": 100, "output_tokens": 100},
            [(100, "0.05"), (100, "0.08")],
        ),
    ],
)
def test_a_call_costs_what_its_provider_lists(
    model: str, usage: dict[str, int], parts: list[tuple[int, str]]
) -> None:
    expected_nano = sum(count * Decimal(listed) * 1000 for count, listed in parts)
    assert _price(model).cost_nano(usage, at=NOW) == expected_nano


_RATES = {
    "input": "3",
    "output": "15",
    "cacheRead": "0.3",
    "cacheWrite": "3.75",
    "inputAudio": "40",
    "request": "0.01",
    "tiers": [{"above": 1000, "input": "6", "output": "22.5"}],
}
_counts = st.integers(min_value=-5, max_value=10**7)


@given(
    st.fixed_dictionaries(
        {"input_tokens": _counts, "output_tokens": _counts},
        optional={
            name: _counts
            for name in (
                "cache_read_tokens",
                "cache_write_tokens",
                "input_audio_tokens",
                "cache_audio_read_tokens",
                "output_reasoning_tokens",
            )
        },
    )
)
def test_whatever_is_reported_costs_no_more_than_the_worst_case(usage: dict[str, int]) -> None:
    price = _price("a:b", prices={"a:b": _RATES})
    read, answered = max(usage["input_tokens"], 0), max(usage["output_tokens"], 0)
    cost = price.cost_nano(usage, at=NOW)
    assert 0 <= cost <= price.worst_case(read).cost_nano(read, answered)


def test_the_operators_prices_win_and_apply_by_tier() -> None:
    price = _price("anthropic:claude-sonnet-4-5", prices={"*": _RATES})
    assert price.source == "HANDINGER_PRICES"
    small = price.cost_nano({"input_tokens": 1000, "output_tokens": 10}, at=NOW)
    large = price.cost_nano({"input_tokens": 1001, "output_tokens": 10}, at=NOW)
    assert small == 10_000_000 + 1000 * 3000 + 10 * 15_000
    assert large == 10_000_000 + 1001 * 6000 + 10 * 22_500


@pytest.mark.parametrize(
    ("model", "variable", "url"),
    [
        ("demo", None, None),
        ("ollama:llama3", None, None),
        ("ollama:qwen3:8b", None, None),
        ("ollama:llama3", "OLLAMA_BASE_URL", "http://gpu:11434/v1"),
        ("openai-chat:gpt-4o", "OPENAI_BASE_URL", "http://127.0.0.1:11434/v1"),
        ("openai-chat:gpt-4o", "OPENAI_BASE_URL", "http://localhost:8080"),
        ("openai-chat:gpt-4o", "OPENAI_BASE_URL", "http://10.1.2.3/v1"),
        ("openai-chat:gpt-4o", "OPENAI_BASE_URL", "http://[::1]:8080/v1"),
        ("openai-chat:gpt-4o", "OPENAI_BASE_URL", "http://models.internal/v1"),
        ("anthropic:claude-opus-4-1", "ANTHROPIC_BASE_URL", "http://192.168.1.7"),
    ],
)
def test_a_model_on_the_operators_own_machines_costs_nothing(
    model: str, variable: str | None, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None and url is not None:
        monkeypatch.setenv(variable, url)
    price = _price(model)
    assert (price.source, price.is_free) == ("local", True)
    assert price.cost_nano({"input_tokens": 10**6, "output_tokens": 10**6}, at=NOW) == 0


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (
            "bedrock:anthropic.claude-3-5-sonnet-20241022-v2:0",
            "aws/regional.anthropic.claude-3-5-sonnet-20241022-v2:0",
        ),
        ("bedrock:amazon.nova-pro-v1:0", "aws/amazon.nova-pro-v1:0"),
        ("openrouter:deepseek/deepseek-r1:free", "openrouter/deepseek/deepseek-r1:free"),
    ],
)
def test_the_name_of_a_model_may_have_colons(model: str, name: str) -> None:
    price = _price(model)
    assert (price.source, price.name) == ("genai-prices", name)


def test_ollama_at_a_public_address_costs_what_the_operator_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be somebody's service, which takes money for it."""
    monkeypatch.setenv("OLLAMA_BASE_URL", "https://gpu.example.com/v1")
    assert prices.of(settings.load(model="ollama:llama3")) is None
    assert _price("ollama:llama3", prices={"ollama:llama3": {"input": 0, "output": 0}}).is_free


def test_a_local_model_costs_what_the_operator_says() -> None:
    price = _price("ollama:llama3", prices={"ollama:llama3": {"input": 1, "output": 2}})
    assert not price.is_free
    assert price.cost_nano({"input_tokens": 5, "output_tokens": 7}, at=NOW) == 19_000


def test_an_address_decides_before_the_name_of_the_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.deepseek.com/v1")
    assert _price("openai-chat:deepseek-chat").name.startswith("deepseek/")


def test_a_remote_model_that_nobody_knows_has_no_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://models.example.com/v1")
    configured = settings.load(model="openai-chat:our-own")
    assert prices.of(configured) is None
    assert "HANDINGER_PRICES=" in prices.unknown(configured)
    assert "openai-chat:our-own" in prices.unknown(configured)


def test_prices_that_change_with_the_hour_are_taken_at_their_highest() -> None:
    price = _price("deepseek:deepseek-chat")
    before_the_change = datetime(2026, 11, 20, 0, 0, tzinfo=UTC)
    assert price.worst_case(100, now=before_the_change).output_nano == Decimal("1100")
    assert price.unit_prices(before_the_change)["output_mtok"] == "0.55"


def test_what_is_affordable_is_just_what_still_fits() -> None:
    worst = _price("a:b", prices={"*": {"input": "3", "output": "15"}}).worst_case(1000)
    output = worst.affordable_output(20_000_000, 1000)
    assert output is not None
    assert worst.cost_nano(1000, output) <= 20_000_000 < worst.cost_nano(1000, output + 1)
    read = worst.affordable_input(20_000_000, 100)
    assert read is not None
    assert worst.cost_nano(read, 100) <= 20_000_000 < worst.cost_nano(read + 1, 100)
    assert worst.affordable_output(2_999_999, 1000) == -1
