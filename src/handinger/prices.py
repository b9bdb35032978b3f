"""What the calls of a model cost: as the operator says, nothing, or as genai-prices knows.

The price list is the pinned package's own; it is never fetched. All arithmetic is exact: Decimal
for prices, whole nano-dollars (1e-9 USD) for amounts.
"""

import functools
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Literal
from urllib.parse import urlsplit

from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Tier, TieredPrices

from handinger.settings import ModelRates, Settings

NANO = 1_000_000_000

# The most that one call is booked with. What a provider reports may be absurd, and sums must not
# overflow.
_MAX_COUNT = 10**12  # tokens
_MAX_COST_NANO = 10**15

# A call is billed at the prices of the moment at which it began; one that waits may begin later.
_PRICES_MAY_CHANGE_WITHIN = timedelta(hours=1)

# pydantic-ai's name of a provider, where genai-prices has another.
_PROVIDERS = {
    "openai-chat": "openai",
    "openai-responses": "openai",
    "google-gla": "google",
    "google-vertex": "google",
    "google-cloud": "google",
    "bedrock": "aws",
    "grok": "x-ai",
    "xai": "x-ai",
}

_DIRECTIONS = ("input", "output")

Source = Literal["HANDINGER_PRICES", "local", "genai-prices"]


@dataclass(frozen=True, slots=True)
class HighestPrice:
    """The highest price that each token of one call may have, in nano-dollars."""

    input_nano: Decimal
    output_nano: Decimal
    request_nano: Decimal

    @property
    def is_free(self) -> bool:
        """Whether no call can cost anything."""
        return not (self.input_nano or self.output_nano or self.request_nano)

    def cost_nano(self, input_tokens: int, output_tokens: int) -> int:
        """The most that a call of this size can cost."""
        cost = self.request_nano + self.input_nano * input_tokens + self.output_nano * output_tokens
        return int(cost.to_integral_value(rounding=ROUND_CEILING))

    def affordable_output(self, left_nano: int, input_tokens: int) -> int | None:
        """How many tokens may be answered; negative if the input alone costs more, None: any."""
        rest = left_nano - self.request_nano - self.input_nano * input_tokens
        if rest < 0:
            return -1
        if not self.output_nano:
            return None
        return int((rest / self.output_nano).to_integral_value(rounding=ROUND_FLOOR))

    def affordable_input(self, left_nano: int, output_tokens: int) -> int | None:
        """How many tokens may be sent; negative if the output alone costs more, None: any."""
        rest = left_nano - self.request_nano - self.output_nano * output_tokens
        if rest < 0:
            return -1
        if not self.input_nano:
            return None
        return int((rest / self.input_nano).to_integral_value(rounding=ROUND_FLOOR))


