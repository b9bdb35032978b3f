"""Stories: what readers are told adds up to what is stored, wherever they are cut off."""

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
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
    message_id,
    message_parts,
    output_text,
    outputs,
    tool_input,
    user_message_id,
)
from handinger.turns import endings, reading, stories
from handinger.turns.endings import COMPLETED, Ending
from handinger.workers import EntryRow
from tests.support.fold import Fold

T = TypeVar("T")

TURN = TurnId("trn_" + "0123456789abcdef" * 2)
WORKER = WorkerId("wrk_" + "0" * 32)
ENDINGS = [
    COMPLETED,
    endings.CANCELLED,
    Ending(incomplete_reason="budget_exhausted"),
    Ending(error_code="model_error", error_message="It fell over."),
]


def new_story() -> Story:
    return stories.new_story(
        TURN, WORKER, input="Hello", source="api", created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )


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

    async def first(self, row: Callable[..., T], sql: str, **_: object) -> T:
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
        self.hub = Hub(
            self.stored.database,
            refresh=lambda story: reading.refresh(self.stored.database, story),
            moved=lambda stories: reading.moved(self.stored.database, stories),
        )
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

    @precondition(
        lambda self: self.phase == "model" and self._last.kind in (Kind.TEXT, Kind.REASONING)
    )
    @rule(text=TEXTS | st.just("long " * 400))
    def say_more(self, text: str) -> None:
        if not self._last.closed:
            self._last.append(text)

    @precondition(
        lambda self: (
            self.phase == "model"
            and self._last.kind in (Kind.TEXT, Kind.REASONING, Kind.TOOL_INPUT)
        )
    )
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
        told = {
            entry.data["toolCallId"]
            for entry in self.story.entries
            if entry.kind is Kind.TOOL_INPUT
        }
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
        stories.tell_ending(self.story, ending)

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
        assert story.knows(reader.place, complete=where == "executing"), (
            "it was told, so it is known"
        )
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
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# Single stories, entry by entry.


def told_story(*entries: tuple[Kind, str, Event | None]) -> Story:
    """A story of one take, stored and not ended."""
    story = new_story()
    story.begin(Take(1, 0))
    for kind, text, data in entries:
        story.tell(kind, text=text, data=data)
    story.commit()
    return story


CALL: Event = {"toolCallId": "call_1", "toolName": "write_file"}
STEP = [
    (Kind.STEP_START, "", None),
    (Kind.REASONING, "Let me see", None),
    (Kind.TEXT, "I write", None),
    (Kind.TOOL_INPUT, '{"path": "a"}', CALL),
    (Kind.TOOL_OUTPUT, "", {"toolCallId": "call_1", "output": {"ok": True}}),
    (Kind.FILE, "", {"url": "http://x/a", "mediaType": "text/plain"}),
    (Kind.SOURCE, "", {"sourceId": "s", "url": "http://y", "title": "Y"}),
    (Kind.STEP_FINISH, "", None),
]


def events(story: Story, place: Place | None = None) -> list[Event]:
    return [event for _, event in story.events_after(place or story.place_of(0))]


def types(story: Story, place: Place | None = None) -> list[str]:
    return [event["type"] for event in events(story, place)]


def ended(story: Story, ending: Ending = COMPLETED) -> Story:
    stories.tell_ending(story, ending)
    return story


def test_each_kind_is_told_with_the_fields_of_the_ai_sdk_and_no_other():
    story = ended(told_story(*STEP))
    assert events(story, story.place_of(0, 0)) == [
        {"type": "data-message", "data": story.entries[0].data, "transient": True},
        {
            "type": "start",
            "messageId": message_id(TURN),
            "messageMetadata": {"workerId": WORKER, "turnId": TURN},
        },
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "3"},
        {"type": "reasoning-delta", "id": "3", "delta": "Let me see"},
        {"type": "reasoning-end", "id": "3"},
        {"type": "text-start", "id": "4"},
        {"type": "text-delta", "id": "4", "delta": "I write"},
        {"type": "text-end", "id": "4"},
        {"type": "tool-input-start", "toolCallId": "call_1", "toolName": "write_file"},
        {"type": "tool-input-delta", "toolCallId": "call_1", "inputTextDelta": '{"path": "a"}'},
        {
            "type": "tool-input-available",
            "toolCallId": "call_1",
            "toolName": "write_file",
            "input": {"path": "a"},
        },
        {"type": "tool-output-available", "toolCallId": "call_1", "output": {"ok": True}},
        {"type": "file", "url": "http://x/a", "mediaType": "text/plain"},
        {"type": "source-url", "sourceId": "s", "url": "http://y", "title": "Y"},
        {"type": "finish-step"},
        {"type": "data-worker", "transient": True},
        {"type": "finish"},
    ]


