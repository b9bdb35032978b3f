"""Words, numbers and times as people read them.

What comes from a model or a tool is made harmless first: it must not steer the terminal.
"""

from __future__ import annotations

import time
from datetime import datetime

# All control characters but tab and line feed, among them ESC, which begins terminal commands; and
# the marks that turn the direction of all that follows them.
_CONTROLS = {
    code: None
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if code not in (9, 10)
}

_UNITS = ("B", "kB", "MB", "GB")


def printable(text: str) -> str:
    """The text without control characters."""
    return text.translate(_CONTROLS)


def one_line(text: str, *, limit: int = 200) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(printable(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def counted(number: int, noun: str) -> str:
    """`1 step`, `1,234 tokens`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def money(usd: float) -> str:
    """US dollars; most turns cost less than a cent."""
    if usd == 0 or usd >= 1:
        return f"${usd:.2f}"
    return f"${usd:.4f}" if usd >= 0.0001 else "<$0.0001"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def span(seconds: int) -> str:
    """As the options take it: `90s`, `10m`, `1h30m`, `2d`."""
    pieces: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            pieces.append(f"{count}{unit}")
    return "".join(pieces) or "0s"


def bytes_size(size: int) -> str:
    """`812 B`, `1.2 kB`."""
    amount, unit = float(size), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{size} B" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def moment(at: datetime) -> str:
    """A time in the time zone of this machine."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M")


def age(unix_s: int) -> str:
    """How long ago: `12 s`, `3 min`, `5 h`, `9 d`."""
    seconds = max(int(time.time()) - unix_s, 0)
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // length} {unit}"
    return f"{seconds // 86_400} d"
