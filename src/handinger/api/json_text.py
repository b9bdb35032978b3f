"""JSON as callers send it: read so that no body, whatever is in it, holds up everybody else.

To read one is a single call that nothing interrupts. How long it takes is a matter of how many
values there are more than of bytes, so these are counted before.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, cast

from pydantic_core import from_json

from handinger.errors import BodyTooLarge, MalformedRequest

# Long texts are worked on in such pieces, in a thread: between two the rest of the server has its
# turn.
PIECE = 256 * 1024
_MARKS = (b",", b"[", b"{")
_BETWEEN = re.compile(rb'[^"\[{,]{0,65536}+')
_WITHIN_TEXT = re.compile(rb'(?:[^"\\]{1,65536}+|\\.){0,64}+', re.DOTALL)


async def read(raw: bytes | bytearray, *, max_values: int) -> object:
    """What the text says. Raises BodyTooLarge, MalformedRequest."""
    if len(raw) > PIECE:
        has_more = await asyncio.to_thread(_has_more_values, raw, max_values)
    else:
        has_more = _has_more_values(raw, max_values)
    if has_more:
        raise BodyTooLarge(
            f"The JSON has more than {max_values} values (HANDINGER_MAX_JSON_VALUES)."
        )
    return _parse(raw)


async def shortened(fields: dict[str, Any]) -> dict[str, Any]:
    """What was sent, with a hash in the place of each text that is longer than a piece."""
    return cast("dict[str, Any]", await asyncio.to_thread(_short, fields))


def pieces(text: str) -> Iterator[str]:
    """A text, one piece after the other."""
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def _short(value: object) -> object:
    if isinstance(value, dict):
        return {name: _short(each) for name, each in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_short(each) for each in cast("list[object]", value)]
    if not isinstance(value, str) or len(value) <= PIECE:
        return value
    hashed = hashlib.sha256()
    for piece in pieces(value):
        hashed.update(piece.encode(errors="surrogatepass"))
    return {"sha256": hashed.hexdigest()}


def _parse(raw: bytes | bytearray) -> object:
    try:
        # Several times faster with long texts, such as files. What it takes is the same value.
        return from_json(raw, allow_inf_nan=False, cache_strings=False)
    except ValueError:
        pass  # What is wrong says the other one; and it takes what the standard leaves open.
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedRequest(
            f"The body is not UTF-8 (at byte {error.start}).", code="malformed_json"
        ) from error
    except RecursionError as error:
        raise MalformedRequest("The body's JSON is nested too deeply.") from error
    except ValueError as error:
        raise MalformedRequest(f"The body is not valid JSON: {error}.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _has_more_values(raw: bytes | bytearray, most: int) -> bool:
    """Whether there are more commas and opening brackets than that, outside of texts."""
    if len(raw) <= most or sum(raw.count(mark) for mark in _MARKS) <= most:
        return False
    at = count = 0
    while at < len(raw) and count <= most:
        at = _end(_BETWEEN, raw, at)
        mark = raw[at : at + 1]
        if mark == b'"':
            at = _after_text(raw, at + 1)
        elif mark in _MARKS:
            count, at = count + 1, at + 1
    return count > most


def _after_text(raw: bytes | bytearray, at: int) -> int:
    """Where what follows a text begins. One that does not end is for the parser to refuse."""
    while raw[at : at + 1] not in (b'"', b""):
        after = _end(_WITHIN_TEXT, raw, at)
        if after == at:
            return len(raw)
        at = after
    return at + 1


def _end(pattern: re.Pattern[bytes], raw: bytes | bytearray, at: int) -> int:
    found = pattern.match(raw, at)
    assert found is not None  # It may be empty, and is always there.
    return found.end()
