"""`handinger email ...`: whose mail is taken; on the database, without a running server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from handinger.cli import output
from handinger.cli.examples import example
from handinger.cli.keys import Org
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors

if TYPE_CHECKING:
    from handinger.email.addresses import AllowList

app = App(name="email", help_format="plaintext")

Entries = Annotated[
    list[str],
    Parameter(help="Addresses, domains, or *. before a domain for all below it.", negative=""),
]


@app.command(name="list", help_epilogue=example("handinger email list"))
def list_(*, org: Org = None, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """List whose mail the workers of an organization take."""
    with server_errors():
        from handinger.cli import administration

        found = asyncio.run(administration.allow_list(org))

    def pretty() -> None:
        from handinger.cli import pretty

        table = ((entry,) for entry in found.entries)
        pretty.stdout().print(pretty.rows(table, "whose mail is taken"))

    output.show_records([{"allow": entry} for entry in found.entries], options, pretty=pretty)
    if found.is_default:
        output.note("This is the server's list (HANDINGER_EMAIL_ALLOW); there is no other.")


@app.command(help_epilogue=example("handinger email allow ada@example.com example.org"))
def allow(entries: Entries, /, *, org: Org = None) -> None:
    """Take mail from further senders. The first change begins with the server's list."""
    _change(add=entries, remove=[], org=org)


@app.command(help_epilogue=example("handinger email disallow example.org"))
def disallow(entries: Entries, /, *, org: Org = None) -> None:
    """Take no more mail from these senders."""
    _change(add=[], remove=entries, org=org)


@app.command(help_epilogue=example("handinger email reset"))
def reset(*, org: Org = None) -> None:
    """Forget the organization's own list; the server's holds again."""
    with server_errors():
        from handinger.cli import administration

        _tell(asyncio.run(administration.reset_allow_list(org)))


def _change(*, add: list[str], remove: list[str], org: str | None) -> None:
    with server_errors():
        from handinger.cli import administration

        _tell(asyncio.run(administration.change_allow_list(org, add=add, remove=remove)))


def _tell(found: AllowList) -> None:
    output.note(f"Mail is taken from: {', '.join(found.entries) or 'nobody'}.")
