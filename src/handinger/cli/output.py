"""Prints answers for programs, as JSON, and notes beside them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

    from handinger.cli.options import Shape
    from handinger.sdk.models import ApiObject, JsonObject


def write_json(value: JsonValue, *, indent: int | None = None) -> None:
    """One JSON document on the standard output, at once."""
    separators = None if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_object(answer: ApiObject, shape: Shape) -> None:
    """An answer for programs."""
    write_json(answer.to_dict(), indent=2 if shape == "json" else None)


def write_records(records: Sequence[JsonObject], shape: Shape) -> None:
    """A list for programs: one array, or for `jsonl` a line each."""
    if shape == "jsonl":
        for record in records:
            write_json(record)
    else:
        write_json(list(records), indent=2 if shape == "json" else None)


def note(message: str) -> None:
    """A line for a person, which is no part of the answer."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def iso(at: datetime) -> str:
    """A time as it stands in JSON."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
