"""The configured model, built once; and what its answers cost."""

import ipaddress
import os
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal
from urllib.parse import urlsplit

from pydantic_ai import exceptions as ai_errors
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model, infer_model
from pydantic_ai.settings import ModelSettings

from handinger.budgets import Spending
from handinger.errors import ConfigurationError
from handinger.settings import Settings

DEMO = "demo"
_MAX_EXPLANATION = 600
_MAX_COUNT = 10**12  # of tokens or nano-dollars in one call


def build(settings: Settings) -> Model:
    """The model that HANDINGER_MODEL names. Raises ConfigurationError."""
    name = settings.model_id
    if name == DEMO:
        from handinger.agent.demo import DemoModel  # noqa: PLC0415 # Not needed beside a real one.

        return DemoModel()
    try:
        return infer_model(name)
    except ImportError as error:
        raise ConfigurationError(
            f"HANDINGER_MODEL={name} needs a package that is not installed: {error}"
        ) from error
    except Exception as error:  # Each provider raises its own kind for a missing key or a bad name.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(f"HANDINGER_MODEL={name} cannot be used: {reason}") from error


def request_settings(settings: Settings) -> ModelSettings:
    """How every call is made. Repeating a call is this server's work, not the provider SDK's."""
    if settings.model_id == DEMO:
        return ModelSettings()
    return ModelSettings(timeout=settings.model_timeout_s, max_retries=0)


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


def spending(response: ModelResponse) -> Spending:
    """What one model call used and cost."""
    usage = response.usage
    return Spending(
        steps=1,
        input_tokens=_plausible(usage.input_tokens),
        output_tokens=_plausible(usage.output_tokens),
        reasoning_tokens=_plausible(usage.details.get("reasoning_tokens", 0)),
        cache_read_tokens=_plausible(usage.cache_read_tokens),
        cache_write_tokens=_plausible(usage.cache_write_tokens),
        model_cost_nano=0 if _is_local(response.provider_url) else _nano(usage.cost),
    )


def _plausible(count: int) -> int:
    """What a provider reports may be absurd; sums must neither go down nor overflow."""
    return min(max(count, 0), _MAX_COUNT)


def _nano(cost_usd: Decimal | float | None) -> int:
    """A model without a known price costs 0 here; only its tokens are reported."""
    if cost_usd is None:
        return 0
    nano = (Decimal(str(cost_usd)) * 1_000_000_000).to_integral_value(rounding=ROUND_HALF_UP)
    return _plausible(int(nano))


def _is_local(url: str | None) -> bool:
    """Whether the model runs on the operator's own machines, where a call has no price."""
    host = urlsplit(url).hostname if url else None
    if host is None:
        return False
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".internal", ".local"))


FinishedBy = Literal["answer", "length"]


def finished_by(response: ModelResponse) -> FinishedBy:
    """Whether the answer is whole or was cut at the output limit."""
    return "length" if response.finish_reason == "length" else "answer"
