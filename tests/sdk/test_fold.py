"""Events fold into the messages that the server stores afterwards."""

from typing import Any

import pytest

from handinger import Event, MessageFold, ToolPart, UIMessage, Worker

START = {"type": "start", "messageId": "msg_1", "messageMetadata": {"turnId": "trn_1"}}


def fold(*events: dict[str, Any]) -> MessageFold:
    folded = MessageFold()
    for data in events:
        folded.add(Event(id=None, type=data["type"], data=data))
    return folded


def parts(folded: MessageFold) -> list[dict[str, Any]]:
    assert folded.current is not None
    return [part.to_dict() for part in folded.current.parts]


def text(*deltas: str, id: str = "1", kind: str = "text") -> list[dict[str, Any]]:
    return [
        {"type": f"{kind}-start", "id": id},
        *({"type": f"{kind}-delta", "id": id, "delta": delta} for delta in deltas),
        {"type": f"{kind}-end", "id": id},
    ]


TOOL_INPUT = [
    {"type": "tool-input-start", "toolCallId": "c1", "toolName": "run_command"},
    {"type": "tool-input-delta", "toolCallId": "c1", "inputTextDelta": '{"command":'},
    {"type": "tool-input-delta", "toolCallId": "c1", "inputTextDelta": ' "ls"}'},
    {
        "type": "tool-input-available",
        "toolCallId": "c1",
        "toolName": "run_command",
        "input": {"command": "ls"},
    },
]
STORED_INPUT = {
    "type": "tool-run_command",
    "toolCallId": "c1",
    "state": "input-available",
    "input": {"command": "ls"},
}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (text("Good", "bye"), [{"type": "text", "text": "Goodbye", "state": "done"}]),
        (text(), [{"type": "text", "text": "", "state": "done"}]),
        # A text that still grows.
        (text("Good")[:-1], [{"type": "text", "text": "Good", "state": "streaming"}]),
        (
            text("Hm", kind="reasoning"),
            [{"type": "reasoning", "text": "Hm", "state": "done"}],
        ),
        ([{"type": "start-step"}], [{"type": "step-start"}]),
        (
            TOOL_INPUT[:1],
            [{"type": "tool-run_command", "toolCallId": "c1", "state": "input-streaming"}],
        ),
        (TOOL_INPUT, [STORED_INPUT]),
        # The input at once, without a start.
        (TOOL_INPUT[3:], [STORED_INPUT]),
        (
            [
                *TOOL_INPUT,
                {"type": "tool-output-available", "toolCallId": "c1", "output": {"exit_code": 0}},
            ],
            [{**STORED_INPUT, "state": "output-available", "output": {"exit_code": 0}}],
        ),
        (
            [*TOOL_INPUT, {"type": "tool-output-error", "toolCallId": "c1", "errorText": "No."}],
            [{**STORED_INPUT, "state": "output-error", "errorText": "No."}],
        ),
        # Outputs find their call, whatever came in between.
        (
            [*TOOL_INPUT, *text("a"), {"type": "tool-output-available", "toolCallId": "c1"}],
            [
                {**STORED_INPUT, "state": "output-available", "output": None},
                {"type": "text", "text": "a", "state": "done"},
            ],
        ),
        (
            [{"type": "source-url", "sourceId": "src_1", "url": "https://h.test", "title": "H"}],
            [{"type": "source-url", "sourceId": "src_1", "url": "https://h.test", "title": "H"}],
        ),
        (
            [{"type": "file", "url": "https://h.test/f", "mediaType": "text/plain"}],
            [{"type": "file", "url": "https://h.test/f", "mediaType": "text/plain"}],
        ),
        # Our own news passes by, data that is meant to stay does not.
        ([{"type": "data-news", "data": 1, "transient": True}], []),
        # A turn that was dropped before it began has no answer to tell.
        ([{"type": "data-message", "data": None, "transient": True}], []),
        ([{"type": "data-kept", "data": 1}], [{"type": "data-kept", "data": 1}]),
        # What this version does not know changes nothing.
        ([{"type": "hologram", "id": "1"}], []),
        # Two texts that grow at once.
        (
            [
                {"type": "text-start", "id": "1"},
                {"type": "text-start", "id": "2"},
                {"type": "text-delta", "id": "2", "delta": "b"},
                {"type": "text-delta", "id": "1", "delta": "a"},
            ],
            [
                {"type": "text", "text": "a", "state": "streaming"},
                {"type": "text", "text": "b", "state": "streaming"},
            ],
        ),
    ],
)
def test_events_fold_into_parts(events: list[dict[str, Any]], expected: list[dict[str, Any]]):
    folded = fold(START, *events)
    assert parts(folded) == expected
    assert folded.messages == [folded.current]
    stored = UIMessage.model_validate({"id": "msg_1", "role": "assistant", "parts": expected})
    assert stored.to_dict()["parts"] == expected