def test_the_stored_message_is_what_the_events_add_up_to():
    story = told_story(*STEP)
    assert message_parts(story.entries) == [
        {"type": "step-start"},
        {"type": "reasoning", "text": "Let me see", "state": "done"},
        {"type": "text", "text": "I write", "state": "done"},
        {
            "type": "tool-write_file",
            "toolCallId": "call_1",
            "state": "output-available",
            "input": {"path": "a"},
            "output": {"ok": True},
        },
        {"type": "file", "url": "http://x/a", "mediaType": "text/plain"},
        {"type": "source-url", "sourceId": "s", "url": "http://y", "title": "Y"},
    ]


@pytest.mark.parametrize(
    ("ending", "event"),
    [
        (COMPLETED, {"type": "finish"}),
        (Ending(incomplete_reason="budget_exhausted"), {"type": "finish"}),
        (Ending(incomplete_reason="max_output_tokens"), {"type": "finish"}),
        (endings.CANCELLED, {"type": "abort"}),
        (
            Ending(error_code="timeout", error_message="Too slow."),
            {"type": "error", "errorText": "Too slow."},
        ),
    ],
)
def test_a_turn_ends_with_its_worker_and_one_terminal_event(ending: Ending, event: Event):
    story = ended(told_story(), ending)
    assert events(story)[-2:] == [{"type": "data-worker", "transient": True}, event]


@given(st.lists(st.tuples(st.sampled_from([Kind.TEXT, Kind.REASONING, Kind.TOOL_INPUT]), TEXTS)))
def test_from_every_place_of_an_ended_story_exactly_the_rest_is_told(parts: list[tuple[Kind, str]]):
    entries: list[tuple[Kind, str, Event | None]] = [(Kind.STEP_START, "", None)]
    for number, (kind, text) in enumerate(parts):
        data = {"toolCallId": f"c{number}", "toolName": "t"} if kind is Kind.TOOL_INPUT else None
        entries.append((kind, text, data))
    story = ended(told_story(*entries, (Kind.STEP_FINISH, "", None)))

    told = story.events_after(story.place_of(0, 0))

    ids = [str(place) for place, _ in told]
    assert len(set(ids)) == len(ids)
    for index, event_id in enumerate(ids):
        place = Place.parse(event_id)
        assert place is not None
        assert story.knows(place, complete=True)
        assert story.events_after(place) == told[index + 1 :]


@given(st.lists(TEXTS, min_size=1))
@example(["a\r", "\nb\r\n", "", "\r"])
@example(["👩", "\u200d", "🏽"])
def test_a_growing_text_is_told_to_the_last_character(pieces: list[str]):
    story = told_story((Kind.STEP_START, "", None))
    entry = story.tell(Kind.TEXT, closed=False)
    reader, late = Reader(story), []
    for piece in pieces:
        entry.append(piece)
        reader.read(story)
        late.append(Reader(story))
        late[-1].read(story)
    entry.closed = True
    for one in [reader, *late]:
        one.read(story)
        assert one.fold.parts[-1] == {"type": "text", "text": "".join(pieces), "state": "done"}
    assert entry.text == "".join(pieces)


def test_an_entry_that_grows_holds_back_what_comes_after_it():
    story = told_story((Kind.STEP_START, "", None))
    first = story.tell(Kind.TEXT, text="one", closed=False)
    story.tell(Kind.TEXT, text="two")
    assert types(story) == ["start", "start-step", "text-start", "text-delta"]
    first.closed = True
    assert types(story)[4:] == ["text-end", "text-start", "text-delta", "text-end"]


