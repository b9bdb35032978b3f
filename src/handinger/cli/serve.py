"""`handinger serve` and `handinger config`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from types import FrameType
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
        from handinger.storage import embedded

        configured = settings.load(host=host, port=port)
        told: list[int] = []
        with _noted(told), contextlib.ExitStack() as stack:
            postgres = None
            if configured.database_url is None:
                postgres = stack.enter_context(embedded.serving(configured.data_dir))
            # Once more, as the server takes them away, and PostgreSQL has yet to be stopped then.
            stack.enter_context(_noted(told))
            # The largest part by far, which is loaded while PostgreSQL starts.
            from handinger.server import serve as serve_until_stopped

            serve_until_stopped(configured, postgres, told)


@contextlib.contextmanager
def _noted(told: list[int]) -> Generator[None]:
    """Signals to stop are noted within this block, and break nothing off.

    The exception of a signal may come up anywhere in an import, and be taken for its failure.
    """

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    usual = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def config(*, options: Annotated[Options, Parameter(parse=False)]) -> None:
    """Show the server's settings as this environment gives them, without secrets."""
    with server_errors():
        from handinger import settings

        described = settings.describe(settings.load())

    def pretty() -> None:
        from handinger.cli import pretty

        pretty.stdout().print(pretty.rows(described))

    output.show(dict(described), options, pretty=pretty)
