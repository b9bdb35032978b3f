"""Prints answers for programs, as JSON or YAML, and notes beside them.

A pipe gets every character as it is. A terminal gets none that could steer it, whatever the format:
a model, a page or a file may have written it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from handinger.cli.wording import printable

if TYPE_CHECKING:
    from pydantic import JsonValue

    from handinger.cli.options import Options
    from handinger.sdk.caller import APIResponse
    from handinger.sdk.models import JsonObject


def show(value: JsonValue, options: Options, *, pretty: Callable[[], object]) -> None:
    """One answer: by `pretty` for a person, else for a program."""
    if options.shape() == "pretty" and not options.picks:
        pretty()
    else:
        write(value, options)


def show_answer(
    answer: APIResponse[Any], options: Options, *, pretty: Callable[[], object]
) -> None:
    """The same for an answer of the server, whose bytes `raw` prints as they came."""
    if options.shape() == "raw" and not options.picks:
        if sys.stdout.isatty():
            write_text(answer.content.decode(errors="replace") + "\n")
        else:
            sys.stdout.buffer.write(answer.content + b"\n")
            sys.stdout.buffer.flush()
    else:
        show(answer.json(), options, pretty=pretty)


def show_records(
    records: Sequence[JsonObject], options: Options, *, pretty: Callable[[], object]
) -> None:
    """A list: for `jsonl` a line each, else one array."""
    if options.shape() == "jsonl":
        for record in records:
            write(record, options)
    else:
        show(list(records), options, pretty=pretty)


def write(value: JsonValue, options: Options, *, streamed: bool = False) -> None:
    """One value for a program, at once: what `--transform` leaves of it, in the format asked for.

    `--raw-output` prints a text without its quotes.
    """
    value = options.pick(value)
    if options.raw_output and isinstance(value, str):
        write_text(value + "\n")
        return
    match options.shape(streamed=streamed):
        case "yaml":
            write_text(("---\n" if streamed else "") + yaml_text(value))
        case "json" | "pretty":
            write_json(value, indent=2)
        case "jsonl" | "raw":
            write_json(value)


def write_json(value: JsonValue, *, indent: int | None = None) -> None:
    """One JSON document on the standard output, at once."""
    separators = None if indent else (",", ":")
    write_text(json.dumps(value, ensure_ascii=False, indent=indent, separators=separators) + "\n")


def write_text(text: str) -> None:
    """A part of the answer, at once."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def note(message: str) -> None:
    """A line for a person, which is no part of the answer."""
    sys.stderr.write(printable(message) + "\n")
    sys.stderr.flush()


def iso(at: datetime) -> str:
    """A time as it stands in JSON."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def yaml_text(value: JsonValue) -> str:
    """YAML in blocks, with the keys in their order."""
    import yaml

    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=100)
