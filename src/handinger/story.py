"""What readers are told about one turn: entries in order, and where in them a reader stands.

Pure data. A turn's story begins with its instruction and `start`, goes on with what its execution
tells, and ends with the worker and one terminal event. Entries of a model call are told before they
are stored; when that call is repeated they are withdrawn, and told anew under a new take.
"""

import functools
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from handinger.ids import TurnId


class Kind(StrEnum):
    """What an entry tells; all but the last two and the first two are stored."""

    USER = "user"  # the instruction, as a whole message
    START = "start"
    STEP_START = "step-start"
    TEXT = "text"
    REASONING = "reasoning"
    TOOL_INPUT = "tool-input"
    TOOL_OUTPUT = "tool-output"
    TOOL_ERROR = "tool-error"
    SOURCE = "source"
    FILE = "file"
    STEP_FINISH = "step-finish"
    WORKER = "worker"  # the worker as it is when the turn has ended
    END = "end"  # finish, abort or error


class Take(NamedTuple):
    """Which telling an entry belongs to. Later takes compare greater."""

    attempt: int  # of the turn, see `turns.claim`
    retry: int  # of the model call within the attempt


BEFORE_ANY_TAKE = Take(0, 0)

_SPARE_DEPTH = 100

Event = dict[str, Any]  # one JSON object of the Vercel AI SDK's UI message stream

