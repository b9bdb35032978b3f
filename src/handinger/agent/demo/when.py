"""Reads when something shall happen, and writes it as a schedule's `when`."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from handinger.agent.demo import spans

MAX_SECONDS = 31_536_000

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY = "|".join(_DAYS)
_SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3_600,
    "day": 86_400,
    "week": 604_800,
}
_COUNTS: dict[str, float] = {
    "a": 1,
    "an": 1,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
}
_COUNTS.update({"ten": 10, "fifteen": 15, "twenty": 20, "thirty": 30, "other": 2, "half an": 0.5})
_COUNT = r"\d{1,9}|" + "|".join(sorted(_COUNTS, key=len, reverse=True))
_DEFAULT_HOURS = {"morning": 9, "evening": 18, "night": 21, "afternoon": 15}
_PART_OF_DAY = "|".join(_DEFAULT_HOURS)

_CLOCK = re.compile(
    r"\bat (?P<hour>\d{1,2})(?:[:.](?P<minute>\d{2}))?(?: ?(?P<half>am|pm|a\.m\.|p\.m\.))?"
    r"(?: ?o'clock)?(?![\w:])"
    r"|\b(?P<hour2>\d{1,2})(?::(?P<minute2>\d{2}))?(?: ?(?P<half2>am|pm|a\.m\.|p\.m\.))(?!\w)"
    r"|\b(?P<hour3>\d{1,2}):(?P<minute3>\d{2})(?![\w:])"
    r"|\b(?:at )?(?P<word>noon|midnight)\b",
)
_EVERY = re.compile(
    rf"\b(?:every|each)(?: (?P<count>{_COUNT}))? "
    rf"(?P<unit>second|minute|hour|day|weekday|workday|weekend|week|month|{_PART_OF_DAY}|{_DAY})s?\b"
    rf"(?P<more>(?:(?:, ?| and |, and )(?:{_DAY})s?\b){{0,7}})",
)
_LY = re.compile(r"\b(?P<unit>hourly|daily|weekly|monthly)\b")
_ON_DAYS = re.compile(rf"\b(?:on )?(?P<unit>weekdays|workdays|weekends)\b|\bon (?P<days>{_DAY})s\b")
_IN = re.compile(
    rf"\b(?:in|after) (?P<count>{_COUNT}) (?P<unit>second|minute|hour|day|week)s?\b(?! (?:or|of)\b)"
    rf"|\b(?P<count2>{_COUNT}) (?P<unit2>second|minute|hour|day|week)s? from now\b",
)
_MOMENT = re.compile(
    r"\b(?:on )?(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"
    r"(?:[t ](?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?"
    r"(?P<offset>z|[+-]\d{2}:\d{2})?)?(?!\w)",
)
_NEAR_DAY = re.compile(
    rf"\b(?:(?P<word>today|tonight|tomorrow)(?: (?P<part>{_PART_OF_DAY}))?"
    rf"|(?:on|next|this) (?P<day>{_DAY}))\b",
)
_DAY_OF_MONTH = re.compile(r"\bon the (\d{1,2})(?:[a-z]{2})?\b")
# Numbers and stars come first, so that a quoted command is never taken for a cron line.
_CRON = re.compile(
    r"(?:\b(?:(?:with|using|on) )?(?:(?:the|a) )?cron(?: schedule| expression| line)?:? )?"
    r"[`\"'](?:cron:? )?(?P<cron>(?:[\d*/,-]{1,20} ){3}[\d*/,a-z-]{1,20} [\d*/,a-z-]{1,20})[`\"']"
)
_ZONE = re.compile(r"(?:\bin )?\b([A-Z][A-Za-z]{1,20}/[A-Z][A-Za-z_]{1,30})\b")

# A town counts as a zone only right behind a time of day or a day; elsewhere it is the subject.
_TOWN = re.compile(
    rf"(?i:\b\d{{1,2}}(?:[:.]\d{{2}})?(?: ?(?:am|pm|a\.m\.|p\.m\.|o'clock))?"
    rf"|\b(?:noon|midnight|{_DAY}))"
    r"(?P<town> in (?P<name>[A-Z]\w+(?: [A-Z]\w+){0,2})(?: time)?)(?!\w)",
)

Kind = Literal["scheduled", "delayed", "cron", "interval"]


@dataclass(frozen=True, slots=True)
class Timing:
    """`when` is what a schedule takes; `rest` is the text without the words that said it."""

    when: Mapping[str, str | int]
    rest: str


class _Found:
    """The phrases found so far in one text; each is cut out of what remains."""

    def __init__(self, text: str) -> None:
        self.text = text
        # Lower case letter for letter, so that places in both texts agree.
        self.quoted = "".join(letter.lower() if letter.isascii() else letter for letter in text)
        self.plain = spans.mask(self.quoted)
        self.cut: list[tuple[int, int]] = []

    def take(self, pattern: re.Pattern[str], text: str | None = None) -> re.Match[str] | None:
        """Search outside of quotations, or in the `text` that is given, of the same length."""
        found = pattern.search(self.plain if text is None else text)
        if found:
            self.cut.append(found.span())
        return found

    @property
    def rest(self) -> str:
        rest = self.text
        for start, end in sorted(self.cut, reverse=True):
            rest = rest[:start] + " " + rest[end:]
        return " ".join(rest.split()).strip(" ,;:.")


def find(text: str, now: datetime, *, clock_alone: bool = False) -> Timing | None:
    """The first time or recurrence that the text names outside of quotations, or None.

    A time of day alone (`at 17:00`) counts only with `clock_alone`.
    """
    found = _Found(text[:2_000])
    zone = found.take(_ZONE, found.text)
    timezone = _zone(zone[1]) if zone else _zone_of_town(found)
    if zone and timezone is None:
        found.cut.clear()
    when = (
        _cron(found)
        or _recurring(found)
        or _delayed(found)
        or _moment(found, now, timezone, clock_alone=clock_alone)
    )
    if when is None:
        return None
    if timezone is not None and when["type"] == "cron":
        when["timezone"] = timezone.key
    return Timing(when=when, rest=found.rest)


def described(when: Mapping[str, str | int]) -> str:
    """A `when` in words."""
    match when["type"]:
        case "cron":
            return f"on the cron schedule `{when['cron']}` ({when.get('timezone', 'UTC')})"
        case "interval":
            return f"every {_duration(int(when['intervalSeconds']))}"
        case "delayed":
            return f"in {_duration(int(when['delayInSeconds']))}"
        case _:
            return f"at {when['date']}"


def _duration(seconds: int) -> str:
    for unit in ("week", "day", "hour", "minute", "second"):
        count, rest = divmod(seconds, _SECONDS[unit])
        if count and not rest:
            return f"{count} {unit}s" if count > 1 else f"1 {unit}"
    return f"{seconds} seconds"


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _zone_of_town(found: _Found) -> ZoneInfo | None:
    """The zone that is named for a town (`at 9 in Madrid`)."""
    for match in _TOWN.finditer(found.text):
        words = match["name"].split()
        # What follows may begin with a capital, too.
        for count in range(len(words), 0, -1):
            name = " ".join(words[:count])
            key = _zones_by_town().get(name)
            if key is not None:
                whole = count == len(words)
                end = match.end("town") if whole else match.start("name") + len(name)
                found.cut.append((match.start("town"), end))
                return ZoneInfo(key)
    return None


@functools.cache
def _zones_by_town() -> Mapping[str, str]:
    keys = (key for key in sorted(available_timezones()) if re.match(r"[A-Z]\w+/", key))
    return {
        key.rpartition("/")[2].replace("_", " "): key
        for key in keys
        if not key.startswith(("Etc/", "SystemV/", "US/", "Canada/", "Brazil/", "Mexico/"))
    }


def _cron(found: _Found) -> dict[str, str | int] | None:
    cron = found.take(_CRON, found.quoted)
    return {"type": "cron", "cron": cron["cron"]} if cron else None


def _recurring(found: _Found) -> dict[str, str | int] | None:
    every = found.take(_EVERY)
    named = None if every else found.take(_LY) or found.take(_ON_DAYS)
    if every:
        unit, count = every["unit"], _number(every["count"])
        days = [day for day in _DAYS if day == unit or day in every["more"]]
    elif named:
        group = named.groupdict()
        unit = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month"}.get(
            group["unit"] or "", (group["unit"] or "").rstrip("s")
        )
        count, days = 1, [group["days"]] if group.get("days") else []
    else:
        return None
    if unit in ("second", "minute", "hour") or (unit in ("day", "week") and count != 1):
        seconds = int(count * _SECONDS[unit])
        if not 1 <= seconds <= MAX_SECONDS:
            return None
        return {"type": "interval", "intervalSeconds": seconds}
    hour, minute = _clock(found) or (_DEFAULT_HOURS.get(unit, 9), 0)
    return {"type": "cron", "cron": f"{minute} {hour} {_cron_days(found, unit, days)}"}


def _cron_days(found: _Found, unit: str, days: list[str]) -> str:
    """The last three fields of a cron line."""
    if days:
        return "* * " + ",".join(str((_DAYS.index(day) + 1) % 7) for day in days)
    if unit == "month":
        day = found.take(_DAY_OF_MONTH)
        return f"{min(max(int(day[1]), 1), 31) if day else 1} * *"
    fixed = {"weekday": "* * 1-5", "workday": "* * 1-5", "weekend": "* * 0,6", "week": "* * 1"}
    return fixed.get(unit, "* * *")


def _delayed(found: _Found) -> dict[str, str | int] | None:
    delay = found.take(_IN)
    if delay is None:
        return None
    unit = delay["unit"] or delay["unit2"]
    seconds = int(_number(delay["count"] or delay["count2"]) * _SECONDS[unit])
    if not 1 <= seconds <= MAX_SECONDS:
        return None
    return {"type": "delayed", "delayInSeconds": seconds}


def _moment(
    found: _Found, now: datetime, timezone: ZoneInfo | None, *, clock_alone: bool
) -> dict[str, str | int] | None:
    local = now.astimezone(timezone or UTC)
    dated = found.take(_MOMENT)
    near = None if dated else found.take(_NEAR_DAY)
    try:
        if dated:
            moment = _dated(dated, found, local)
        elif near:
            moment = _near(near, found, local)
        elif clock_alone and (clock := _clock(found)):
            moment = local.replace(hour=clock[0], minute=clock[1], second=0, microsecond=0)
            moment += timedelta(days=1 if moment <= local else 0)
        else:
            return None
        utc = moment.astimezone(UTC)
    except (ValueError, OverflowError):  # A day such as February 30, or beyond the calendar.
        return None
    return {"type": "scheduled", "date": utc.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _dated(dated: re.Match[str], found: _Found, local: datetime) -> datetime:
    year, month, day = int(dated["year"]), int(dated["month"]), int(dated["day"])
    if dated["hour"] is None:
        hour, minute = _clock(found) or (9, 0)
        return datetime(year, month, day, hour, minute, tzinfo=local.tzinfo)
    hour, minute, second = int(dated["hour"]), int(dated["minute"]), int(dated["second"] or 0)
    moment = datetime(year, month, day, hour, minute, second, tzinfo=local.tzinfo)
    offset = dated["offset"]
    if offset is None:
        return moment
    return datetime.fromisoformat(moment.strftime("%Y-%m-%dT%H:%M:%S") + offset.upper())


def _near(near: re.Match[str], found: _Found, local: datetime) -> datetime:
    default = 20 if near["word"] == "tonight" else _DEFAULT_HOURS.get(near["part"] or "", 9)
    hour, minute = _clock(found) or (default, 0)
    moment = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if near["day"]:
        ahead = (_DAYS.index(near["day"]) - local.weekday()) % 7
        return moment + timedelta(days=ahead or (7 if moment <= local else 0))
    if near["word"] == "tomorrow" or moment <= local:
        return moment + timedelta(days=1)
    return moment


def _clock(found: _Found) -> tuple[int, int] | None:
    """The time of day, if one is named and exists."""
    clock = found.take(_CLOCK)
    if clock is None:
        return None
    if clock["word"]:
        return (12, 0) if clock["word"] == "noon" else (0, 0)
    hour = int(clock["hour"] or clock["hour2"] or clock["hour3"])
    minute = int(clock["minute"] or clock["minute2"] or clock["minute3"] or 0)
    half = (clock["half"] or clock["half2"] or "")[:1]
    if half and 1 <= hour <= 12:
        hour = hour % 12 + (12 if half == "p" else 0)
    if hour > 23 or minute > 59:
        found.cut.pop()
        return None
    return hour, minute


def _number(count: str | None) -> float:
    if not count:
        return 1
    return _COUNTS.get(count) or int(count)
