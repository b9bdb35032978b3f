"""Stories: what readers are told adds up to what is stored, wherever they are cut off."""

import contextlib
import json
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from handinger.ids import TurnId, WorkerId
from handinger.live import Hub, LiveTurn, _Asker
from handinger.storage.database import Database
from handinger.story import (
    BEFORE_ANY_TAKE,
    Entry,
    Event,
    Kind,
    Place,
    Story,
    Take,
    entry_events,
    message_id,
    message_parts,
    output_text,
    outputs,
    tool_input,
    user_message_id,
)
from handinger.turns import execution, reading
from handinger.turns.execution import COMPLETED, Ending
from handinger.workers import EntryRow
from tests.support.fold import Fold

T = TypeVar("T")

TURN = TurnId("trn_" + "0123456789abcdef" * 2)
WORKER = WorkerId("wrk_" + "0" * 32)
ENDINGS = [
    COMPLETED,
    execution.CANCELLED,
    Ending(incomplete_reason="budget_exhausted"),
    Ending(error_code="model_error", error_message="It fell over."),
]


def new_story() -> Story:
    entries = execution.opening(
        TURN, WORKER, input="Hello", source="api", created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return Story(TURN, message_id(TURN), entries)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        return cast(T, stop.value)
    raise AssertionError("it waits")


@dataclass
class Stored:
    """What the database has of one turn; answers the two questions that `reading.refresh` asks."""

    rows: list[EntryRow] = field(default_factory=list[EntryRow])
    attempt: int = 0
    retry: int = 0
    ending: Ending | None = None

    def store(self, first: int, entries: Sequence[Entry]) -> None:
        assert first == len(self.rows) + 2, "numbers without a gap, behind the two that are implied"
        for number, entry in enumerate(entries, first):
            assert entry.closed, "only what is told in full is stored"
            data = json.loads(json.dumps(entry.data))
            self.rows.append(EntryRow(number, *entry.take, entry.kind.value, entry.text, data))

    @property
    def entries(self) -> list[Entry]:
        return [row.entry() for row in self.rows]

    @property
    def database(self) -> Database:
        return cast(Database, self)

    def system(self) -> "Stored":
        return self

    @contextlib.asynccontextmanager
    async def statements(self) -> AsyncGenerator["Stored"]:
        yield self

    async def first(self, row: type[T], sql: str, **_: object) -> T:
        ending = self.ending
        return row(
            status="running" if ending is None else "completed",
            attempt=self.attempt,
            retry=self.retry,
            error=ending.error_json() if ending else None,
            incomplete_reason=ending.incomplete_reason if ending else None,
        )

    async def all(self, row: type[EntryRow], sql: str, *, turn_id: str, first: int):
        return [stored for stored in self.rows if stored.number >= first]

    def story(self) -> Story:
        """The story as a process that knows nothing yet would build it."""
        story = new_story()
        at_once(reading.refresh(self.database, story))
        return story


class Reader:
    """Adds up what it is told, and keeps no more than an event id in between."""

    def __init__(self, story: Story) -> None:
        self.fold = Fold()
        self.last_event_id = str(story.place_of(0))
        self.ids: list[str] = []

    @property
    def place(self) -> Place:
        place = Place.parse(self.last_event_id)
        assert place is not None
        assert str(place) == self.last_event_id
        return place

    def read(self, story: Story, *, at_most: int | None = None) -> None:
        """Be told what there is, and be cut off after some events."""
        before = self.place
        for place, event in story.events_after(before)[:at_most]:
            if event["type"] == "data-retry":
                assert (place.number, place.offset) <= (before.number, before.offset)
            else:
                assert (place.number, place.offset) > (before.number, before.offset)
            # What goes over the wire is JSON, and nothing that a story may change later.
            self.fold.add(json.loads(json.dumps(event)))
            before = place
            self.last_event_id = str(place)
            self.ids.append(str(place))


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from("\r\n\u2028\u200d👩🏽é"),
    max_size=12,
)
INPUTS = st.one_of(
    st.just(""),
    TEXTS,
    st.dictionaries(TEXTS, TEXTS, max_size=2).map(lambda value: json.dumps(value)),
)

Where = Literal["executing", "rebuilt", "mirror"]


