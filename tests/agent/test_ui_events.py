"""The teller: whatever a model says in whatever order, the story is the finished response."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import (
    AgentStreamEvent,
    FinalResultEvent,
    ModelResponse,
    ModelResponsePart,
    NativeToolCallPart,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)
from tests.support.fold import Fold

from handinger.agent.ui_events import Teller, clean, plain
from handinger.ids import TurnId
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
)

TURN = TurnId("trn_" + "0" * 32)


def new_story() -> Story:
    start = {"messageId": message_id(TURN), "messageMetadata": {}}
    opening = [
        Entry(Kind.USER, BEFORE_ANY_TAKE, data={}),
        Entry(Kind.START, BEFORE_ANY_TAKE, data=start),
    ]
    story = Story(TURN, message_id(TURN), opening)
    story.begin(Take(1, 0))
    return story


class Reader:
    """Follows a story and adds up what it is told."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._place: Place = story.place_of(0)
        self.fold = Fold()

    def read(self) -> None:
        for place, event in self._story.events_after(self._place):
            self.fold.add(event)
            self._place = place

    @property
    def parts(self) -> list[Event]:
        self.read()
        return self.fold.parts


@pytest.fixture
def story() -> Story:
    return new_story()


@pytest.fixture
def teller(story: Story) -> Teller:
    teller = Teller(story)
    teller.begin_step(1)
    return teller


@pytest.fixture
def reader(story: Story) -> Reader:
    return Reader(story)


def start(index: int, part: ModelResponsePart) -> PartStartEvent:
    return PartStartEvent(index=index, part=part)


def more_text(index: int, text: str) -> PartDeltaEvent:
    return PartDeltaEvent(index=index, delta=TextPartDelta(content_delta=text))


def more_thought(index: int, text: str | None) -> PartDeltaEvent:
    return PartDeltaEvent(index=index, delta=ThinkingPartDelta(content_delta=text))


def more_arguments(index: int, arguments: str) -> PartDeltaEvent:
    return PartDeltaEvent(index=index, delta=ToolCallPartDelta(args_delta=arguments))


def hear(teller: Teller, *events: AgentStreamEvent) -> list[bool]:
    return [teller.stream_event(event) for event in events]


def text(said: str) -> Event:
    return {"type": "text", "text": said, "state": "done"}


def thought(said: str) -> Event:
    return {"type": "reasoning", "text": said, "state": "done"}


def call(call_id: str, value: object, name: str = "tool", **outcome: object) -> Event:
    return {
        "type": f"tool-{name}",
        "toolCallId": call_id,
        "state": "input-available",
        "input": value,
        **outcome,
    }


def parts(story: Story) -> list[Event]:
    """The message's, without the marks of its steps."""
    return [part for part in message_parts(story.entries) if part["type"] != "step-start"]


# Any response, in any pieces.

TEXTS = st.text(st.characters() | st.sampled_from("\0\ud83d\ude00"), max_size=8)
PARTS = st.one_of(
    st.builds(TextPart, TEXTS),
    st.builds(ThinkingPart, TEXTS),
    st.builds(
        ToolCallPart,
        st.sampled_from(["read_file", "write_file"]),
        TEXTS | st.dictionaries(TEXTS, TEXTS, max_size=2) | st.none(),
        st.sampled_from(["call_1", "call_2", "call_3", "call_4"]),
    ),
    st.just(NativeToolCallPart("web_search", {"query": "told by the provider itself"})),
)


@st.composite
def streamed(draw: st.DrawFn) -> tuple[ModelResponse, list[AgentStreamEvent]]:
    """A response, and a stream that tells it: part by part, or several at a time."""
    found = draw(st.lists(PARTS, max_size=5))
    # Two calls of one response never have the same id, see `model_calls`.
    whole = [
        part
        for index, part in enumerate(found)
        if not isinstance(part, ToolCallPart)
        or part.tool_call_id not in {getattr(p, "tool_call_id", None) for p in found[:index]}
    ]
    pieces = [_pieces(draw, index, part) for index, part in enumerate(whole)]
    events: list[AgentStreamEvent] = []
    interleaved = draw(st.booleans())
    begun = 0
    while any(pieces):
        # Parts are begun in order; after that they may grow side by side.
        waiting = [each for each in pieces[: begun + 1] if each]
        chosen = draw(st.sampled_from(waiting)) if interleaved else waiting[0]
        events.append(chosen.pop(0))
        begun += isinstance(events[-1], PartStartEvent)
    return ModelResponse(parts=whole), events


