"""The entry point: the tree of commands, the options of all, and the way that failures end.

Nothing heavy is imported here, so that help and completion stay fast.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from handinger._version import __version__
from handinger.cli.failures import CommandError, ExitCode, describe, exit_code_of
from handinger.cli.options import Format, Options

if TYPE_CHECKING:
    from handinger.sdk.errors import HandingerError

app = App(
    name="handinger",
    help="Workers: agents with a conversation and files of their own, on your own server.",
    help_epilogue=(
        "Exit status: 0 done, 1 the turn failed, 2 wrong usage, 3 no access, 4 not found, "
        "5 no server, 130 interrupted."
    ),
    # The default, Markdown, takes twice as long to load.
    help_format="plaintext",
    version=__version__,
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.command(
    "handinger.cli.workers:app", name="workers", help="Create workers, instruct and watch them."
)
app.command("handinger.cli.serve:serve", name="serve", help="Run the server.")
app.command("handinger.cli.keys:app", name="keys", help="API keys, on the server's database.")
app.command("handinger.cli.orgs:app", name="orgs", help="Organizations, on the server's database.")
app.command(
    "handinger.cli.serve:config", name="config", help="The server's settings, without secrets."
)
app.command(
    "handinger.cli.doctor:doctor", name="doctor", help="What workers' commands can do on this host."
)
_GLOBAL = Group("Global options", sort_key=100)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    api_key: Annotated[
        str | None, Parameter(group=_GLOBAL, help="Your key. [env: HANDINGER_API_KEY]")
    ] = None,
    base_url: Annotated[
        str | None, Parameter(group=_GLOBAL, help="The server. [env: HANDINGER_BASE_URL]")
    ] = None,
    format: Annotated[
        Format,
        Parameter(
            group=_GLOBAL, help="auto: pretty in a terminal, else json, or jsonl for a stream."
        ),
    ] = "auto",
) -> object:
    command, bound, unbound = app.parse_args(tokens)
    options = Options(api_key=api_key, base_url=base_url, format=format)
    given = {"options": options} if "options" in unbound else {}
    return command(*bound.args, **bound.kwargs, **given)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; failures are told on the error output."""
    try:
        result = app.meta(arguments)
        sys.stdout.flush()
    except CycloptsError as error:
        return _fail(f"{error} (see --help)", ExitCode.USAGE)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and must not fail there again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except _sdk_error() as error:
        return _fail(describe(error), exit_code_of(error))
    return result if isinstance(result, int) else ExitCode.OK


def main() -> None:
    """Run the command that the process was started with."""
    for stream in (sys.stdout, sys.stderr):
        # What a model wrote may be unprintable in this encoding; that must not end a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def _sdk_error() -> type[HandingerError]:
    """Asked for only when something failed: the SDK takes longer to load than help to print."""
    from handinger.sdk.errors import HandingerError

    return HandingerError


def _fail(message: str, exit_code: ExitCode) -> int:
    print(f"error: {message}", file=sys.stderr)
    return exit_code
