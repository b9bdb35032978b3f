"""When a schedule fires: the four types of `when`, in the wire's names, and the times they mean."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from handinger.errors import InvalidInput
from handinger.schedules import cron

MAX_SECONDS = 31_536_000

_Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS, strict=True)]


class _When(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    def first(self, now: datetime) -> datetime:
        """When it fires first, if it is made now. Raises InvalidInput."""
        raise NotImplementedError

    def following(self, after: datetime, *, anchor: datetime) -> datetime | None:
        """When it fires next after a moment; None if it fires once. It was made at the anchor."""
        del after, anchor
        return None


class Scheduled(_When):
    """Once, at a moment."""

    type: Annotated[Literal["scheduled"], Field(description="Its type.")]
    date: Annotated[
        str,
        Field(
            description="ISO 8601 date and time, for example 2027-03-01T09:00:00Z. Without an "
            "offset it is in `timezone`.",
            max_length=64,
        ),
    ]
    timezone: Annotated[
        str, Field(description="IANA name, for a date without an offset.", max_length=64)
    ] = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        cron.zone(value)
        return value

    @field_validator("date")
    @classmethod
    def _readable(cls, value: str) -> str:
        _read(value)
        return value

    def first(self, now: datetime) -> datetime:
        """Raises InvalidInput for what is past."""
        moment = _read(self.date)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=cron.zone(self.timezone))
        try:
            moment = moment.astimezone(UTC)
        except OverflowError as error:
            raise InvalidInput.of(
                f"{self.date!r} is beyond the calendar", "when", "date"
            ) from error
        if moment <= now:
            problem = f"{self.date!r} is in the past; it is {_text(now)} now"
            raise InvalidInput.of(problem, "when", "date")
        return moment


class Delayed(_When):
    """Once, after a delay."""

    type: Annotated[Literal["delayed"], Field(description="Its type.")]
    delayInSeconds: Annotated[_Seconds, Field(description="From now on.")]  # The wire's name.

    def first(self, now: datetime) -> datetime:
        """The delay from now."""
        return now + timedelta(seconds=self.delayInSeconds)


class Cron(_When):
    """Again and again, by a cron expression."""

    type: Annotated[Literal["cron"], Field(description="Its type.")]
    cron: Annotated[
        str,
        Field(
            description="Five fields in Vixie's syntax: minute, hour, day of month, month, day of "
            "week. For example `0 9 * * MON`; or @daily and the like."
        ),
    ]
    timezone: Annotated[
        str, Field(description="IANA name, for example Europe/Madrid.", max_length=64)
    ] = "UTC"

    @field_validator("cron")
    @classmethod
    def _readable(cls, value: str) -> str:
        cron.check(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        cron.zone(value)
        return value

    def first(self, now: datetime) -> datetime:
        """The first time that it names."""
        return cron.next_time(self.cron, self.timezone, now)

    def following(self, after: datetime, *, anchor: datetime) -> datetime | None:
        """The next time that it names."""
        del anchor
        return cron.next_time(self.cron, self.timezone, after)


class Interval(_When):
    """Again and again, so many seconds apart, without drift."""

    type: Annotated[Literal["interval"], Field(description="Its type.")]
    intervalSeconds: Annotated[  # The wire's name.
        _Seconds, Field(description="Counted from the creation of the schedule.")
    ]

    def first(self, now: datetime) -> datetime:
        """One interval from now."""
        return now + timedelta(seconds=self.intervalSeconds)

    def following(self, after: datetime, *, anchor: datetime) -> datetime | None:
        """A whole number of intervals from the anchor."""
        step = timedelta(seconds=self.intervalSeconds)
        passed = max(0, (after - anchor) // step)
        return anchor + (passed + 1) * step


When = Annotated[Scheduled | Delayed | Cron | Interval, Field(discriminator="type")]

_ADAPTER: TypeAdapter[When] = TypeAdapter(When)

# Of each type what the wire shows beside its next time.
_SHOWN: Mapping[str, Mapping[str, type]] = {
    "scheduled": {},
    "delayed": {"delayInSeconds": int},
    "cron": {"cron": str, "timezone": str},
    "interval": {"intervalSeconds": int},
}


class Unreadable(_When):
    """What is stored and names no time here: of another version, or in a zone that is gone."""

    stored: Any
    problem: str


def read(stored: object) -> When | Unreadable:
    """A `when` as it is stored."""
    try:
        return _ADAPTER.validate_python(stored)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "when"
        problem = first["msg"].removeprefix("Value error, ")
        return Unreadable(stored=stored, problem=f"{where}: {problem}"[:500])


def dump(when: When | Unreadable) -> Any:
    """As it is stored."""
    return when.stored if isinstance(when, Unreadable) else when.model_dump()


def shown(when: When | Unreadable) -> dict[str, Any]:
    """As the wire has it. What does not say its type looks like one that fires once."""
    stored = dump(when)
    fields = cast("dict[str, Any]", stored) if isinstance(stored, dict) else {}
    kind = str(fields.get("type"))
    types = _SHOWN.get(kind, {})
    own = {name: fields.get(name) for name in types}
    if not types or any(type(own[name]) is not expected for name, expected in types.items()):
        return {"type": "scheduled"}
    return {"type": kind, **own}


def times(when: When | Unreadable, after: datetime, *, anchor: datetime) -> Iterator[datetime]:
    """Every time after a moment at which it fires again."""
    moment = when.following(after, anchor=anchor)
    while moment is not None:
        yield moment
        moment = when.following(moment, anchor=anchor)


def _read(date: str) -> datetime:
    try:
        moment = datetime.fromisoformat(date.strip())
    except ValueError:
        raise ValueError(
            f"{date!r} is no ISO 8601 date and time; write for example 2027-03-01T09:00:00Z"
        ) from None
    if not any(mark in date.strip()[8:] for mark in "Tt :"):
        raise ValueError(f"{date!r} has no time of day; write for example {date}T09:00:00Z")
    return moment


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