def _pieces(draw: st.DrawFn, index: int, part: ModelResponsePart) -> list[AgentStreamEvent]:
    """How one part is streamed: its start, with nothing, some or all of it, and then the rest."""
    match part:
        case TextPart(content=said) | ThinkingPart(content=said):
            cut = draw(st.integers(0, len(said)))
            begun = type(part)(said[:cut])
            more = more_text if isinstance(part, TextPart) else more_thought
        case ToolCallPart(tool_name=name, args=str(said), tool_call_id=call_id):
            cut = draw(st.integers(0, len(said)))
            begun = ToolCallPart(name, said[:cut], call_id)
            more = more_arguments
        case _:
            return [start(index, part)]
    return [start(index, begun), *(more(index, character) for character in said[cut:])]


@given(streamed(), st.booleans())
def test_the_story_is_the_response_however_it_was_streamed(
    response_and_events: tuple[ModelResponse, list[AgentStreamEvent]], reads_along: bool
):
    response, events = response_and_events
    story = new_story()
    teller, reader = Teller(story), Reader(story)
    teller.begin_step(1)
    for event in events:
        teller.stream_event(event)
        if reads_along:
            reader.read()
    teller.response(response)
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    for part in calls:
        teller.tool_output(part.tool_call_id, part.tool_call_id)
    teller.finish_step()
    story.commit()

    assert reader.parts == message_parts(story.entries)
    silent = new_story()
    untold = Teller(silent)
    untold.begin_step(1)
    untold.response(response)
    for part in calls:
        untold.tool_output(part.tool_call_id, part.tool_call_id)
    assert parts(silent) == parts(story)
    told = [part for part in response.parts if getattr(part, "content", "") and part.has_content()]
    texts = [part["text"] for part in parts(story) if "text" in part]
    assert texts == [clean(str(getattr(part, "content", ""))) for part in told]
    outputs = [part["output"] for part in parts(story) if "output" in part]
    assert outputs == [part.tool_call_id for part in calls]


# As it streams.


def test_a_text_is_told_as_it_comes(teller: Teller, reader: Reader):
    hear(teller, start(0, TextPart("Hel")))
    assert reader.parts[-1] == {"type": "text", "text": "Hel", "state": "streaming"}
    hear(teller, more_text(0, "lo"))
    assert reader.parts[-1] == {"type": "text", "text": "Hello", "state": "streaming"}
    teller.response(ModelResponse(parts=[TextPart("Hello")]))
    assert reader.parts[-1] == text("Hello")


def test_a_part_that_starts_ends_the_one_before(teller: Teller, reader: Reader):
    hear(teller, start(0, ThinkingPart("hm")), start(1, TextPart("So")))
    assert reader.parts[1:] == [thought("hm"), {"type": "text", "text": "So", "state": "streaming"}]


def test_whether_there_was_something_to_tell(teller: Teller):
    heard = hear(
        teller,
        start(0, TextPart("")),
        more_text(0, ""),
        more_text(0, "a"),
        more_thought(0, None),
        FinalResultEvent(tool_name=None, tool_call_id=None),
        start(1, NativeToolCallPart("web_search", {})),
    )
    assert heard == [False, False, True, False, False, False]


def test_an_empty_part_is_begun_with_its_first_character_or_never(
    teller: Teller, story: Story, reader: Reader
):
    hear(teller, start(0, ThinkingPart("")), start(1, TextPart("")))
    assert reader.parts == [{"type": "step-start"}]
    hear(teller, more_text(1, "a"))
    teller.response(ModelResponse(parts=[ThinkingPart(""), TextPart("a")]))
    assert reader.parts[1:] == parts(story) == [text("a")]
    assert reader.fold.retries == 0


def test_a_late_thought_is_told_as_reasoning(teller: Teller, story: Story):
    hear(teller, start(0, ThinkingPart("")), more_thought(0, "hm"))
    teller.response(ModelResponse(parts=[ThinkingPart("hm")]))
    assert parts(story) == [thought("hm")]


def test_parts_that_a_provider_interleaves_are_told_anew_in_order(
    teller: Teller, story: Story, reader: Reader
):
    hear(teller, start(0, TextPart("a")), start(1, TextPart("1")))
    reader.read()
    hear(teller, more_text(0, "b"), more_text(1, "2"))
    reader.read()
    teller.response(ModelResponse(parts=[TextPart("ab"), TextPart("12")]))
    assert reader.parts[1:] == parts(story) == [text("ab"), text("12")]
    assert reader.fold.retries == 1


@pytest.mark.parametrize(
    ("streamed", "whole"),
    [
        (TextPart("Hello wor"), TextPart("Hello world")),  # its end did not come
        (TextPart("Hello"), ThinkingPart("Hello")),  # it was a thought
        (ToolCallPart("read", "{}", "c"), ToolCallPart("read_file", "{}", "c")),  # half a name
    ],
)
def test_a_response_that_differs_from_what_was_told_is_told_anew(
    teller: Teller,
    story: Story,
    reader: Reader,
    streamed: ModelResponsePart,
    whole: ModelResponsePart,
):
    hear(teller, start(0, streamed))
    reader.read()
    teller.response(ModelResponse(parts=[whole]))
    assert reader.parts[1:] == parts(story)
    assert reader.fold.retries == 1
    expected = Reader(silent := new_story())
    untold = Teller(silent)
    untold.begin_step(1)
    untold.response(ModelResponse(parts=[whole]))
    assert reader.parts == expected.parts