def test_the_end_of_a_step_is_told_only_once_it_is_stored():
    """Readers never drop a finished step, so it must not be withdrawn."""
    story = told_story((Kind.STEP_START, "", None), (Kind.TEXT, "Hi", None))
    story.tell(Kind.STEP_FINISH)
    assert "finish-step" not in types(story)
    story.commit()
    assert types(story)[-1] == "finish-step"


def test_a_repeated_call_withdraws_what_was_told_since_the_last_step():
    story = told_story(*STEP)
    story.tell(Kind.STEP_START)
    story.tell(Kind.TEXT, text="Half a sen", closed=False)
    reader, early = Reader(story), Reader(story)
    reader.read(story)
    early.read(story, at_most=3)

    story.begin(Take(1, 1))
    assert events(story, reader.place) == [
        {"type": "data-retry", "data": {"messageId": message_id(TURN)}, "transient": True}
    ]
    story.tell(Kind.STEP_START)
    story.tell(Kind.TEXT, text="A whole sentence")
    story.tell(Kind.STEP_FINISH)
    story.commit()
    ended(story)

    for one, retries in ((reader, 1), (early, 0)):
        one.read(story)
        assert one.fold.parts == message_parts(story.entries)
        assert one.fold.retries == retries


def test_a_result_that_was_lost_is_told_anew_with_its_whole_step():
    """It was told, but the process died before it was stored: readers drop the step."""
    story = told_story(*STEP[:4])
    story.tell(Kind.TOOL_OUTPUT, data={"toolCallId": "call_1", "output": "first"})
    reader = Reader(story)
    reader.read(story)

    story.begin(Take(2, 0))
    story.tell(Kind.TOOL_OUTPUT, data={"toolCallId": "call_1", "output": "second"})
    story.tell(Kind.STEP_FINISH)
    story.commit()

    assert types(story, reader.place)[:2] == ["data-retry", "start-step"]
    reader.read(story)
    assert reader.fold.parts == message_parts(story.entries)


def test_who_was_cut_off_after_data_retry_is_not_told_of_it_again():
    story = told_story(*STEP)
    story.tell(Kind.STEP_START)
    reader = Reader(story)
    reader.read(story)
    story.begin(Take(1, 1))
    reader.read(story, at_most=1)
    assert reader.fold.retries == 1
    story.tell(Kind.STEP_START)
    assert types(story, reader.place) == ["start-step"]


def test_a_place_told_elsewhere_waits_until_it_is_known_here():
    story = told_story(*STEP)
    ahead = Place(TURN, Take(1, 2), len(story.entries) + 3, 10)
    assert story.knows(ahead)
    assert story.events_after(ahead) == []


def test_an_entry_stored_elsewhere_replaces_what_was_mirrored_of_it():
    story = new_story()
    story.begin(Take(1, 0))
    story.tell(Kind.STEP_START, closed=False)
    story.tell(Kind.TEXT, text="Hel", closed=False)
    story.tell(Kind.TEXT, text="never stored")
    story.store(2, Entry(Kind.STEP_START, Take(1, 0)))
    story.store(2, Entry(Kind.TEXT, Take(1, 9), text="known already"))
    story.store(3, Entry(Kind.TEXT, Take(2, 0), text="Hello"))
    assert [entry.text for entry in story.entries[2:]] == ["", "Hello"]
    assert story.take == Take(2, 0)
    assert story.committed == 4


def a_place(take: Take, number: int, offset: int, turn_id: str = TURN) -> Place:
    return Place(TurnId(turn_id), take, number, offset)


MADE_UP = [
    a_place(BEFORE_ANY_TAKE, 7, 0),  # nothing but the opening was told before any take
    a_place(BEFORE_ANY_TAKE, 0, 2),  # the instruction has but one event
    a_place(Take(1, 0), 1, 1),  # `start` belongs to no take
    a_place(Take(1, 0), 4, 99),  # beyond the text's end
    a_place(Take(1, 1), 4, 1),  # a later take, of what was stored before it
    a_place(Take(2, 0), 30, 0),  # an attempt that never was
]