def test_metadata_is_merged():
    folded = fold(START, {"type": "finish", "messageMetadata": {"usage": {"steps": 1}}})
    assert folded.current is not None
    assert folded.current.metadata == {"turnId": "trn_1", "usage": {"steps": 1}}


def test_a_retry_withdraws_what_came_after_the_last_finished_step():
    retry = {"type": "data-retry", "data": {"messageId": "msg_1"}, "transient": True}
    first = [{"type": "start-step"}, *TOOL_INPUT, {"type": "finish-step"}]
    second = [{"type": "start-step"}, *text("wrong", id="2"), *text("half", id="3")[:-1]]
    kept = [{"type": "step-start"}, STORED_INPUT]
    assert parts(fold(START, *first, *second, retry)) == kept
    # An output that came since belongs to what is withdrawn.
    output = {"type": "tool-output-available", "toolCallId": "c1", "output": 1}
    assert parts(fold(START, *first, output, *second, retry)) == kept
    # Told anew, perhaps under the same ids, and withdrawn twice.
    again = fold(START, *first, *second, retry, *second, retry, {"type": "start-step"})
    assert parts(again) == [*kept, {"type": "step-start"}]


def test_a_retry_before_any_finished_step_withdraws_everything():
    retry = {"type": "data-retry", "data": {"messageId": "msg_1"}, "transient": True}
    assert parts(fold(START, *text("a"), retry, *text("b"))) == [
        {"type": "text", "text": "b", "state": "done"}
    ]


def test_a_retry_of_another_message_changes_nothing_here():
    retry = {"type": "data-retry", "data": {"messageId": "msg_0"}, "transient": True}
    assert len(parts(fold(START, *text("a"), retry))) == 1


def test_kept_parts_tell_what_is_final():
    folded = fold(START, {"type": "start-step"}, *text("a"))
    assert folded.kept_parts == 0
    folded.add(Event(None, "finish-step", {"type": "finish-step"}))
    assert folded.kept_parts == 2
    folded.add(Event(None, "error", {"type": "error", "errorText": "No."}))
    assert folded.kept_parts == 2


def test_messages_of_ended_turns_stand_before_the_live_one():
    said = {"id": "msg_0", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}
    folded = fold({"type": "data-message", "data": said, "transient": True}, START, *text("Ho"))
    assert [message.id for message in folded.messages] == ["msg_0", "msg_1"]
    assert [message.text for message in folded.messages] == ["Hi", "Ho"]


def test_a_story_that_is_told_again_replaces_itself():
    folded = fold(START, *text("a"), START, *text("b"))
    assert [message.text for message in folded.messages] == ["b"]


def test_the_rest_of_a_message_can_be_folded_alone():
    folded = fold({"type": "text-delta", "id": "9", "delta": "lo"}, {"type": "text-end", "id": "9"})
    assert parts(folded) == [{"type": "text", "text": "lo", "state": "done"}]


def test_the_worker_is_the_one_that_was_told_last():
    folded = fold({"type": "data-worker", "data": {"id": "wrk_1"}, "transient": True}, START)
    assert folded.worker == Worker(id="wrk_1")


def test_tool_parts_know_their_tool():
    (tool,) = (part for part in (fold(START, *TOOL_INPUT).current or UIMessage()).parts)
    assert isinstance(tool, ToolPart)
    assert tool.tool_name == "run_command"