def test_a_response_that_was_not_streamed_is_told_whole(
    teller: Teller, story: Story, reader: Reader
):
    reader.read()
    teller.response(
        ModelResponse(
            parts=[ThinkingPart("hm"), TextPart("So:"), ToolCallPart("tool", {"a": 1}, "c")]
        )
    )
    assert reader.parts[1:] == parts(story) == [thought("hm"), text("So:"), call("c", {"a": 1})]
    assert reader.fold.retries == 0


# What cannot be stored.


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("plain", "plain"),
        ("a\0b", "a\ufffdb"),
        ("\ud83d", "\ufffd"),  # half a character
        ("\ud83d\ude00", "\ufffd\ufffd"),  # two halves that were never joined
        ("😀\r\n", "😀\r\n"),
    ],
)
def test_what_postgresql_cannot_store_is_replaced(said: str, told: str):
    assert clean(said) == told
    assert len(clean(said)) == len(said)


def test_unstorable_characters_are_no_reason_to_tell_anew(
    teller: Teller, story: Story, reader: Reader
):
    hear(
        teller,
        start(0, TextPart("a\0")),
        more_text(0, "\ud83d"),
        more_text(0, "\ude00"),
        start(1, ToolCallPart("to\0ol", '{"a": "\0', "c\0")),
        more_arguments(1, '"}'),
    )
    reader.read()
    whole = [TextPart("a\0\ud83d\ude00"), ToolCallPart("to\0ol", '{"a": "\0"}', "c\0")]
    teller.response(ModelResponse(parts=whole))
    teller.tool_output("c\0", "ok")
    assert reader.parts == message_parts(story.entries)
    assert parts(story) == [
        text("a\ufffd\ufffd\ufffd"),
        call("c\ufffd", {"a": "\ufffd"}, "to\ufffdol", state="output-available", output="ok"),
    ]
    assert reader.fold.retries == 0


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (float("nan"), "nan"),  # no JSON
        (float("-inf"), "-inf"),
        ("a\0", "a\ufffd"),
        (("a", ["\ud83d"]), ["a", ["\ufffd"]]),
        ({"k\0": 1, 2: b"x"}, {"k\ufffd": 1, "2": "b'x'"}),
    ],
)
def test_a_tools_result_becomes_json_that_can_be_stored(value: object, told: object):
    assert plain(value) == told


# Calls.


def test_readers_get_an_id_for_each_call_that_is_unique_in_the_turn(
    teller: Teller, story: Story, reader: Reader
):
    for step in (1, 2, 3):
        if step > 1:
            teller.begin_step(step)
        hear(teller, start(0, ToolCallPart("tool", f'{{"step": {step}}}', "same")))
        whole = ToolCallPart("tool", f'{{"step": {step}}}', "same")
        teller.response(ModelResponse(parts=[whole]))
        teller.tool_output("same", step)
        teller.finish_step()
        story.commit()
    assert [part for part in reader.parts if part["type"] != "step-start"] == [
        call(told, {"step": step}, state="output-available", output=step)
        for step, told in ((1, "same"), (2, "same-2"), (3, "same-3"))
    ]


def test_two_calls_of_one_response_with_the_same_id(teller: Teller, story: Story, reader: Reader):
    """They are streamed as the model says them, and told apart once the response is whole."""
    hear(
        teller, start(0, ToolCallPart("tool", "{}", "x")), start(1, ToolCallPart("tool", "[]", "x"))
    )
    calls = [ToolCallPart("tool", "{}", "x"), ToolCallPart("tool", "[]", "x-2")]
    teller.response(ModelResponse(parts=calls))
    teller.tool_error("x-2", "two")
    teller.tool_output("x", "one")
    assert (
        reader.parts[1:]
        == parts(story)
        == [
            call("x", {}, state="output-available", output="one"),
            call("x-2", [], state="output-error", errorText="two"),
        ]
    )


def test_an_id_that_looks_like_one_of_ours_is_still_unique(teller: Teller, story: Story):
    calls = [ToolCallPart("tool", "{}", call_id) for call_id in ("x-2", "x")]
    teller.response(ModelResponse(parts=calls))
    for part in calls:
        teller.tool_output(part.tool_call_id, part.tool_call_id)
    teller.begin_step(2)
    teller.response(ModelResponse(parts=calls))
    for part in calls:
        teller.tool_output(part.tool_call_id, part.tool_call_id)
    ids = [part["toolCallId"] for part in parts(story)]
    assert len(set(ids)) == 4
    assert [part["output"] for part in parts(story)] == ["x-2", "x", "x-2", "x"]