@pytest.mark.parametrize("place", MADE_UP, ids=str)
@pytest.mark.parametrize("has_ended", [True, False])
def test_a_made_up_place_is_not_known(place: Place, has_ended: bool):
    story = told_story(*STEP)
    if has_ended:
        ended(story)
    assert not story.knows(place)
    assert not story.knows(place, complete=True)


def test_the_executing_process_knows_how_far_it_has_told():
    story = told_story(*STEP)
    story.tell(Kind.TEXT, text="Hel", closed=False)
    number = len(story.entries) - 1
    for made_up in (a_place(Take(1, 0), number, 4), a_place(Take(1, 0), number + 1, 0)):
        assert story.knows(made_up)
        assert not story.knows(made_up, complete=True)
    assert story.knows(a_place(Take(1, 0), number, 3), complete=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "nonsense",
        TURN,
        f"{TURN}-1.0.3",
        f"{TURN}-1.0.3.0.1",
        f"{TURN}-1.0.3.-1",
        f"{TURN}-1.0.3.0 ",
        f"{TURN}-1.0.3.0\n",
        f"{TURN}-1.0.3.\u0663",
        f"{TURN}-1.0.3.1234567890123",
        f"wrk_{TURN[4:]}-1.0.3.0",
        f"{TURN.upper()}-1.0.3.0",
    ],
)
def test_what_is_no_id_of_ours_names_no_place(text: str):
    assert Place.parse(text) is None


@given(st.tuples(*[st.integers(0, 10**9 - 1)] * 4))
def test_an_id_reads_back_as_the_place_it_names(numbers: tuple[int, int, int, int]):
    attempt, retry, number, offset = numbers
    place = a_place(Take(attempt, retry), number, offset)
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}),
        ("{}", {}),
        ('{"a": [1, null, 2.5]}', {"a": [1, None, 2.5]}),
        ("null", None),
        ('{"half": ', '{"half": '),  # no JSON
        ('{"a": NaN}', '{"a": NaN}'),  # Python's, but no JSON
        ('{"a": 1e999}', '{"a": 1e999}'),  # infinite
        ('{"a": "\\ud83d"}', '{"a": "\\ud83d"}'),  # half a character, which UTF-8 cannot carry
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ("[" * 100_000, "[" * 100_000),  # nobody could read it
        ("1" * 10_000, "1" * 10_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_tools_input_is_its_json_or_else_the_raw_text(text: str, value: object):
    found = tool_input(text)
    assert found == value
    assert json.loads(json.dumps(found, allow_nan=False, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize("depth", range(600, 1000, 20))
def test_what_a_tools_input_gives_can_be_told_wherever_it_is_needed(depth: int):
    value: object = tool_input("[" * depth + "]" * depth)

    def deeper(frames: int) -> str:
        return deeper(frames - 1) if frames else json.dumps({"parts": [{"input": value}]})

    assert deeper(50)


def test_one_output_item_for_each_response_that_has_text():
    story = told_story(
        (Kind.STEP_START, "", None),
        (Kind.REASONING, "Hm", None),
        (Kind.TEXT, "One", None),
        (Kind.TEXT, "and a half", None),
        (Kind.STEP_FINISH, "", None),
        (Kind.STEP_START, "", None),
        (Kind.STEP_FINISH, "", None),
        (Kind.STEP_START, "", None),
        (Kind.TEXT, "Two", None),
    )
    items = outputs("msg_1", story.entries)
    assert [item["content"] for item in items] == [
        [{"type": "output_text", "text": "One\n\nand a half"}],
        [{"type": "output_text", "text": "Two"}],
    ]
    assert len({item["id"] for item in items}) == 2
    assert output_text(items) == "One\n\nand a half\n\nTwo"
    assert output_text([]) == ""


def test_a_turns_messages_sort_as_they_were_said():
    later = TurnId("trn_" + "1" * 32)
    ids = [user_message_id(TURN), message_id(TURN), user_message_id(later), message_id(later)]
    assert ids == sorted(ids)
