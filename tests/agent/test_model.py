"""The model's settings, its failures in words, and what its answers cost."""

from decimal import Decimal

import pytest
from pydantic_ai import exceptions as ai_errors
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.usage import RequestUsage

from handinger import settings
from handinger.agent import model
from handinger.errors import ConfigurationError


def _response(*, cost: Decimal | None, provider_url: str | None) -> ModelResponse:
    usage = RequestUsage(
        input_tokens=1000,
        output_tokens=200,
        cache_read_tokens=30,
        cache_write_tokens=4,
        details={"reasoning_tokens": 50},
        cost=cost,
    )
    return ModelResponse(parts=[TextPart("Yes.")], usage=usage, provider_url=provider_url)


def test_a_call_is_booked_to_the_nano_dollar() -> None:
    spent = model.spending(
        _response(cost=Decimal("0.0123456789"), provider_url="https://api.openai.com/v1")
    )
    assert spent.model_cost_nano == 12_345_679
    assert (spent.steps, spent.input_tokens, spent.output_tokens) == (1, 1000, 200)
    assert (spent.reasoning_tokens, spent.cache_read_tokens, spent.cache_write_tokens) == (
        50,
        30,
        4,
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:11434/v1",
        "http://localhost:8080",
        "http://10.1.2.3/v1",
        "http://[::1]:8080/v1",
        "http://models.internal/v1",
    ],
)
def test_a_model_on_the_operators_own_machines_costs_nothing(url: str) -> None:
    assert model.spending(_response(cost=Decimal("0.01"), provider_url=url)).model_cost_nano == 0


def test_a_model_without_a_known_price_costs_nothing_here() -> None:
    spent = model.spending(_response(cost=None, provider_url="https://models.example.com"))
    assert spent.model_cost_nano == 0


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
