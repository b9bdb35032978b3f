"""`handinger orgs ...`: they work on the database and need no running server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from handinger.cli import output, wording
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors

if TYPE_CHECKING:
    from handinger.keys import Organization
    from handinger.sdk.models import JsonObject

app = App(name="orgs", help_format="plaintext")


@app.command
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


@app.command(name="list")
def list_(*, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """List the organizations, oldest first."""
    with server_errors():
        from handinger.cli import administration

        found = asyncio.run(administration.list_organizations())
    shape = options.shape()
    if shape == "pretty":
        table = ((org.id, org.name, wording.moment(org.created_at)) for org in found)
        from handinger.cli import pretty

        pretty.stdout().print(pretty.rows(table, "organization", "name", "created"))
    else:
        output.write_records([_record(organization) for organization in found], shape)


def _record(organization: Organization) -> JsonObject:
    return {
        "id": organization.id,
        "name": organization.name,
        "createdAt": output.iso(organization.created_at),
    }