_PLACE = re.compile(r"(trn_[0-9a-f]{32})-([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the told text: all of the story up to here has been told."""

    turn_id: TurnId
    take: Take
    number: int
    offset: int

    def __str__(self) -> str:
        return f"{self.turn_id}-{self.take.attempt}.{self.take.retry}.{self.number}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """The place that an SSE id names, or None if it names none."""
        match = _PLACE.fullmatch(text)
        if match is None:
            return None
        attempt, retry, number, offset = (int(group) for group in match.groups()[1:])
        return cls(TurnId(match[1]), Take(attempt, retry), number, offset)


class Entry:
    """One part of the story. Texts and tool inputs grow until they are closed.

    Offsets within an entry: 0 once it is begun, n after n characters of its text, and `end` (one
    more than it has characters) once it is told in full.
    """

    __slots__ = ("_text", "closed", "data", "kind", "length", "take")

    def __init__(
        self,
        kind: Kind,
        take: Take,
        *,
        text: str = "",
        data: Event | None = None,
        closed: bool = True,
    ) -> None:
        self.kind = kind
        self.take = take
        self.data = data if data is not None else {}
        self.closed = closed
        # A buffer, because reading what is new of a long text must not cost its whole length.
        self._text = io.StringIO(newline="")
        self._text.write(text)
        self.length = len(text)

    def append(self, text: str) -> None:
        """Tell more of it."""
        self._text.seek(0, io.SEEK_END)
        self._text.write(text)
        self.length += len(text)

    def text_from(self, offset: int) -> str:
        """What comes after the first `offset` characters."""
        self._text.seek(offset)
        return self._text.read()

    @property
    def text(self) -> str:
        """All of its text so far."""
        return self._text.getvalue()

    @property
    def end(self) -> int:
        """The offset at which nothing of it is left to tell."""
        return self.length + 1

    @property
    def told(self) -> int:
        """The offset up to which it can be told now."""
        return self.end if self.closed else self.length


class Told(NamedTuple):
    """One event, and the place that a reader has reached with it."""

    place: Place
    event: Event


@dataclass(slots=True)
class Story:
    """All that is known here of one turn's story; `entries[:committed]` are stored, or implied."""

    turn_id: TurnId
    message_id: str
    entries: list[Entry]
    committed: int = field(init=False)
    take: Take = BEFORE_ANY_TAKE
    ended: bool = False

    def __post_init__(self) -> None:
        self.committed = len(self.entries)

    def begin(self, take: Take) -> None:
        """Start a new take: what was told but not stored is withdrawn."""
        del self.entries[self.committed :]
        self.take = take

    def tell(
        self, kind: Kind, *, text: str = "", data: Event | None = None, closed: bool = True
    ) -> Entry:
        """Add an entry of the present take, not stored yet."""
        entry = Entry(kind, self.take, text=text, data=data, closed=closed)
        self.entries.append(entry)
        return entry

    def uncommitted(self) -> list[Entry]:
        """What was told and is not stored."""
        return self.entries[self.committed :]

    def commit(self, count: int | None = None) -> None:
        """Everything so far is stored (or the first `count` entries are)."""
        self.committed = len(self.entries) if count is None else count

    def store(self, number: int, entry: Entry) -> None:
        """Take over an entry that another process stored as its `number`-th."""
        if number < self.committed:
            return
        if number < len(self.entries) and self.entries[number].take == entry.take:
            self.entries[number] = entry
        else:
            del self.entries[number:]
            self.entries.append(entry)
        self.committed = number + 1
        self.take = max(self.take, entry.take)

    def place_of(self, number: int, offset: int | None = None) -> Place:
        """The place at the end of an entry, or at an offset in it."""
        entry = self.entries[number]
        return Place(self.turn_id, entry.take, number, entry.end if offset is None else offset)

    def knows(self, place: Place, *, complete: bool = False) -> bool:
        """Whether this place was, or may have been, told; a made-up one was not.

        `complete`: nobody can have told more of the turn than this story does.
        """
        if place.number < len(self.entries):
            entry = self.entries[place.number]
            if entry.take == place.take:
                may_have_grown = not (entry.closed or self.ended or complete)
                return place.offset <= entry.told or may_have_grown
            if place.number < self.committed and place.take > entry.take:
                return False  # What is stored is never withdrawn.
        if place.take.attempt == 0:
            return False
        if self.ended:
            return place.take < self.entries[-1].take
        if complete:
            return place.take < self.take
        # How often a model call was repeated in this attempt is only known here once it is told.
        return place.take.attempt <= self.take.attempt

    def events_after(self, place: Place) -> list[Told]:
        """All that can be told now to a reader who stands at `place`.

        Starts with `data-retry` when the reader was told what has been withdrawn since.
        """
        number, offset = place.number, place.offset
        told: list[Told] = []
        stands = number < len(self.entries) and self.entries[number].take == place.take
        if not stands:
            if place.take >= self.take and not self.ended:
                return []  # Told by the executing process, and not known here yet.
            number = self._last_standing(place)
            offset = self.entries[number].end
            retry = {
                "type": "data-retry",
                "data": {"messageId": self.message_id},
                "transient": True,
            }
            told.append(Told(self.place_of(number), retry))
        told.extend(self._told_from(number, offset))
        return told

    def _last_standing(self, place: Place) -> int:
        """The last entry that a reader of a withdrawn text keeps: the end of a step, or `start`."""
        return max(
            number
            for number, entry in enumerate(self.entries[: place.number + 1])
            if entry.kind in (Kind.START, Kind.STEP_FINISH) and entry.take <= place.take
        )

    def _told_from(self, number: int, offset: int) -> Iterator[Told]:
        while number < len(self.entries):
            entry = self.entries[number]
            if entry.kind is Kind.STEP_FINISH and number >= self.committed:
                return  # What a reader has of a finished step it never drops again.
            for reached, event in entry_events(entry, number, offset):
                yield Told(self.place_of(number, reached), event)
            if not entry.closed:
                return
            number, offset = number + 1, -1


def entry_events(entry: Entry, number: int, offset: int) -> Iterator[tuple[int, Event]]:
    """What brings a reader from `offset` (-1: not begun) to all that the entry tells now."""
    if offset >= entry.end:
        return
    match entry.kind:
        case Kind.TEXT | Kind.REASONING:
            yield from _text_events(entry, str(number), offset)
        case Kind.TOOL_INPUT:
            yield from _tool_input_events(entry, offset)
        case _:
            yield entry.end, _simple_event(entry)


def _text_events(entry: Entry, part_id: str, offset: int) -> Iterator[tuple[int, Event]]:
    kind = entry.kind.value
    if offset < 0:
        yield 0, {"type": f"{kind}-start", "id": part_id}
    delta = entry.text_from(max(offset, 0))
    if delta:
        yield entry.length, {"type": f"{kind}-delta", "id": part_id, "delta": delta}
    if entry.closed:
        yield entry.end, {"type": f"{kind}-end", "id": part_id}


def _tool_input_events(entry: Entry, offset: int) -> Iterator[tuple[int, Event]]:
    call = entry.data["toolCallId"]
    name = entry.data["toolName"]
    if offset < 0:
        yield 0, {"type": "tool-input-start", "toolCallId": call, "toolName": name}
    delta = entry.text_from(max(offset, 0))
    if delta:
        event = {"type": "tool-input-delta", "toolCallId": call, "inputTextDelta": delta}
        yield entry.length, event
    if entry.closed:
        yield (
            entry.end,
            {
                "type": "tool-input-available",
                "toolCallId": call,
                "toolName": name,
                "input": tool_input(entry.text),
            },
        )


def _simple_event(entry: Entry) -> Event:
    match entry.kind:
        case Kind.STEP_START:
            return {"type": "start-step"}
        case Kind.STEP_FINISH:
            return {"type": "finish-step"}
        case Kind.TOOL_OUTPUT:
            return {"type": "tool-output-available", **entry.data}
        case Kind.TOOL_ERROR:
            return {"type": "tool-output-error", **entry.data}
        case Kind.SOURCE:
            return {"type": "source-url", **entry.data}
        case Kind.FILE:
            return {"type": "file", **entry.data}
        case Kind.USER:
            return {"type": "data-message", "data": entry.data, "transient": True}
        case Kind.START:
            return {"type": "start", **entry.data}
        case Kind.WORKER:
            return {"type": "data-worker", "transient": True}
        case _:
            return entry.data


def tool_input(text: str) -> Any:
    """What a model passed to a tool: its JSON, or the raw text where that cannot be passed on."""
    if not text:
        return {}
    try:
        value = json.loads(text)
        # Python also reads NaN, and halves of characters, which nobody else does. Whoever tells the
        # value does so deeper in JSON and deeper on the stack, hence the lists around it.
        nested = functools.reduce(lambda inner, _: [inner], range(_SPARE_DEPTH), value)
        json.dumps(nested, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return value


def message_parts(entries: Sequence[Entry]) -> list[Event]:
    """The parts of the stored message: what the entries' events add up to."""
    parts: list[Event] = []
    tools: dict[str, Event] = {}
    for entry in entries:
        match entry.kind:
            case Kind.STEP_START:
                parts.append({"type": "step-start"})
            case Kind.TEXT | Kind.REASONING:
                parts.append({"type": entry.kind.value, "text": entry.text, "state": "done"})
            case Kind.TOOL_INPUT:
                call = entry.data["toolCallId"]
                tools[call] = {
                    "type": f"tool-{entry.data['toolName']}",
                    "toolCallId": call,
                    "state": "input-available",
                    "input": tool_input(entry.text),
                }
                parts.append(tools[call])
            case Kind.TOOL_OUTPUT:
                tool = tools[entry.data["toolCallId"]]
                tool.update(state="output-available", output=entry.data["output"])
            case Kind.TOOL_ERROR:
                tool = tools[entry.data["toolCallId"]]
                tool.update(state="output-error", errorText=entry.data["errorText"])
            case Kind.SOURCE:
                parts.append({"type": "source-url", **entry.data})
            case Kind.FILE:
                parts.append({"type": "file", **entry.data})
            case _:
                pass
    return parts


def outputs(message_id: str, entries: Sequence[Entry]) -> list[Event]:
    """One output item per model response that has text."""
    texts: list[list[str]] = []
    for entry in entries:
        if entry.kind is Kind.STEP_START:
            texts.append([])
        elif entry.kind is Kind.TEXT and entry.length and texts:
            texts[-1].append(entry.text)
    return [
        {
            "id": f"{message_id}_{step}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "\n\n".join(parts)}],
        }
        for step, parts in enumerate(texts)
        if parts
    ]


def output_text(items: Sequence[Event]) -> str:
    """The texts of output items, joined by a blank line."""
    return "\n\n".join(item["content"][0]["text"] for item in items)


def message_id(turn_id: TurnId) -> str:
    """The id of a turn's assistant message; the same wherever and whenever it is told."""
    return f"msg_{turn_id.removeprefix('trn_')}1"


def user_message_id(turn_id: TurnId) -> str:
    """The id of a turn's user message; sorts right before the answer's."""
    return f"msg_{turn_id.removeprefix('trn_')}0"
