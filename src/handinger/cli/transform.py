"""`--transform`: picks from an answer, by a subset of GJSON's path syntax (docs/cli.md has it).

A path is read into steps once, and then walked for each value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from handinger.cli.failures import CommandError

if TYPE_CHECKING:
    from pydantic import JsonValue

    Found: TypeAlias = "JsonValue | _Missing"

# The longer ones first: `<=` is no `<`.
_OPERATORS = ("==", "!=", "<=", ">=", "!%", "<", ">", "%")
_CLOSING = {"(": ")", "{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class _Missing:
    """What a path finds where nothing is."""


_MISSING = _Missing()


def compile_path(path: str) -> Callable[[JsonValue], JsonValue]:
    """What picks the path from a value, null where nothing is.

    Raises CommandError for what is no path.
    """
    steps = _parse(path)

    def pick(value: JsonValue) -> JsonValue:
        found = _walk(value, steps)
        return None if isinstance(found, _Missing) else found

    return pick


# Walking


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a path; `piped`: it takes the whole of what was found so far."""

    piped: bool


@dataclass(frozen=True, slots=True)
class _Key(_Step):
    """A key of an object, or an index of an array."""

    name: str
    pattern: re.Pattern[str] | None = None

    def of(self, value: JsonValue) -> Found:
        match value:
            case dict() if self.pattern is not None:
                names = (name for name in value if self.pattern.fullmatch(name))
                name = next(names, None)
                return _MISSING if name is None else value[name]
            case dict():
                return value.get(self.name, _MISSING)
            case list() if self.name.isascii() and self.name.isdigit():
                place = int(self.name)
                return value[place] if place < len(value) else _MISSING
            case _:
                return _MISSING


@dataclass(frozen=True, slots=True)
class _Each(_Step):
    """Every element of an array; at the end of a path, how many there are."""


@dataclass(frozen=True, slots=True)
class _Where(_Step):
    """The elements of an array that match, or the first of them."""

    matches: Callable[[JsonValue], bool]
    all: bool


@dataclass(frozen=True, slots=True)
class _Several(_Step):
    """Several paths at once: an object if they have names, else an array."""

    paths: tuple[tuple[str, Sequence[_Step]], ...]
    named: bool

    def of(self, value: JsonValue) -> JsonValue:
        found = [(name, _walk(value, steps)) for name, steps in self.paths]
        there = [(name, one) for name, one in found if not isinstance(one, _Missing)]
        return dict(there) if self.named else [one for _, one in there]


@dataclass(frozen=True, slots=True)
class _Modifier(_Step):
    """`@reverse` and its like."""

    of: Callable[[JsonValue], JsonValue]


def _walk(value: Found, steps: Sequence[_Step]) -> Found:
    for place, step in enumerate(steps):
        if isinstance(value, _Missing):
            return value
        if isinstance(step, (_Each, _Where)):
            return _go_through(value, step, steps[place + 1 :])
        assert isinstance(step, (_Key, _Several, _Modifier))
        value = step.of(value)
    return value


def _go_through(value: JsonValue, step: _Each | _Where, rest: Sequence[_Step]) -> Found:
    if not isinstance(value, list):
        return _MISSING
    if isinstance(step, _Where) and not step.all:
        first = next((one for one in value if step.matches(one)), _MISSING)
        return _walk(first, rest)
    # The steps up to a pipe are taken in each element, those behind it in all that was found.
    end = next((place for place, later in enumerate(rest) if later.piped), len(rest))
    inner, outer = rest[:end], rest[end:]
    chosen = value if isinstance(step, _Each) else [one for one in value if step.matches(one)]
    if isinstance(step, _Each) and not inner:
        return _walk(len(chosen), outer)
    found = (_walk(one, inner) for one in chosen)
    return _walk([one for one in found if not isinstance(one, _Missing)], outer)


# Reading


def _parse(path: str) -> Sequence[_Step]:
    if not path:
        raise _wrong(path, "it is empty")
    return [_step(text, piped=piped) for text, piped in _steps(path)]


def _steps(path: str) -> Iterator[tuple[str, bool]]:
    piped = False
    for text, end in _split(path, ".|"):
        yield text, piped
        piped = end == "|"


def _step(text: str, *, piped: bool) -> _Step:
    if text == "#":
        return _Each(piped)
    if text.startswith("#("):
        return _where(text, piped=piped)
    if text.startswith("@"):
        if (change := _MODIFIERS.get(text[1:])) is None:
            raise _wrong(text, f"there are only {', '.join(f'@{name}' for name in _MODIFIERS)}")
        return _Modifier(piped, change)
    if text.startswith(("{", "[")):
        return _several(text, piped=piped)
    return _key(text, piped=piped)


def _key(text: str, *, piped: bool) -> _Key:
    if not text:
        raise _wrong(text, "a step is empty")
    name, pattern, wild = "", "", False
    for character, escaped in _characters(text):
        name += character
        if character in "*?" and not escaped:
            wild = True
            pattern += ".*" if character == "*" else "."
        else:
            pattern += re.escape(character)
    return _Key(piped, name, re.compile(pattern, re.DOTALL) if wild else None)


def _where(text: str, *, piped: bool) -> _Where:
    everything = text.endswith(")#")
    if not everything and not text.endswith(")"):
        raise _wrong(text, "a query is #(...) or #(...)#")
    query = text[2 : -2 if everything else -1]
    return _Where(piped, _condition(query), everything)