@dataclass(frozen=True)
class Price:
    """The price of one model."""

    source: Source
    name: str  # of what the price is for
    context_window: int | None
    _info: ModelInfo

    @property
    def is_free(self) -> bool:
        """Whether its calls cost nothing."""
        return self.worst_case(_MAX_COUNT).is_free

    def at(self, moment: datetime, context: Mapping[str, str] | None = None) -> ModelPrice:
        """The price list of one moment; `context` is what the provider said of the call."""
        return self._info.get_prices(moment, context)

    def worst_case(self, input_tokens: int, *, now: datetime | None = None) -> HighestPrice:
        """What a token may cost at most in a call with up to so many input tokens.

        No discount is assumed, neither that of a cache nor that of a size or of an hour.
        """
        now = now or datetime.now(UTC)
        lists = [self.at(now), self.at(now + _PRICES_MAY_CHANGE_WITHIN)]
        highest = {direction: Decimal(0) for direction in _DIRECTIONS}
        request = Decimal(0)
        for prices in lists:
            for direction, price in _token_prices(prices, input_tokens):
                highest[direction] = max(highest[direction], price)
            per_thousand = getattr(prices, "requests_kcount", None) or Decimal(0)
            request = max(request, _reachable(per_thousand, input_tokens) / 1000)
        million = Decimal(1_000_000)
        return HighestPrice(
            input_nano=highest["input"] * NANO / million,
            output_nano=highest["output"] * NANO / million,
            request_nano=request * NANO,
        )

    def cost_nano(
        self,
        usage: Mapping[str, int | float],
        *,
        at: datetime,
        context: Mapping[str, str] | None = None,
    ) -> int:
        """What a call that began `at` cost, by what its provider reported.

        Tokens are billed as the provider does: cached, for reasoning, of sound, by tier.
        """
        counted = _consistent(usage)
        try:
            cost_usd = self.at(at, context).calc_price(Usage(**counted))["total_price"]
        except ValueError:
            # Kinds of tokens that contradict each other: none of them gets a discount.
            worst = self.worst_case(int(counted["input_tokens"]), now=at)
            cost_usd = Decimal(
                worst.cost_nano(int(counted["input_tokens"]), int(counted["output_tokens"]))
            )
            cost_usd /= NANO
        nano = (cost_usd * NANO).to_integral_value(rounding=ROUND_HALF_UP)
        return min(int(nano), _MAX_COST_NANO)

    def unit_prices(
        self, moment: datetime, context: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """The price list in USD, by genai-prices' names: `input_mtok` is per million tokens."""
        return {
            key: _written(price)
            for key, price in self.at(moment, context).__dict__.items()
            if price is not None and key.endswith(("_mtok", "requests_kcount"))
        }


def _token_prices(prices: ModelPrice, input_tokens: int) -> Iterator[tuple[str, Decimal]]:
    """Each price per million tokens with its direction, at the highest tier within reach."""
    for key, price in prices.__dict__.items():
        if price is None or not key.endswith("_mtok"):
            continue
        if key.startswith(("output_audio", "output_image", "output_video")):
            continue  # Nobody asks a model for anything but text.
        if "1h" in key:
            continue  # Nobody asks for a cache of an hour.
        direction = "output" if key.startswith("output") else "input"
        yield direction, _reachable(price, input_tokens)


def _reachable(price: Decimal | TieredPrices, input_tokens: int) -> Decimal:
    if not isinstance(price, TieredPrices):
        return price
    return max([price.base, *(tier.price for tier in price.tiers if input_tokens > tier.start)])


def _written(price: Decimal | TieredPrices) -> str:
    if not isinstance(price, TieredPrices):
        return f"{price:f}"
    return ", ".join(
        [f"{price.base:f}", *(f"{tier.price:f} above {tier.start}" for tier in price.tiers)]
    )


def _consistent(usage: Mapping[str, int | float]) -> dict[str, int | float]:
    """Counts that do not contradict each other: no part is larger than the whole."""
    counts = {name: min(max(count, 0), _MAX_COUNT) for name, count in usage.items()}
    whole, answered = counts.get("input_tokens", 0), counts.get("output_tokens", 0)
    counts |= {"input_tokens": whole, "output_tokens": answered}

    def limit(name: str, most: float) -> float:
        if name in counts:
            counts[name] = min(counts[name], max(most, 0))
        return counts.get(name, 0)

    read = limit("cache_read_tokens", whole)
    written = limit("cache_write_tokens", whole - read)
    limit("cache_write_1h_tokens", written)
    sound = limit("input_audio_tokens", whole)
    limit("cache_audio_read_tokens", min(read, sound))
    limit("output_reasoning_tokens", answered)
    limit("output_audio_tokens", answered)
    return {name: count for name, count in counts.items() if count or name.endswith("put_tokens")}


@functools.lru_cache(maxsize=64)
def _known(provider: str, model: str, url: str | None) -> tuple[str, ModelInfo] | None:
    """What genai-prices has: by the address if it knows that, else by the provider's name."""
    snapshot = get_snapshot()
    for provider_id, provider_url in ((None, url), (provider, None)):
        if provider_id is None and provider_url is None:
            continue
        try:
            found, info = snapshot.find_provider_model(
                model, provider=None, provider_id=provider_id, provider_api_url=provider_url
            )
        except LookupError:
            continue
        return f"{found.id}/{info.id}", info
    return None


def of(settings: Settings) -> Price | None:
    """The price of the configured model; None if it is remote and nobody knows its price."""
    model_id = settings.model_id
    rates = settings.prices.get(model_id) or settings.prices.get("*")
    if rates is not None:
        return Price("HANDINGER_PRICES", model_id, None, _configured(model_id, rates))
    provider, _, model = model_id.partition(":")
    if model_id == "demo" or is_local(provider, settings.model_url):
        return Price("local", model_id, None, _info(model_id, ModelPrice()))
    known = _known(_PROVIDERS.get(provider, provider), model, settings.model_url)
    if known is None:
        return None
    name, info = known
    return Price("genai-prices", name, info.context_window, info)


def is_local(provider: str, url: str | None) -> bool:
    """Whether the model runs on the operator's own machines, where a call has no price."""
    host = urlsplit(url).hostname if url else None
    if host is None:
        return provider == "ollama"
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        # A name without a dot is one of a private network, a container's for example.
        return "." not in host or host.endswith((".localhost", ".internal", ".local"))


def _configured(model_id: str, rates: ModelRates) -> ModelInfo:
    prices = {
        f"{key}_mtok": _with_tiers(base, [(tier.above, getattr(tier, key)) for tier in rates.tiers])
        for key in ("input", "output", "cache_read", "cache_write", "input_audio")
        if (base := getattr(rates, key)) is not None
    }
    if "input_audio_mtok" in prices:
        # Sound in the cache has a price of its own; without one it gets no discount.
        prices["cache_audio_read_mtok"] = prices["input_audio_mtok"]
        prices["cache_audio_write_mtok"] = prices["input_audio_mtok"]
    if rates.request is not None:
        prices["requests_kcount"] = rates.request * 1000
    return _info(model_id, ModelPrice(**prices))


def _with_tiers(base: Decimal, tiers: list[tuple[int, Decimal | None]]) -> Decimal | TieredPrices:
    given = [Tier(start=above, price=price) for above, price in tiers if price is not None]
    return TieredPrices(base=base, tiers=given) if given else base


def _info(model_id: str, prices: ModelPrice) -> ModelInfo:
    return ModelInfo(id=model_id, match=ClauseEquals(model_id), prices=prices)


def unknown(settings: Settings) -> str:
    """The sentence for a capped budget with a model whose price nobody knows."""
    model = settings.model_id
    return (
        f"The price of the model {model} is not known, so a budget in USD cannot be kept. "
        f'Set HANDINGER_PRICES=\'{{"{model}": {{"input": 1.5, "output": 6}}}}\' (USD per million '
        "tokens), or use a budget without a cap in USD."
    )
