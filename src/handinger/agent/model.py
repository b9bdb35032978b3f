"""The configured model, built once; and what its answers cost."""

import math
import os
from collections.abc import Iterator
from typing import Any, Literal

from pydantic_ai import exceptions as ai_errors
from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart
from pydantic_ai.models import Model, infer_model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from handinger.agent import schemas
from handinger.budgets import Charge, Reservation, Spending
from handinger.errors import ConfigurationError
from handinger.prices import Price
from handinger.settings import Settings

DEMO = "demo"
_MAX_EXPLANATION = 600
_MAX_COUNT = 10**12  # of tokens in one call


def build(settings: Settings) -> Model:
    """The model that HANDINGER_MODEL names. Raises ConfigurationError."""
    name = settings.model_id
    if name == DEMO:
        from handinger.agent.demo import DemoModel  # noqa: PLC0415 # Not needed beside a real one.

        return DemoModel()
    try:
        model = infer_model(name)
    except ImportError as error:
        raise ConfigurationError(
            f"HANDINGER_MODEL={name} needs a package that is not installed: {error}"
        ) from error
    except Exception as error:  # Each provider raises its own kind for a missing key or a bad name.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(f"HANDINGER_MODEL={name} cannot be used: {reason}") from error
    schemas.remember(model)
    client: Any = getattr(model, "client", None)
    if hasattr(client, "max_retries"):
        # Told with each request, pydantic-ai would make a copy of the client for each.
        client.max_retries = 0
    return model


def request_settings(settings: Settings, model: Model) -> ModelSettings:
    """How every call is made. Repeating a call is this server's work, not the provider SDK's."""
    if settings.model_id == DEMO:
        return ModelSettings()
    how = ModelSettings(timeout=settings.model_timeout_s)
    if getattr(getattr(model, "client", None), "max_retries", None) != 0:
        how["max_retries"] = 0
    return how


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(error, ai_errors.ModelQuotaExceededError):
        return False
    if isinstance(error, ai_errors.ModelRequestRejectedError):
        return False
    if isinstance(error, ai_errors.ModelHTTPError):
        return error.status_code in (408, 409, 425, 429) or error.status_code >= 500
    return isinstance(error, ai_errors.ModelAPIError)


def explain(error: BaseException) -> str:
    """One sentence for the person whose turn failed; never a provider's key."""
    text = " ".join((str(error) or type(error).__name__).split())
    for variable, value in os.environ.items():
        if variable.endswith(("_KEY", "_TOKEN", "_SECRET")) and len(value) >= 8:
            text = text.replace(value, "***")
    return f"The model failed: {text[:_MAX_EXPLANATION]}"


def make_plausible(usage: RequestUsage) -> None:
    """Make whole and possible counts of what a provider reports, which may be absurd.

    Sums must neither go down nor overflow, and what is stored is read again.
    """
    for name, count in vars(usage).items():
        if isinstance(count, int | float):
            setattr(usage, name, _plausible(count))
    usage.details = {name: _plausible(count) for name, count in usage.details.items()}


def charge(response: ModelResponse, held: Reservation, price: Price | None) -> Charge:
    """What one model call used and cost, in the place of what was reserved for it.

    The response's counts become plausible.
    A response whose provider did not say what it used is booked in full. A model without a known
    price costs nothing here; only its tokens are reported.
    """
    usage = response.usage
    make_plausible(usage)
    settled = _says_what_it_used(response)
    counts = {
        name: count
        for name, count in vars(usage).items()
        if isinstance(count, int) and name.endswith(("_tokens", "_seconds", "_searches"))
    }
    reasoning = usage.output_reasoning_tokens or usage.details.get("reasoning_tokens", 0)
    context = {
        name: value
        for name, value in (response.provider_details or {}).items()
        if isinstance(value, str)
    }
    at = response.timestamp
    cost_nano = held.cost_nano
    if settled:
        cost_nano = price.cost_nano(counts, at=at, context=context) if price else 0
    spent = Spending(
        steps=1,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=reasoning,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        model_cost_nano=cost_nano,
    )
    unit_prices = price.unit_prices(at, context) if price else {}
    return Charge("model", held.subject, held.step, spent, unit_prices, settled=settled)


