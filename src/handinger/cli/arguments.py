"""Arguments whose value stands elsewhere (`@file`, `@-`), or is JSON or relaxed YAML."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from handinger.cli.failures import CommandError

if TYPE_CHECKING:
    from handinger.sdk.models import JsonObject


def read_text(value: str) -> str:
    r"""The value itself, or with `@` before it what that file or, for `@-`, the input holds.

    As with `$(...)` in a shell, line ends behind that are left out. `\@` stands for an `@` at the
    beginning, and `\-` for a dash.
    """
    if value.startswith("\\@") or value == "\\-":
        return _require_unicode(value[1:])
    if not value.startswith("@"):
        return _require_unicode(value)
    name = value[1:]
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        return text.rstrip("\r\n")
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{name} is not UTF-8 text.") from error


def read_mapping(value: str, *, option: str) -> JsonObject:
    """An object in JSON or in YAML, `{delayInSeconds: 60, type: delayed}`."""
    try:
        parsed: object = json.loads(value)
    except ValueError:
        parsed = _read_yaml(value, option=option)
    if not isinstance(parsed, dict):
        raise CommandError(f"{option} must be an object, such as '{{name: value}}'.")
    return cast("JsonObject", parsed)


def _read_yaml(text: str, *, option: str) -> object:
    import yaml

    class Loader(yaml.SafeLoader):
        """Dates stay text, as in JSON."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        parsed: object = yaml.load(text, Loader)  # noqa: S506 - a safe loader, see above
        json.dumps(parsed)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        hint = " A value that begins with * needs quotes." if "alias" in said else ""
        raise CommandError(f"{option} is neither JSON nor YAML: {said}.{hint}") from error
    return parsed


def _require_unicode(value: str) -> str:
    # Python hands on undecodable bytes of an argument as lone surrogates, which no JSON can carry.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CommandError("The argument is not UTF-8 text.") from error
    return value
