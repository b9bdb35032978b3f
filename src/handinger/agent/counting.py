"""The provider's own count of a request's input, for when a bound by bytes leaves too little money.

It costs no money and a round trip, so it is asked for only then. Without it the bound stands.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pydantic_ai.models import ModelRequestContext
from pydantic_ai.settings import ModelSettings

from handinger.settings import Settings

logger = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_PAUSE_S = 60.0  # after a failure

# What a call may be billed with beyond its count, which some providers call an estimate; in tokens.
_MARGIN = 256
_MARGIN_SHARE = 0.02

# By the provider of the model id: whether the count is of the whole request. Google's, of the
# Gemini API, is of the messages, without the instructions and the tools.
_COUNTS_ALL: Mapping[str, bool] = {
    "anthropic": True,
    "bedrock": True,
    "openai": True,
    "openai-responses": True,
    "google": False,
    "google-cloud": False,
    "google-gla": False,
    "google-vertex": False,
}


@dataclass(slots=True)
class Counter:
    """Asks one provider; after a failure not again for a while."""

    counts_all: bool
    _resumes_at: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """That of the configured model; None if its provider does not count ahead of a call."""
        counts_all = _COUNTS_ALL.get(settings.model_id.partition(":")[0])
        return None if counts_all is None else cls(counts_all)

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked."""
        return time.monotonic() >= self._resumes_at

    def bound(self, counted: int) -> int:
        """The most that a call may be billed with that was counted so."""
        return counted + math.ceil(counted * _MARGIN_SHARE) + _MARGIN

    async def count(self, request: ModelRequestContext) -> int | None:
        """How many tokens the request has; None if the provider does not say."""
        how = ModelSettings(**(request.model_settings or {}))
        how |= ModelSettings(timeout=_TIMEOUT_S, max_retries=0)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                usage = await request.model.count_tokens(
                    request.messages, how, request.model_request_parameters
                )
        except Exception as error:  # Each provider's client raises errors of its own.
            self._resumes_at = time.monotonic() + _PAUSE_S
            reason = str(error) or type(error).__name__
            logger.warning("The provider did not count the input of a call: %.200s", reason)
            return None
        return usage.input_tokens
