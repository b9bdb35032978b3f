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
from handinger.cli.arguments import read_text
from handinger.cli.examples import example
from handinger.cli.failures import CommandError, ExitCode, describe, exit_code_of, record_of
from handinger.cli.options import ErrorFormat, Format, Options
from handinger.cli.wording import printable

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
app.command(
    "handinger.cli.schedules:app",
    name="workers:schedules",
    help="Instructions that a worker gets by itself.",
)
app.command(
    "handinger.cli.emails:app",
    name="workers:emails",
    help="What came to a worker by mail, and went.",
)
app.command(
    "handinger.cli.usage:usage",
    name="usage",
    help="What your organization has used, and has left.",
    help_epilogue=example("handinger usage --group-by model"),
)
app.command(
    "handinger.cli.chat:chat",
    name="chat",
    help="Talk to a worker, an instruction a line.",
    help_epilogue=example('echo "6 * 7?" | handinger chat "$WORKER" --transform output_text -r'),
)
app.command(
    "handinger.cli.login:login",
    name="login",
    help="Keep a key and the server's address.",
    help_epilogue=example('echo "$HANDINGER_API_KEY" | handinger login'),
)
app.command(
    "handinger.cli.login:logout",
    name="logout",
    help="Forget the key of a server.",
    help_epilogue=example("handinger logout"),
)
app.command(
    "handinger.cli.completion:completion",
    name="completion",
    help="Complete commands in your shell.",
    help_epilogue=example('eval "$(handinger completion bash)"'),
)
app.command(
    "handinger.cli.serve:serve",
    name="serve",
    help="Run the server.",
    help_epilogue=example("handinger serve --port 8000"),
)
app.command("handinger.cli.keys:app", name="keys", help="API keys, on the server's database.")
app.command("handinger.cli.email:app", name="email", help="Whose mail workers take.")
app.command(
    "handinger.cli.credits:app", name="credits", help="What organizations may spend, in credits."
)
app.command(
    "handinger.cli.budgets:app", name="budgets", help="The caps of turns and of organizations."
)
app.command(
    "handinger.cli.prices:prices",
    name="prices",
    help="What a model's calls cost.",
    help_epilogue=example("handinger prices anthropic:claude-sonnet-4-5"),
)
app.command("handinger.cli.orgs:app", name="orgs", help="Organizations, on the server's database.")
app.command("handinger.cli.mcp:app", name="mcp", help="MCP servers, on the server's database.")
app.command(
    "handinger.cli.serve:config",
    name="config",
    help="The server's settings, without secrets.",
    help_epilogue=example("handinger config --transform HANDINGER_DATA_DIR -r"),
)
app.command(
    "handinger.cli.doctor:doctor",
    name="doctor",
    help="What workers' commands can do on this host.",
    help_epilogue=example("handinger doctor"),
)
# A cron expression may be `@daily`, which is no file.
_AS_IT_IS = ("cron",)
_GLOBAL = Group("Global options", sort_key=100)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    api_key: Annotated[
        str | None, Parameter(group=_GLOBAL, help="Your key, or @FILE. [env: HANDINGER_API_KEY]")
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
    format_error: Annotated[
        ErrorFormat, Parameter(group=_GLOBAL, help="The same for errors. auto: one line.")
    ] = "auto",
    transform: Annotated[
        str | None,
        Parameter(group=_GLOBAL, help="Print only this of each answer, such as files.#.url."),
    ] = None,
    raw_output: Annotated[
        bool,
        Parameter(
            name=("--raw-output", "-r"),
            group=_GLOBAL,
            help="Print a text without its quotes.",
            negative="",
        ),
    ] = False,
    debug: Annotated[
        bool,
        Parameter(group=_GLOBAL, help="Show the requests, without the key.", negative=""),
    ] = False,
) -> object:
    options = Options(
        api_key=api_key,
        base_url=base_url,
        format=format,
        format_error=format_error,
        transform=transform,
        raw_output=raw_output,
        debug=debug,
    )
    try:
        return _run_command(tokens, options)
    except CycloptsError as error:
        return _fail(error, f"{error} (see --help)", ExitCode.USAGE, format_error)
    except CommandError as error:
        return _fail(error, str(error), error.exit_code, format_error)
    except _sdk_error() as error:
        return _fail(error, describe(error), exit_code_of(error), format_error)


def _run_command(tokens: Sequence[str], options: Options) -> object:
    # A path that cannot be read is refused before anything is done.
    options.pick(None)
    # A dash alone is a value here, and for the parser the beginning of an option.
    command, bound, unbound = app.parse_args(["@-" if word == "-" else word for word in tokens])
    texts = {
        name: value
        for name, value in bound.arguments.items()
        if isinstance(value, str) and name not in _AS_IT_IS
    }
    if list(texts.values()).count("@-") > 1:
        raise CommandError("Only one value can come from the standard input.")
    bound.arguments |= {name: read_text(value) for name, value in texts.items()}
    given = {"options": options} if "options" in unbound else {}
    return command(*bound.args, **bound.kwargs, **given)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; failures are told on the error output."""
    try:
        result = app.meta(arguments)
        sys.stdout.flush()
    except CycloptsError as error:
        return _fail(error, f"{error} (see --help)", ExitCode.USAGE, "auto")
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return ExitCode.BROKEN_PIPE
    except OSError as error:
        # What a command reads and writes of its own, it has told by itself: this is its output.
        _discard_output()
        line = f"The output cannot be written: {error.strerror}."
        return _fail(error, line, ExitCode.FAILED, "auto")
    return result if isinstance(result, int) else ExitCode.OK


def main() -> None:
    """Run the command that the process was started with."""
    _open_missing_streams()
    _set_encodings()
    sys.exit(run(sys.argv[1:]))


def _open_missing_streams() -> None:
    """A process may be started without some of them; what is said there is for nobody."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _set_encodings() -> None:
    """Programs write and read UTF-8, as JSON is, whatever the locale; a terminal has its own."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            terminal = stream.isatty()
            if stream is sys.stdin:
                errors = "replace" if terminal else "strict"
            else:
                # What a model wrote may be unprintable here; that must not end a command.
                errors = "backslashreplace"
            stream.reconfigure(encoding=None if terminal else "utf-8", errors=errors)


def _discard_output() -> None:
    # The interpreter flushes once more at its end, and must not fail there again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sdk_error() -> type[HandingerError]:
    """Asked for only when something failed: the SDK takes longer to load than help to print."""
    from handinger.sdk.errors import HandingerError

    return HandingerError


def _fail(error: Exception, line: str, exit_code: ExitCode, format: ErrorFormat) -> int:
    match format:
        case "auto" | "pretty" | "raw":
            text = f"error: {line}\n"
        case "yaml":
            from handinger.cli.output import yaml_text

            text = yaml_text(record_of(error, exit_code))
        case _:
            import json

            indent = 2 if format == "json" else None
            record = record_of(error, exit_code)
            text = json.dumps(record, ensure_ascii=False, indent=indent) + "\n"
    sys.stderr.write(printable(text))
    return exit_code
