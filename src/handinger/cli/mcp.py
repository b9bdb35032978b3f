"""`handinger mcp ...`: the MCP servers whose tools an organization's workers may use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from handinger.cli import output, wording
from handinger.cli.examples import example
from handinger.cli.failures import CommandError
from handinger.cli.keys import Org
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors

if TYPE_CHECKING:
    from handinger.cli.administration import OfferedTool
    from handinger.mcp_servers import McpServer
    from handinger.sdk.models import JsonObject

app = App(name="mcp", help_format="plaintext")

_Name = Annotated[str, Parameter(help="What to call it; its tools are called NAME_TOOL.")]


@app.command(
    help_epilogue=example(
        'handinger mcp add notes https://mcp.example.com/mcp --header "Authorization=Bearer $TOKEN"'
    )
)
def add(
    name: _Name,
    target: Annotated[
        str, Parameter(help="Its URL, or the command that runs it, as one argument.")
    ],
    *,
    header: Annotated[
        tuple[str, ...],
        Parameter(help="NAME=VALUE for a URL; @FILE as the value reads it. Kept secret."),
    ] = (),
    env: Annotated[
        tuple[str, ...],
        Parameter(help="NAME=VALUE for a command; @FILE as the value reads it. Kept secret."),
    ] = (),
    may_write: Annotated[
        tuple[str, ...],
        Parameter(help="A tool that may change things although untrusted text was read."),
    ] = (),
    allow_writes: Annotated[bool, Parameter(help="All of its tools may.", negative="")] = False,
    org: Org = None,
) -> None:
    """Offer a server's tools to all workers of an organization."""
    headers, environment = _pairs(header, "--header"), _pairs(env, "--env")
    with server_errors():
        from handinger.cli import administration

        server = asyncio.run(
            administration.add_mcp_server(
                name,
                target,
                org,
                headers=headers,
                environment=environment,
                may_write=["*"] if allow_writes else list(may_write),
            )
        )
    output.note(
        f"Added {server.name} ({server.target}). "
        f"See whether it answers: handinger mcp check {server.name}"
    )


@app.command(name="list", help_epilogue=example("handinger mcp list"))
def list_(*, org: Org = None, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """List the servers of an organization, without their secrets."""
    with server_errors():
        from handinger.cli import administration

        found = asyncio.run(administration.list_mcp_servers(org))

    def pretty() -> None:
        from handinger.cli import pretty

        table = (
            (one.name, one.target, _writers(one), wording.moment(one.created_at)) for one in found
        )
        pretty.stdout().print(pretty.rows(table, "server", "at", "may write", "added"))

    output.show_records([_record(server) for server in found], options, pretty=pretty)


@app.command(help_epilogue=example("handinger mcp check notes"))
def check(
    name: _Name,
    *,
    org: Org = None,
    options: Annotated[Options, Parameter(parse=False)],
) -> None:
    """Connect to a server now, and list its tools as the workers get them."""
    with server_errors():
        from handinger.cli import administration

        tools = asyncio.run(administration.check_mcp_server(name, org))

    def pretty() -> None:
        from handinger.cli import pretty

        table = (
            (tool.name, "yes" if tool.may_write else "no", tool.description[:100]) for tool in tools
        )
        pretty.stdout().print(pretty.rows(table, "tool", "always allowed", "does"))

    output.show_records([_tool_record(tool) for tool in tools], options, pretty=pretty)


@app.command(help_epilogue=example("handinger mcp remove notes"))
def remove(name: _Name, *, org: Org = None) -> None:
    """Take a server and its secrets away."""
    with server_errors():
        from handinger.cli import administration

        asyncio.run(administration.remove_mcp_server(name, org))
    output.note(f"Removed {name}.")


def _pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CommandError(f"{option} takes NAME=VALUE.")
        if value.startswith("@"):
            try:
                value = Path(value[1:]).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise CommandError(f"{option} {name}: the file cannot be read: {error}.") from error
        pairs[name] = value
    return pairs


def _writers(server: McpServer) -> str:
    return "all" if "*" in server.may_write else ", ".join(server.may_write) or "none"


def _tool_record(tool: OfferedTool) -> JsonObject:
    return {
        "name": tool.name,
        "description": tool.description,
        "readsOnly": tool.reads_only,
        "mayWrite": tool.may_write,
    }


def _record(server: McpServer) -> JsonObject:
    return {
        "name": server.name,
        "target": server.target,
        "mayWrite": list(server.may_write),
        "createdAt": output.iso(server.created_at),
    }
