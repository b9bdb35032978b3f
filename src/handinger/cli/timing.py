"""`--when` and its shorthands: when a schedule fires, as a person writes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from handinger.cli.arguments import read_mapping
from handinger.cli.failures import CommandError

if TYPE_CHECKING:
    from handinger.sdk.models import JsonObject

When: TypeAlias = Annotated[
    str | None,
    Parameter(help='JSON or YAML, such as "{type: delayed, delayInSeconds: 60}", or @FILE.'),
]
At: TypeAlias = Annotated[str | None, Parameter(help="Once, then: an ISO date and time.")]
After: TypeAlias = Annotated[
    str | None, Parameter(name="--in", help="Once, after so long: 90s, 10m, 1h30m, 2d.")
]
Cron: TypeAlias = Annotated[
    str | None, Parameter(help='Again and again: five cron fields, such as "0 9 * * 1-5".')
]
Timezone: TypeAlias = Annotated[
    str | None,
    Parameter(help="Whose clock --cron means, and --at without an offset. [default: UTC]"),
]
Every: TypeAlias = Annotated[str | None, Parameter(help="Again and again, every so long: 1h.")]

OPTIONS = "--when, --at, --in, --cron, --every"

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+)\s*(s|sec|m|min|h|d|w)?", re.IGNORECASE)


def read_when(
    *,
    when: str | None,
    at: str | None,
    after: str | None,
    cron: str | None,
    timezone: str | None,
    every: str | None,
) -> JsonObject | None:
    """The one of them that is given, as it stands on the wire; None if none is."""
    given = {"--when": when, "--at": at, "--in": after, "--cron": cron, "--every": every}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise CommandError(f"{' and '.join(named)} exclude each other: give one of them.")
    if timezone is not None and cron is None and at is None:
        raise CommandError("--timezone belongs to --cron or --at.")
    if not named:
        return None
    zone: JsonObject = {} if timezone is None else {"timezone": timezone}
    if when is not None:
        return read_mapping(when, option="--when")
    if at is not None:
        return {"type": "scheduled", "date": at, **zone}
    if after is not None:
        return {"type": "delayed", "delayInSeconds": seconds(after, option="--in")}
    if every is not None:
        return {"type": "interval", "intervalSeconds": seconds(every, option="--every")}
    return {"type": "cron", "cron": cron, **zone}


def seconds(text: str, *, option: str) -> int:
    """`90`, `90s`, `10m`, `1h30m`, `2d`, `1w`."""
    pieces = list(_DURATION.finditer(text))
    written = "".join(piece.group() for piece in pieces)
    if not pieces or written.replace(" ", "") != text.replace(" ", ""):
        raise CommandError(f"{option} is a time such as 90s, 10m, 1h30m or 2d, and not {text!r}.")
    if len(pieces) > 1 and any(piece.group(2) is None for piece in pieces):
        raise CommandError(f"{option} has a number without its unit: {text!r}.")
    total = 0
    for piece in pieces:
        unit = (piece.group(2) or "s").lower()
        total += int(piece.group(1)) * _UNITS_S[unit[0]]
    return total
