"""`handinger credits ...`: they work on the database and need no running server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from handinger.cli import output, wording
from handinger.cli.examples import example
from handinger.cli.failures import CommandError
from handinger.cli.keys import Org
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors

if TYPE_CHECKING:
    from handinger.budgets.accounts import Account
    from handinger.keys import Organization
    from handinger.sdk.models import JsonObject

app = App(name="credits", help_format="plaintext")


@app.command(help_epilogue=example("handinger credits grant 5000 --note October"))
def grant(
    credits: Annotated[
        str, Parameter(help="How many; below zero takes away.", allow_leading_hyphen=True)
    ],
    *,
    note: Annotated[str, Parameter(help="What for; kept with the grant.")] = "",
    org: Org = None,
) -> None:
    """Add credits to an organization's balance; without one it has one from now on."""
    try:
        count = int(credits)
    except ValueError as error:
        raise CommandError(f"{credits[:40]} is no whole number of credits.") from error
    with server_errors():
        from handinger.cli import administration

        organization, account = asyncio.run(administration.grant_credits(count, note, org))
    output.note(_sentence(organization, account))


@app.command(help_epilogue=example("handinger credits show"))
def show(*, org: Org = None, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """Show what an organization may still spend."""
    with server_errors():
        from handinger.cli import administration

        organization, account = asyncio.run(administration.show_account(org))
    output.show(
        _record(organization, account),
        options,
        pretty=lambda: output.note(_sentence(organization, account)),
    )


@app.command(help_epilogue=example("handinger credits unlimited"))
def unlimited(*, org: Org = None) -> None:
    """Take an organization's balance away: its credits are counted, and not limited."""
    with server_errors():
        from handinger.cli import administration

        organization = asyncio.run(administration.lift_credits(org))
    output.note(f"The credits of {organization.name} are not limited any more.")


def _sentence(organization: Organization, account: Account | None) -> str:
    if account is None or account.balance_credits is None:
        return f"The credits of {organization.name} are not limited."
    return f"{organization.name} has {wording.counted(account.balance_credits, 'credit')}."


def _record(organization: Organization, account: Account | None) -> JsonObject:
    return {
        "organizationId": organization.id,
        "balanceCredits": None if account is None else account.balance_credits,
    }
