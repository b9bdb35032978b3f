"""`handinger keys ...`: they work on the database and need no running server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import App, Parameter

from handinger.cli import output, wording
from handinger.cli.examples import example
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors

if TYPE_CHECKING:
    from handinger.keys import Key
    from handinger.sdk.models import JsonObject

app = App(name="keys", help_format="plaintext")

Org: TypeAlias = Annotated[
    str | None,
    Parameter(name="--org", help="The organization's id or name. [default: the first one]"),
]


@app.command(help_epilogue=example("handinger keys create --name laptop"))
def create(
    *,
    name: Annotated[str, Parameter(help="What it is for.")],
    quiet: Annotated[bool, Parameter(help="Print the key and nothing else.", negative="")] = False,
    org: Org = None,
) -> None:
    """Create a key and print it; it cannot be shown again."""
    with server_errors():
        from handinger.cli import administration

        organization, key = asyncio.run(administration.create_key(name, org))
    print(key.secret)
    if not quiet:
        output.note(f"{key.id} of {organization.name}. Keep the key: it is not shown again.")


@app.command(name="list", help_epilogue=example("handinger keys list --format jsonl"))
def list_(*, org: Org = None, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """List the keys of an organization; of each only the end is known."""
    with server_errors():
        from handinger.cli import administration

        found = asyncio.run(administration.list_keys(org))

    def pretty() -> None:
        from handinger.cli import pretty

        table = (_columns(key) for key in found)
        pretty.stdout().print(pretty.rows(table, "key", "name", "ends with", "created", "revoked"))

    output.show_records([_record(key) for key in found], options, pretty=pretty)


@app.command(help_epilogue=example('handinger keys revoke "$KEY_ID"'))
def revoke(key_id: Annotated[str, Parameter(help="The key's id.")], *, org: Org = None) -> None:
    """Revoke a key: it opens nothing any more."""
    with server_errors():
        from handinger.cli import administration

        key = asyncio.run(administration.revoke_key(key_id, org))
    output.note(f"Revoked {key.id} ({key.name}).")


def _columns(key: Key) -> tuple[str, ...]:
    revoked = "" if key.revoked_at is None else wording.moment(key.revoked_at)
    return key.id, key.name, key.hint, wording.moment(key.created_at), revoked


def _record(key: Key) -> JsonObject:
    return {
        "id": key.id,
        "name": key.name,
        "hint": key.hint,
        "createdAt": output.iso(key.created_at),
        "revokedAt": None if key.revoked_at is None else output.iso(key.revoked_at),
    }
