"""`handinger prices`: what the calls of a model cost, as this server counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from handinger.cli import output
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors

if TYPE_CHECKING:
    from handinger.sdk.models import JsonObject


def prices(
    model: Annotated[
        str | None, Parameter(help="A model id. [default: the configured model]")
    ] = None,
    /,
    *,
    options: Annotated[Options, Parameter(parse=False)],
) -> None:
    """Show the prices that apply to a model, and where they come from."""
    with server_errors():
        record = _record(model)

    def pretty() -> None:
        from handinger.cli import pretty

        rows = ((str(key), str(value)) for key, value in record.items())
        pretty.stdout().print(pretty.rows(rows))

    output.show(record, options, pretty=pretty)


def _record(model: str | None) -> JsonObject:
    from datetime import UTC, datetime
    from importlib.metadata import version

    from handinger import prices as price_list
    from handinger import settings

    configured = settings.load(model=model)
    price = price_list.of(configured)
    if price is None:
        return {
            "model": configured.model_id,
            "source": "unknown",
            "hint": price_list.unknown(configured),
        }
    source = price.source
    if source == "genai-prices":
        source = f"genai-prices {version('genai-prices')}, {price.name}"
    return {
        "model": configured.model_id,
        "source": source,
        **{
            # USD per million tokens; a call's own price is per thousand.
            f"{key}_usd": value
            for key, value in price.unit_prices(datetime.now(UTC)).items()
        },
    }
