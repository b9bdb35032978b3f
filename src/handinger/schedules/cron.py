"""Cron expressions in Vixie's syntax, and the moments that they name in a time zone.

Which walls of the clock an expression names is cronsim's to say. What a change of the clock does to
them is said here: with time zones, cronsim itself misses some of the moments after a change of half
an hour, and looks without end where a change skips midnight.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

MAX_CHARACTERS = 1_000

_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# In the system's zone files, but not the name of any zone.
_NO_ZONES = {"localtime", "posixrules", "Factory"}
# No clock is set back or forward by more than this.
_LARGEST_CHANGE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: Mapping[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    _Field("day of week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)


@functools.lru_cache(maxsize=1_000)
def check(expression: str) -> str:
    """The expression's five fields as cronsim reads them.

    Raises ValueError with a message that names the field and the value that is wrong.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"has {len(expression)} characters; {MAX_CHARACTERS} may be sent")
    text = expression.strip()
    if text.startswith("@"):
        if text.lower() not in _NICKNAMES:
            raise ValueError(f"{text[:40]!r} is not known; there are {', '.join(_NICKNAMES)}")
        text = _NICKNAMES[text.lower()]
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise ValueError(
            f"has {len(parts)} fields; five are needed: minute, hour, day of month, month and day "
            "of week, for example '0 9 * * MON'"
        )
    fields = " ".join(_checked(*pair) for pair in zip(_FIELDS, parts, strict=True))
    try:
        next(CronSim(fields, datetime(2000, 1, 1)))  # A wall clock's, of no zone.
    except (CronSimError, StopIteration):
        raise ValueError("never fires: its months do not have such a day") from None
    return fields


def _checked(field: _Field, text: str) -> str:
    return ",".join(_checked_term(field, term) for term in text.split(","))


def _checked_term(field: _Field, term: str) -> str:
    values, slash, step = term.partition("/")
    if slash and not (_is_number(step) and int(step) > 0):
        raise ValueError(
            f"the {field.name} {term[:40]!r} has the step {step[:40]!r}; a step is a number from "
            "1 on"
        )
    if values == "*":
        return term
    first, dash, last = values.partition("-")
    low = _value(field, term, first)
    if not dash:
        return f"{low}/{step}" if slash else f"{low}"
    high = _value(field, term, last)
    if high < low:
        raise ValueError(f"the {field.name} {term[:40]!r} is a range that ends before it begins")
    # A range of one value has nothing to step over; cronsim would step on to the field's end.
    return f"{low}-{high}/{step}" if slash and high > low else f"{low}-{high}"


def _value(field: _Field, term: str, text: str) -> int:
    number = field.names.get(text.upper(), int(text) if _is_number(text) else None)
    if number is None or not field.low <= number <= field.high:
        names = f" or {next(iter(field.names))} to {list(field.names)[-1]}" if field.names else ""
        of_term = "" if text == term else f"in {term[:40]!r} "
        raise ValueError(
            f"the {field.name} {text[:40]!r} {of_term}is not valid: it is {field.low} to "
            f"{field.high}{names}, a range such as {field.low}-{field.low + 4}, a list with "
            "commas, or * (each with a step such as */2)"
        )
    return number


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4


def zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name. Raises ValueError."""
    try:
        if name in _NO_ZONES:
            raise ValueError
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name[:80]!r} is no IANA time zone; write for example 'Europe/Madrid' or 'UTC'"
        ) from None


def next_time(expression: str, timezone: str, after: datetime) -> datetime:
    """The first moment after another at which the expression fires.

    As Debian's cron does: an expression whose minute or hour begins with a star goes by the clock
    on the wall, so it fires in both of two repeated hours and in no skipped one. Any other fires
    once on its day: at the first of two repeated moments, and right after a change that skips it.
    """
    fields = check(expression)
    clock = zone(timezone)
    minute, hour, *_ = fields.split()
    if minute.startswith("*") or hour.startswith("*"):
        return _next_by_the_wall(fields, clock, after)
    return next(
        moment for wall in _walls(fields, clock, after) if (moment := _once(wall, clock)) > after
    )


def _walls(fields: str, clock: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """What the clock on the wall shows when the expression fires, after what it shows now."""
    return CronSim(fields, after.astimezone(clock).replace(tzinfo=None))


def _next_by_the_wall(fields: str, clock: ZoneInfo, after: datetime) -> datetime:
    found = _first_shown(_walls(fields, clock, after), clock, after)
    # When the clock is set back in between, it shows once more what it has shown before.
    until = min(found, after + _LARGEST_CHANGE)
    if _offset(clock, until) < _offset(clock, after):
        change = _change(clock, after, until)
        again = change.astimezone(clock).replace(tzinfo=None) - timedelta(seconds=1)
        found = min(found, _first_shown(CronSim(fields, again), clock, after))
    return found


def _first_shown(walls: Iterator[datetime], clock: ZoneInfo, after: datetime) -> datetime:
    return next(moment for wall in walls for moment in _moments(wall, clock) if moment > after)


def _offset(clock: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(clock).utcoffset() or timedelta()


def _moments(wall: datetime, clock: ZoneInfo) -> list[datetime]:
    """When the clock shows this: usually once, not at all if it is skipped, twice if repeated."""
    moments = {wall.replace(tzinfo=clock, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(m for m in moments if m.astimezone(clock).replace(tzinfo=None) == wall)


def _once(wall: datetime, clock: ZoneInfo) -> datetime:
    moments = _moments(wall, clock)
    if moments:
        return moments[0]
    # With the offset from before the change it would be later than the change, and vice versa.
    late, early = (wall.replace(tzinfo=clock, fold=fold).astimezone(UTC) for fold in (0, 1))
    return _change(clock, early, late)


def _change(clock: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first second at which the clock goes with another offset than `before`."""
    low, high = int(before.timestamp()), int(after.timestamp())
    offset = _offset(clock, before)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(clock, datetime.fromtimestamp(middle, UTC)) == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)
