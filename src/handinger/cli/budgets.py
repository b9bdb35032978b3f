"""`handinger budgets ...`: they work on the database and need no running server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cyclopts import App, Parameter

from handinger.cli import output
from handinger.cli.examples import example
from handinger.cli.failures import CommandError
from handinger.cli.keys import Org
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handinger.sdk.models import JsonObject

app = App(name="budgets", help_format="plaintext")

Level: TypeAlias = Literal["low", "standard", "high", "unlimited"]
Cap: TypeAlias = str | None

_NONE = "none"


@app.command(help_epilogue=example("handinger budgets show"))
def show(*, org: Org = None, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """Show the caps of every level that hold for an organization, and its cap for a month."""
    with server_errors():
        from handinger.cli import administration

        limits, month_usd = asyncio.run(administration.show_budgets(org))

    def pretty() -> None:
        from handinger.cli import pretty

        rows = [
            (name, *(_written(cap) for cap in (caps.model_calls, caps.usd, caps.seconds)))
            for name, caps in limits.items()
        ]
        pretty.stdout().print(pretty.rows(rows, "level", "model calls", "USD", "seconds"))
        output.note(f"A month: {_dollars(month_usd)}.")

    records: list[JsonObject] = [
        {"level": name, **caps.model_dump(by_alias=True)} for name, caps in limits.items()
    ]
    records.append({"level": "month", "usd": month_usd})
    output.show_records(records, options, pretty=pretty)


@app.command(name="set", help_epilogue=example("handinger budgets set low --usd 0.20"))
def set_(
    level: Annotated[Level, Parameter(help="Which level.")],
    *,
    usd: Annotated[Cap, Parameter(help="Cap in USD, or none.")] = None,
    model_calls: Annotated[Cap, Parameter(help="Cap on model calls, or none.")] = None,
    seconds: Annotated[Cap, Parameter(help="Cap on seconds, or none.")] = None,
    org: Org = None,
) -> None:
    """Give an organization caps of its own for a level; those not named stay as they are."""
    given = {"usd": usd, "modelCalls": model_calls, "seconds": seconds}
    caps = {name: _cap(name, text) for name, text in given.items() if text is not None}
    if not caps:
        raise CommandError("Name at least one cap, for example --usd 0.20.")
    _set(level, caps, org)
    output.note(f"Turns that start from now on have these caps for {level}.")


@app.command(help_epilogue=example("handinger budgets reset low"))
def reset(level: Annotated[Level, Parameter(help="Which level.")], *, org: Org = None) -> None:
    """Give an organization the server's caps for a level again."""
    _set(level, {}, org)
    output.note(f"The level {level} has the server's caps again.")


@app.command(help_epilogue=example("handinger budgets cap 100"))
def cap(
    usd: Annotated[str, Parameter(help="USD for each calendar month (UTC), or none.")],
    *,
    org: Org = None,
) -> None:
    """Limit what an organization may spend in a month."""
    amount = _cap("usd", usd)
    with server_errors():
        from handinger.cli import administration

        organization = asyncio.run(administration.cap_month(amount, org))
    output.note(f"A month of {organization.name}: {_dollars(amount)}.")


def _set(level: Level, caps: Mapping[str, float | None], org: str | None) -> None:
    with server_errors():
        from handinger.cli import administration

        asyncio.run(administration.set_budget(level, caps, org))


def _cap(name: str, text: str) -> float | None:
    if text == _NONE:
        return None
    try:
        number = int(text) if name == "modelCalls" else float(text)
    except ValueError as error:
        kind = "whole number" if name == "modelCalls" else "number"
        raise CommandError(f"{text} is no {kind}, and not none.") from error
    if not 0 <= number < 1e9:
        raise CommandError(f"{text} is out of range.")
    return number


def _written(cap: float | None) -> str:
    return "no cap" if cap is None else f"{cap:g}"


def _dollars(cap: float | None) -> str:
    return "no cap" if cap is None else f"at most {cap:g} USD"
