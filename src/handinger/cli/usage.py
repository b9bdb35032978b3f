"""`handinger usage`: what the organization of the key has used, and what it has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from handinger.cli import output
from handinger.cli.parameters import Given

if TYPE_CHECKING:
    from handinger.sdk.models import UsageReport, UsageSums


def usage(
    *,
    from_: Annotated[
        str | None,
        Parameter(name="--from", help="A date, or a date and time. [default: this month]"),
    ] = None,
    to: Annotated[
        str | None, Parameter(help="The same, and no part of the span. [default: now]")
    ] = None,
    group_by: Annotated[
        Literal["day", "worker", "model"], Parameter(help="What is summed up.")
    ] = "day",
    options: Given,
) -> None:
    """Show what was used, by day, worker or model, and what may still be spent."""
    with options.client() as client:
        answer = client.usage.with_raw_response.retrieve(from_=from_, to=to, group_by=group_by)
    output.show_answer(answer, options, pretty=lambda: _show(answer.parse()))


def _show(report: UsageReport) -> None:
    from handinger.cli import pretty, wording

    table = [_row(group.key, group) for group in report.groups]
    console = pretty.stdout()
    console.print(
        pretty.rows(
            [*table, _row("in all", report.total)], str(report.group_by), "steps", "tokens", "USD"
        )
    )
    if report.balance_credits is not None:
        console.print(f"left: {wording.counted(report.balance_credits, 'credit')}")
    if report.monthly_cap_usd is not None:
        spent = wording.money(report.month_usd or 0)
        console.print(f"this month: {spent} of {wording.money(report.monthly_cap_usd)}")


def _row(name: str, sums: UsageSums) -> tuple[str, ...]:
    from handinger.cli import wording

    used = sums.usage
    return name, f"{used.steps:,}", f"{used.total_tokens:,}", wording.money(used.cost_usd)
