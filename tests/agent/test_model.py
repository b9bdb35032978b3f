"""The model's settings, its failures in words, and what its answers cost."""

import httpx2
import pytest
from pydantic_ai import exceptions as ai_errors
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.usage import RequestUsage

from handinger import prices, settings
from handinger.agent import model
from handinger.budgets import Reservation
from handinger.errors import ConfigurationError

_HELD = Reservation("model", "openai:gpt-5", 3, cost_nano=50_000_000)


def _response(**counts: int) -> ModelResponse:
    usage = RequestUsage(**counts)  # pyright: ignore[reportArgumentType] # Counts only.
    return ModelResponse(parts=[TextPart("Yes.")], usage=usage)


def _price(**rates: str) -> prices.Price:
    configured = settings.load(model="openai:gpt-5", prices={"openai:gpt-5": rates})
    price = prices.of(configured)
    assert price is not None
    return price


def test_a_call_is_booked_to_the_nano_dollar() -> None:
    response = _response(
        input_tokens=1000,
        output_tokens=200,
        cache_read_tokens=30,
        cache_write_tokens=4,
        output_reasoning_tokens=50,
    )
    charge = model.charge(response, _HELD, _price(input="1.5", output="6", cacheRead="0.15"))
    spent = charge.spending
    assert spent.model_cost_nano == (1000 - 30) * 1500 + 30 * 150 + 200 * 6000
    assert (spent.steps, spent.input_tokens, spent.output_tokens) == (1, 1000, 200)
    assert (spent.reasoning_tokens, spent.cache_read_tokens, spent.cache_write_tokens) == (
        50,
        30,
        4,
    )
    assert (charge.kind, charge.step, charge.settled) == ("model", 3, True)
    assert charge.unit_prices["input_mtok"] == "1.5"


def test_a_response_without_usage_is_booked_in_full() -> None:
    charge = model.charge(_response(unmeasured_requests=1), _HELD, _price(input="1", output="1"))
    assert (charge.spending.model_cost_nano, charge.settled) == (50_000_000, False)
    assert (charge.spending.steps, charge.spending.input_tokens) == (1, 0)


@pytest.mark.parametrize(
    "counts",
    [
        {"output_tokens": 9},
        {"input_tokens": -5, "output_tokens": 9},
        {"input_tokens": 9},
        {"input_tokens": 9, "output_tokens": -5},
        {},
    ],
)
def test_a_count_that_cannot_be_is_none(counts: dict[str, int]) -> None:
    """Of a response with a text to a request with one."""
    charge = model.charge(_response(**counts), _HELD, _price(input="1", output="1"))
    assert (charge.spending.model_cost_nano, charge.settled) == (50_000_000, False)
    said = [max(0, counts.get(name, 0)) for name in ("input_tokens", "output_tokens")]
    assert [charge.spending.input_tokens, charge.spending.output_tokens] == said


def test_an_empty_answer_may_have_no_tokens() -> None:
    empty = ModelResponse(parts=[TextPart("")], usage=RequestUsage(input_tokens=1000))
    charge = model.charge(empty, _HELD, _price(input="1", output="1"))
    assert (charge.spending.model_cost_nano, charge.settled) == (1_000_000, True)


def test_a_model_without_a_known_price_costs_nothing_here() -> None:
    spent = model.charge(_response(input_tokens=7, output_tokens=3), _HELD, None).spending
    assert (spent.model_cost_nano, spent.input_tokens) == (0, 7)


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "billed"),
    [
        (ai_errors.ModelHTTPError(status_code=429, model_name="m"), False),
        (ai_errors.ModelHTTPError(status_code=500, model_name="m"), False),
        # Somebody on the way gave up waiting.
        (ai_errors.ModelHTTPError(status_code=504, model_name="m"), True),
        (_caused(ai_errors.ModelAPIError("m", "x"), httpx2.ConnectError("refused")), False),
        (_caused(ai_errors.ModelAPIError("m", "x"), httpx2.ReadTimeout("late")), True),
        (ai_errors.ModelConnectionError("m", "x", phase="pool"), False),
        (ai_errors.ModelConnectionError("m", "x", phase="write"), True),
        (ai_errors.ModelConnectionError("m", "x"), True),
        # It had begun to answer.
        (ai_errors.ModelHTTPError(status_code=529, model_name="m", in_stream=True), True),
        (_caused(ai_errors.ModelAPIError("m", "x"), httpx2.RemoteProtocolError("cut")), True),
        (ai_errors.UnexpectedModelBehavior("half an object"), True),
    ],
)
def test_a_failed_call_is_paid_unless_it_never_arrived_or_was_refused(
    error: Exception, billed: bool
) -> None:
    assert model.may_be_billed(error) is billed


@pytest.mark.parametrize(
    ("status", "transient"),
    [(400, False), (401, False), (404, False), (408, True), (429, True), (500, True), (503, True)],
)
def test_only_failures_that_may_pass_are_repeated(status: int, transient: bool) -> None:
    error = ai_errors.ModelHTTPError(status_code=status, model_name="m", body={"error": "x"})
    assert model.is_transient(error) is transient


def test_a_failure_in_words_names_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-1234")
    error = RuntimeError("Incorrect API key provided: sk-very-secret-1234.\n  Try again.")
    assert model.explain(error) == ("The model failed: Incorrect API key provided: ***. Try again.")


@pytest.mark.parametrize("name", ["nobody:knows", "anthropic:claude-sonnet-4-5", "no colon"])
def test_a_model_that_cannot_be_used_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="HANDINGER_MODEL="):
        model.build(settings.load(model=name))


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("ANTHROPIC_API_KEY", "anthropic:"),
        ("OPENAI_API_KEY", "openai:"),
        ("GEMINI_API_KEY", "google:"),
        ("MISTRAL_API_KEY", "mistral:"),
        ("GROQ_API_KEY", "groq:"),
    ],
)
def test_a_providers_key_chooses_the_model(
    variable: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC", "OPENAI", "GEMINI", "GOOGLE", "MISTRAL", "GROQ"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)
    monkeypatch.delenv("HANDINGER_MODEL", raising=False)
    assert settings.load().model_id == "demo"
    monkeypatch.setenv(variable, "key-for-this-test")
    assert settings.load().model_id.startswith(expected)
    assert model.build(settings.load()).model_id.startswith(expected)


def test_a_configured_model_wins_over_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-for-this-test")
    monkeypatch.setenv("HANDINGER_MODEL", "demo")
    assert settings.load().model_id == "demo"