def _condition(query: str) -> Callable[[JsonValue], bool]:
    path, operator, wanted = _comparison(query)
    steps = _parse(path) if path else ()
    if operator is None:
        return lambda value: not isinstance(_walk(value, steps), _Missing)
    literal = _literal(wanted)
    compare = _COMPARISONS[operator]

    def matches(value: JsonValue) -> bool:
        found = _walk(value, steps)
        return not isinstance(found, _Missing) and compare(found, literal)

    return matches


def _comparison(query: str) -> tuple[str, str | None, str]:
    for place in _open_places(query):
        for operator in _OPERATORS:
            if query.startswith(operator, place):
                left, right = query[:place], query[place + len(operator) :]
                return left.strip(), operator, right.strip()
    return query.strip(), None, ""


def _literal(text: str) -> JsonValue:
    """JSON, or a word without quotes."""
    try:
        return cast("JsonValue", json.loads(text))
    except ValueError:
        return text


def _several(text: str, *, piped: bool) -> _Several:
    named = text[0] == "{"
    if text[-1] != _CLOSING[text[0]]:
        raise _wrong(text, f"what begins with {text[0]} ends with {_CLOSING[text[0]]}")
    paths: list[tuple[str, Sequence[_Step]]] = []
    for item, _ in _split(text[1:-1], ","):
        name, colon, path = _named(item.strip()) if named else ("", "", item.strip())
        steps = _parse(path if colon else item.strip())
        paths.append((name if colon else _last_name(steps), steps))
    return _Several(piped, tuple(paths), named)


def _named(item: str) -> tuple[str, str, str]:
    """`"name":path`, or `name:path`."""
    if item.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(item)
        except ValueError as error:
            raise _wrong(item, "the name is no JSON string") from error
        if item[end : end + 1] == ":":
            return str(name), ":", item[end + 1 :].strip()
        raise _wrong(item, "a name in quotes has a colon behind it")
    pieces = list(_split(item, ":"))
    if len(pieces) == 1:
        return "", "", item
    return pieces[0][0].strip(), ":", item[len(pieces[0][0]) + 1 :].strip()


def _last_name(steps: Sequence[_Step]) -> str:
    keys = [step.name for step in steps if isinstance(step, _Key)]
    return keys[-1] if keys else "_"


def _split(text: str, separators: str) -> Iterator[tuple[str, str]]:
    """The pieces between separators that stand in no quotes or brackets, and what ended each."""
    begin = 0
    for place in _open_places(text):
        if text[place] in separators:
            yield text[begin:place], text[place]
            begin = place + 1
    yield text[begin:], ""


def _open_places(text: str) -> Iterator[int]:
    """Where the characters are that are not escaped and stand in no quotes or brackets."""
    closing: list[str] = []
    quoted = skip = False
    for place, character in enumerate(text):
        if skip:
            skip = False
        elif character == "\\":
            skip = True
        elif character == '"':
            quoted = not quoted
        elif quoted:
            pass
        elif character in _CLOSING:
            closing.append(_CLOSING[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif not closing:
            yield place
    if quoted:
        raise _wrong(text, '" is missing')
    if closing:
        raise _wrong(text, f"{closing[-1]} is missing")


def _characters(text: str) -> Iterator[tuple[str, bool]]:
    """Each character, and whether a backslash stands before it."""
    escaped = False
    for character in text:
        if character == "\\" and not escaped:
            escaped = True
        else:
            yield character, escaped
            escaped = False


def _wrong(path: str, why: str) -> CommandError:
    return CommandError(f"--transform cannot read {path!r}: {why}.")


# What queries and modifiers do


def _same(left: JsonValue, right: JsonValue) -> bool:
    # For Python 1 is True; in JSON it is not.
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _ordered(
    compare: Callable[[float | str, float | str], bool],
) -> Callable[[JsonValue, JsonValue], bool]:
    def holds(left: JsonValue, right: JsonValue) -> bool:
        if isinstance(left, str) and isinstance(right, str):
            return compare(left, right)
        numbers = (int, float)
        if isinstance(left, bool) or isinstance(right, bool):
            return False
        if isinstance(left, numbers) and isinstance(right, numbers):
            return compare(left, right)
        return False

    return holds


def _like(left: JsonValue, right: JsonValue) -> bool:
    if not isinstance(left, str):
        return False
    key = _key(str(right) or "*", piped=False)
    return key.pattern.fullmatch(left) is not None if key.pattern else left == key.name


_COMPARISONS: dict[str, Callable[[JsonValue, JsonValue], bool]] = {
    "==": _same,
    "!=": lambda left, right: not _same(left, right),
    "<": _ordered(lambda left, right: left < right),  # type: ignore[operator]
    "<=": _ordered(lambda left, right: left <= right),  # type: ignore[operator]
    ">": _ordered(lambda left, right: left > right),  # type: ignore[operator]
    ">=": _ordered(lambda left, right: left >= right),  # type: ignore[operator]
    "%": _like,
    "!%": lambda left, right: isinstance(left, str) and not _like(left, right),
}


def _reverse(value: JsonValue) -> JsonValue:
    match value:
        case list():
            return value[::-1]
        case dict():
            return dict(reversed(value.items()))
        case _:
            return value


def _flatten(value: JsonValue) -> JsonValue:
    if not isinstance(value, list):
        return value
    flat: list[JsonValue] = []
    for one in value:
        flat.extend(one if isinstance(one, list) else [one])
    return flat


_MODIFIERS: dict[str, Callable[[JsonValue], JsonValue]] = {
    "this": lambda value: value,
    "reverse": _reverse,
    "keys": lambda value: list(value) if isinstance(value, dict) else [],
    "values": lambda value: list(value.values()) if isinstance(value, dict) else [value],
    "flatten": _flatten,
}
