"""The event stream format, against the rules of the WHATWG specification."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handinger.sdk.sse import ServerSentEvent, SSEDecoder


def decode(*chunks: bytes) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def message(data: str, *, id: str = "", event: str = "message") -> ServerSentEvent:
    return ServerSentEvent(id=id, event=event, data=data)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        # The simplest event.
        (b"data: hello\n\n", [message("hello")]),
        # Every kind of line end.
        (b"data: a\r\n\r\n", [message("a")]),
        (b"data: a\r\r", [message("a")]),
        (b"data: a\r\n\n", [message("a")]),
        # Only one space is taken away, and none is needed.
        (b"data:a\n\ndata:  b\n\n", [message("a"), message(" b")]),
        # Several data lines are joined by line feeds; empty ones count.
        (b"data: a\ndata: b\ndata\n\n", [message("a\nb\n")]),
        (b"data\n\n", [message("")]),
        # Comments, fields without a meaning, and blocks without data give nothing.
        (b": ping\n\nfoo: bar\n\nevent: x\n\n", []),
        # The type is of one event; the id stays until the next one.
        (
            b"event: x\nid: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
            [message("a", id="1", event="x"), message("b", id="1"), message("c")],
        ),
        # An id with a NUL is ignored.
        (b"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", [message("a", id="1"), message("b", id="1")]),
        # A byte order mark at the beginning only.
        (b"\xef\xbb\xbfdata: a\n\n", [message("a")]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [message("a")]),
        # What the end of the stream cuts off is no event.
        (b"data: a\n\ndata: b\n", [message("a")]),
        # Text in UTF-8; what is not becomes the replacement character.
        ("data: größe 🙂\n\n".encode(), [message("größe 🙂")]),
        (b"data: \xff\n\n", [message("\ufffd")]),
        # U+2028 and others are no line ends here.
        ("data: a\u2028b\x0bc\x85d\n\n".encode(), [message("a\u2028b\x0bc\x85d")]),
        # A colon inside the value.
        (b'data: {"a": 1}\n\n', [message('{"a": 1}')]),
    ],
)
def test_a_stream_gives_its_events(stream: bytes, expected: list[ServerSentEvent]):
    assert decode(stream) == expected
    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == expected


@settings(max_examples=40)
@given(
    st.lists(
        st.sampled_from([b"data: ", b"id: 7", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b":", b"x"])
        | st.text(max_size=3).map(str.encode),
        max_size=20,
    ),
    st.data(),
)
def test_where_chunks_are_cut_makes_no_difference(pieces: list[bytes], data: st.DataObject):
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
    assert decode(*chunks) == decode(stream)


def test_a_carriage_return_ends_a_block_without_waiting_for_more():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\r") == [message("a")]
    assert decoder.feed(b"\ndata: b\n\n") == [message("b")]


def test_retry_is_kept_when_it_is_a_number():
    decoder = SSEDecoder()
    decoder.feed(b"retry: 1500\nretry: soon\n")
    assert decoder.retry_ms == 1500


def test_an_id_counts_once_its_block_is_complete():
    decoder = SSEDecoder()
    decoder.feed(b"id: 5\n")
    assert decoder.last_event_id == ""
    decoder.feed(b"\n")
    assert decoder.last_event_id == "5"


def test_a_long_event_in_small_chunks_takes_linear_time():
    decoder = SSEDecoder()
    events = decoder.feed(b"data: ")
    for _ in range(20_000):
        events += decoder.feed(b"x" * 100)
    events += decoder.feed(b"\n\n")
    assert [len(event.data) for event in events] == [2_000_000]