class Telling(RuleBasedStateMachine):
    """One turn as the agent's loop tells it, in a process that may die, with readers everywhere."""

    @initialize()
    def begin(self) -> None:
        self.stored = Stored(attempt=1)
        self.story = new_story()
        self.story.begin(Take(1, 0))
        self.phase: Literal["idle", "model", "storing", "tools"] = "idle"
        self.open_calls: list[str] = []
        self.calls = 0
        self.readers = [Reader(self.story)]
        self.pieces = 0
        # Another process, which mirrors the story.
        self.mirror = LiveTurn(new_story())
        self.hub = Hub(self.stored.database, lambda story: reading.refresh(self.stored.database, story))
        self.hub._turns[TURN] = self.mirror
        self.asker = _Asker(0.0)
        self.notices: list[str] = []

    # What the loop does.

    @precondition(lambda self: self.phase == "idle" and not self.story.ended)
    @rule()
    def start_step(self) -> None:
        self.story.tell(Kind.STEP_START)
        self.phase = "model"

    @precondition(lambda self: self.phase == "model")
    @rule(kind=st.sampled_from([Kind.TEXT, Kind.REASONING]), text=TEXTS)
    def say(self, kind: Kind, text: str) -> None:
        self._close()
        self.story.tell(kind, text=text or "x", closed=False)

    @precondition(lambda self: self.phase == "model")
    @rule(text=INPUTS)
    def call_tool(self, text: str) -> None:
        self._close()
        self.calls += 1
        call = f"call_{self.calls}"
        data = {"toolCallId": call, "toolName": "write_file"}
        self.story.tell(Kind.TOOL_INPUT, text=text, data=data, closed=False)
        self.open_calls.append(call)

    @precondition(lambda self: self.phase == "model" and self._last.kind in (Kind.TEXT, Kind.REASONING))
    @rule(text=TEXTS | st.just("long " * 400))
    def say_more(self, text: str) -> None:
        if not self._last.closed:
            self._last.append(text)

    @precondition(lambda self: self.phase == "model" and self._last.kind in (Kind.TEXT, Kind.REASONING, Kind.TOOL_INPUT))
    @rule()
    def close_part(self) -> None:
        self._close()

    @precondition(lambda self: self.phase == "model")
    @rule()
    def fail_call(self) -> None:
        take = self.story.take
        self.story.begin(Take(take.attempt, take.retry + 1))
        self.open_calls.clear()
        self.phase = "idle"

    @precondition(lambda self: self.phase == "model")
    @rule()
    def respond(self) -> None:
        self._close()
        if not self.open_calls:
            self.story.tell(Kind.STEP_FINISH)
        self.phase = "storing"

    @precondition(lambda self: self.phase == "tools")
    @rule(output=st.none() | TEXTS | st.lists(TEXTS, max_size=2), publishes=st.booleans())
    def return_from_tool(self, output: object, publishes: bool) -> None:
        call = self.open_calls.pop(0)
        self.story.tell(Kind.TOOL_OUTPUT, data={"toolCallId": call, "output": output})
        if publishes:
            self.story.tell(Kind.FILE, data={"url": f"http://x/{call}", "mediaType": "text/plain"})
            self.story.tell(Kind.SOURCE, data={"sourceId": call, "url": "http://y/"})
        self._after_tool()

    @precondition(lambda self: self.phase == "tools")
    @rule(message=TEXTS)
    def fail_tool(self, message: str) -> None:
        call = self.open_calls.pop(0)
        self.story.tell(Kind.TOOL_ERROR, data={"toolCallId": call, "errorText": message})
        self._after_tool()

    def _after_tool(self) -> None:
        if not self.open_calls:
            self.story.tell(Kind.STEP_FINISH)
        self.phase = "storing"

    @precondition(lambda self: self.phase == "storing")
    @rule()
    def store(self) -> None:
        entries = self.story.uncommitted()
        self.stored.store(self.story.committed, entries)
        self.story.commit(self.story.committed + len(entries))
        self.phase = "tools" if self.open_calls else "idle"

    @precondition(lambda self: not self.story.ended)
    @rule()
    def die_and_be_taken_over(self) -> None:
        self.stored.attempt += 1
        self.story = new_story()
        for row in self.stored.rows:
            self.story.store(row.number, row.entry())
        self.story.begin(Take(self.stored.attempt, 0))
        told = {entry.data["toolCallId"] for entry in self.story.entries if entry.kind is Kind.TOOL_INPUT}
        done = {
            entry.data["toolCallId"]
            for entry in self.story.entries
            if entry.kind in (Kind.TOOL_OUTPUT, Kind.TOOL_ERROR)
        }
        self.open_calls = sorted(told - done)
        self.phase = "tools" if self.open_calls else "idle"
        self.asker = _Asker(0.0)

    @precondition(lambda self: not self.story.ended and self.phase != "storing")
    @rule(ending=st.sampled_from(ENDINGS))
    def end(self, ending: Ending) -> None:
        if self.phase == "model":
            self._keep_partial()
        for call in self.open_calls:
            self.story.tell(Kind.TOOL_ERROR, data={"toolCallId": call, "errorText": "Not run."})
        if self.phase == "tools":
            self.story.tell(Kind.STEP_FINISH)
        self.open_calls.clear()
        self.phase = "idle"
        self.stored.store(self.story.committed, self.story.uncommitted())
        self.stored.retry = self.story.take.retry + 1
        self.stored.ending = ending
        self.story.commit()
        execution.tell_ending(self.story, ending)

    def _keep_partial(self) -> None:
        """Texts stay told; calls that were about to be made are withdrawn."""
        self._close()
        entries = self.story.uncommitted()
        if self.open_calls:
            take = self.story.take
            self.story.begin(Take(take.attempt, take.retry + 1))
            self.open_calls.clear()
            for entry in entries:
                if entry.kind is not Kind.TOOL_INPUT:
                    self.story.tell(entry.kind, text=entry.text)
        self.story.tell(Kind.STEP_FINISH)

    @property
    def _last(self) -> Entry:
        return self.story.entries[-1]

    def _close(self) -> None:
        self._last.closed = True

    # What the other process hears.

    @rule()
    def relay(self) -> None:
        if not self.story.ended:
            for notice in self.hub._news_for(self.asker, self.story):
                payload = json.dumps(notice, ensure_ascii=False)
                assert len(payload.encode()) < 8000, "PostgreSQL refuses it"
                self.notices.append(payload)

    @precondition(lambda self: self.notices)
    @rule(count=st.integers(1, 5))
    def hear(self, count: int) -> None:
        heard, self.notices = self.notices[:count], self.notices[count:]
        for notice in map(json.loads, heard):
            if "stored" in notice:
                at_once(self.hub._refresh_and_wake(self.mirror, Take(*notice["take"])))
            elif not self.hub._mirror(notice):
                self.refresh_mirror()
                self.asker.place = None  # It asks to be told all that is not stored.

    @rule()
    def refresh_mirror(self) -> None:
        at_once(reading.refresh(self.stored.database, self.mirror.story))

    @precondition(lambda self: not self.story.ended)
    @rule()
    def mirror_shows_the_same(self) -> None:
        """Once all news have come, a reader there knows as much as one here."""
        for _ in range(2):  # The first news may tell it that it missed some.
            self.relay()
            self.hear(len(self.notices))
        here, there = Reader(self.story), Reader(self.mirror.story)
        here.read(self.story)
        there.read(self.mirror.story)
        assert there.fold.parts == here.fold.parts

    # What readers do.

    @rule(where=st.sampled_from(["executing", "rebuilt", "mirror"]))
    def join(self, where: Where) -> None:
        if len(self.readers) < 6:
            self.readers.append(Reader(self._story_at(where)))

    @rule(
        index=st.integers(0, 5),
        where=st.sampled_from(["executing", "rebuilt", "mirror"]),
        at_most=st.integers(0, 8) | st.none(),
    )
    def read(self, index: int, where: Where, at_most: int | None) -> None:
        reader = self.readers[index % len(self.readers)]
        story = self._story_at(where)
        if where == "mirror":
            self.refresh_mirror()  # As whoever comes to follow a turn does.
        assert story.knows(reader.place, complete=where == "executing"), "it was told, so it is known"
        reader.read(story, at_most=at_most)

    def _story_at(self, where: Where) -> Story:
        if where == "executing":
            return self.story
        return self.stored.story() if where == "rebuilt" else self.mirror.story

    def teardown(self) -> None:
        if not hasattr(self, "readers"):
            return
        if self.phase == "storing":
            self.store()
        if not self.story.ended:
            self.end(COMPLETED)
        expected = message_parts(self.stored.entries)
        assert expected == message_parts(self.story.entries)
        for index, reader in enumerate(self.readers):
            self.read(index, "executing" if index % 2 else "rebuilt", None)
            assert reader.fold.parts == expected
            assert reader.fold.id == message_id(TURN)
            assert reader.fold.terminal is not None
            for where in ("executing", "rebuilt"):
                assert self._story_at(where).events_after(reader.place) == []


TestTelling = Telling.TestCase
TestTelling.settings = settings(
    max_examples=600,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
