"""Arguments whose value stands elsewhere (`@file`, `@-`), and arguments that are JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from handinger.cli.failures import CommandError

if TYPE_CHECKING:
    from handinger.sdk.models import JsonObject


def read_text(value: str) -> str:
    r"""The value itself, or with `@` before it what that file or, for `-`, the input holds.

    `\@` stands for an `@` at the beginning.
    """
    if value.startswith("\\@"):
        return _require_unicode(value[1:])
    if not value.startswith("@"):
        return _require_unicode(value)
    name = value[1:]
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{name} is not UTF-8 text.") from error


def read_object(value: str, *, option: str) -> JsonObject:
    """A JSON object, given directly or as `read_text` reads it."""
    try:
        parsed: object = json.loads(read_text(value))
    except json.JSONDecodeError as error:
        raise CommandError(f"{option} is not JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise CommandError(f"{option} must be a JSON object.")
    return cast("JsonObject", parsed)


def _require_unicode(value: str) -> str:
    # Python hands on undecodable bytes of an argument as lone surrogates, which no JSON can carry.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CommandError("The argument is not UTF-8 text.") from error
    return value
