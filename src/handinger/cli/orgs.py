"""`handinger orgs ...`: they work on the database and need no running server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from handinger.cli import output, wording
from handinger.cli.examples import example
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors

if TYPE_CHECKING:
    from handinger.keys import Organization
    from handinger.sdk.models import JsonObject

app = App(name="orgs", help_format="plaintext")


@app.command(help_epilogue=example("handinger orgs create --name Research"))
def create(
    *,
    name: Annotated[str, Parameter(help="What to call it.")],
    quiet: Annotated[bool, Parameter(help="Print the id and nothing else.", negative="")] = False,
) -> None:
    """Create an organization and print its id."""
    with server_errors():
        from handinger.cli import administration

        organization = asyncio.run(administration.create_organization(name))
    print(organization.id)
    if not quiet:
        output.note(f"Now give it a key: handinger keys create --name NAME --org {organization.id}")


@app.command(name="list", help_epilogue=example("handinger orgs list"))
def list_(*, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """List the organizations, oldest first."""
    with server_errors():
        from handinger.cli import administration

        found = asyncio.run(administration.list_organizations())

    def pretty() -> None:
        from handinger.cli import pretty

        table = ((org.id, org.name, wording.moment(org.created_at)) for org in found)
        pretty.stdout().print(pretty.rows(table, "organization", "name", "created"))

    output.show_records([_record(org) for org in found], options, pretty=pretty)


def _record(organization: Organization) -> JsonObject:
    return {
        "id": organization.id,
        "name": organization.name,
        "createdAt": output.iso(organization.created_at),
    }
