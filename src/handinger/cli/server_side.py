"""What the commands on the server's own modules share: they need the extra and tell its errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from handinger.cli.failures import CommandError


@contextmanager
def server_errors() -> Generator[None]:
    """Ends the command with one line when the server's modules are missing or say no.

    The imports belong inside, too.
    """
    try:
        from handinger.errors import HandingerServerError
    except ModuleNotFoundError as error:
        raise _without_extra(error) from error
    try:
        yield
    except ModuleNotFoundError as error:
        raise _without_extra(error) from error
    except HandingerServerError as error:
        raise CommandError(" ".join(str(error).split())) from error


def _without_extra(error: ModuleNotFoundError) -> Exception:
    if (error.name or "").partition(".")[0] == "handinger":
        return error
    return CommandError(
        f"This command needs the server ({error.name} is missing): pip install 'handinger[server]'"
    )