def _says_what_it_used(response: ModelResponse) -> bool:
    """Whether there is a count of what went in, and of what came out; none is below one."""
    said = any(
        part.content if isinstance(part, TextPart | ThinkingPart) else part
        for part in response.parts
    )
    usage = response.usage
    return usage.input_tokens > 0 and (usage.output_tokens > 0 or not said)


def _plausible(count: float) -> int:
    return math.ceil(min(count, _MAX_COUNT)) if count > 0 else 0  # Nothing is above NaN, nor it.


def may_be_billed(error: BaseException) -> bool:
    """Whether a failed call may have cost something.

    Not if it proves that the request was never sent, or was refused. In doubt it may.
    """
    for cause in _causes(error):
        if isinstance(cause, ai_errors.ModelAPIError) and cause.in_stream:
            return True  # It was answering already.
        if isinstance(cause, ai_errors.ModelHTTPError):
            return cause.status_code in _GIVEN_UP
        if isinstance(cause, ai_errors.ModelConnectionError) and cause.phase is not None:
            return cause.phase not in _BEFORE_SENDING
        if isinstance(cause, _NEVER_SENT) or _NEVER_SENT_BY_NAME & _names(cause):
            return False
    return True


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised from or for, nearest first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


# Somebody on the way stopped waiting; the model may have gone on.
_GIVEN_UP = (408, 504, 524)

_BEFORE_SENDING = ("pool", "connect")

# What pydantic-ai is not given as it needs it, such as a setting; and text that is in no header,
# such as a key with a typographic dash.
_NEVER_SENT = (ai_errors.UserError, UnicodeEncodeError)

# By name, for each provider's client has an HTTP library of its own: no connection was made, or
# what was to be sent is no request. An answer that is none is a *Remote*ProtocolError.
_NEVER_SENT_BY_NAME = {
    "ClientConnectorError",
    "ConnectError",
    "ConnectTimeout",
    "InvalidURL",
    "LocalProtocolError",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
}


def output_limit(model: Model) -> int | None:
    """The most that the model can answer in one call, in tokens; None if that is not known."""
    profile = model.profile
    stated = profile.get("anthropic_max_output_tokens")
    if profile.get("anthropic_rejects_max_tokens_beyond_context_window"):
        return 4096
    if isinstance(stated, int):
        return min(stated, _MOST_OUTPUT)
    name = model.model_name.rpartition("/")[2]
    for prefix, limit in _OUTPUT_LIMITS:
        if name.startswith(prefix):
            return min(limit, _MOST_OUTPUT)
    return None


# More is hardly ever answered in one call, and what is reserved for it holds up other turns.
_MOST_OUTPUT = 32_000

# What the providers state, where pydantic-ai does not know it. The first that fits.
_OUTPUT_LIMITS = (
    ("gpt-3.5", 4096),
    ("gpt-4-turbo", 4096),
    ("gpt-4.1", 32_768),
    ("gpt-4o", 16_384),
    ("gpt-4", 8192),
    ("gpt-5", 128_000),
    ("o1", 100_000),
    ("o3", 100_000),
    ("o4", 100_000),
    ("gemini-1", 8192),
    ("gemini-2.0", 8192),
    ("gemini-", 65_535),
    ("llama-3.3-70b-versatile", 32_768),
    ("mistral-", 32_768),
    ("codestral", 32_768),
    ("deepseek-", 8192),
)


FinishedBy = Literal["answer", "length"]


def finished_by(response: ModelResponse) -> FinishedBy:
    """Whether the answer is whole or was cut at the output limit."""
    return "length" if response.finish_reason == "length" else "answer"