def test_a_withdrawn_call_gives_its_id_back(teller: Teller, story: Story, reader: Reader):
    hear(teller, start(0, ToolCallPart("tool", "{", "c")))
    reader.read()
    teller.withdraw()
    teller.begin_step(1)
    teller.response(ModelResponse(parts=[ToolCallPart("tool", "{}", "c")]))
    assert reader.parts[1:] == parts(story) == [call("c", {})]


def test_a_file_is_told_with_its_url_and_media_type_only(teller: Teller, story: Story):
    teller.file("http://x/a", "text/plain")
    assert parts(story) == [{"type": "file", "url": "http://x/a", "mediaType": "text/plain"}]


# Cut off.


def texts_kept(teller: Teller) -> tuple[Sequence[object], bool]:
    kept, in_step = teller.keep_partial()
    return [(type(part), part.content) for part in kept], in_step


def test_the_text_so_far_stays_told_when_a_call_is_cut_off(
    teller: Teller, story: Story, reader: Reader
):
    hear(teller, start(0, ThinkingPart("hm")), start(1, TextPart("Half a sen")))
    reader.read()
    assert texts_kept(teller) == ([(ThinkingPart, "hm"), (TextPart, "Half a sen")], True)
    assert reader.parts[1:] == parts(story) == [thought("hm"), text("Half a sen")]
    assert reader.fold.retries == 0


def test_a_call_that_was_about_to_be_made_is_withdrawn_when_it_is_cut_off(
    teller: Teller, story: Story, reader: Reader
):
    hear(teller, start(0, TextPart("I write")), start(1, ToolCallPart("tool", '{"a', "c")))
    reader.read()
    assert texts_kept(teller) == ([(TextPart, "I write")], True)
    teller.finish_step()
    story.commit()
    assert reader.parts[1:] == parts(story) == [text("I write")]
    assert reader.fold.retries == 1


def test_nothing_is_kept_of_a_call_that_had_said_nothing(teller: Teller, story: Story):
    assert texts_kept(teller) == ([], True)
    teller.withdraw()
    assert texts_kept(teller) == ([], False)


def test_what_is_stored_is_neither_kept_again_nor_withdrawn(teller: Teller, story: Story):
    teller.response(ModelResponse(parts=[TextPart("a"), ToolCallPart("tool", "{}", "c")]))
    story.commit()
    assert texts_kept(teller) == ([], False)
    assert parts(story) == [text("a"), call("c", {})]


def test_a_repeated_call_withdraws_the_partial_text(teller: Teller, story: Story, reader: Reader):
    hear(teller, start(0, TextPart("Half a sen")))
    reader.read()
    teller.withdraw()
    assert reader.parts == []
    teller.begin_step(1)
    hear(teller, start(0, TextPart("A whole ")), more_text(0, "sentence"))
    teller.response(ModelResponse(parts=[TextPart("A whole sentence")]))
    assert reader.parts[1:] == parts(story) == [text("A whole sentence")]
    assert reader.fold.retries == 1


# Resumed.


def test_a_resumed_step_goes_on_under_the_ids_it_was_told_with(story: Story, reader: Reader):
    teller = Teller(story)
    response = ModelResponse(
        parts=[ToolCallPart("tool", "{}", "c"), ToolCallPart("tool", "{}", "d")]
    )
    for step in (1, 2):
        teller.begin_step(step)
        teller.response(response)
        story.commit()
        if step == 1:
            teller.tool_output("c", "one")
            teller.tool_output("d", "two")
            teller.finish_step()
    reader.read()

    story.begin(Take(2, 0))
    resumed = Teller(story)
    resumed.resume_step(2, response)
    resumed.tool_output("d", "four")
    resumed.tool_error("c", "three")
    resumed.finish_step()
    resumed.begin_step(3)
    resumed.response(response)
    story.commit()

    assert reader.parts == message_parts(story.entries)
    assert [(part["toolCallId"], part["state"]) for part in parts(story)] == [
        ("c", "output-available"),
        ("d", "output-available"),
        ("c-2", "output-error"),
        ("d-2", "output-available"),
        ("c-3", "input-available"),
        ("d-3", "input-available"),
    ]
    assert reader.fold.retries == 0


def test_a_resumed_step_without_calls_has_nothing_to_go_on_with(story: Story):
    teller = Teller(story)
    teller.begin_step(1)
    teller.response(ModelResponse(parts=[TextPart("a")]))
    story.commit()
    resumed = Teller(story)
    resumed.resume_step(1, ModelResponse(parts=[TextPart("a")]))
    assert texts_kept(resumed) == ([], False)
