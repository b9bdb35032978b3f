"""`handinger serve` and `handinger config`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from handinger.cli import output
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors


def serve(
    *,
    host: Annotated[
        str | None, Parameter(help="The address to listen on. [default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, Parameter(help="The port. [default: 8000]")] = None,
) -> None:
    """Run the server until it is told to stop: API, scheduler and turns in one process."""
    with server_errors():
        from handinger import settings
        from handinger.server import serve as serve_until_stopped

        serve_until_stopped(settings.load(host=host, port=port))


def config(*, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """Show the server's settings as this environment gives them, without secrets."""
    with server_errors():
        from handinger import settings

        described = settings.describe(settings.load())

    def pretty() -> None:
        from handinger.cli import pretty

        pretty.stdout().print(pretty.rows(described))

    output.show(dict(described), options, pretty=pretty)
