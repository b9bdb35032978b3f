"""Answers as typed objects: every field of the contract, and lenience towards the rest."""

from typing import Any

import pytest

from handinger import Costs, FilePart, Part, TextPart, Turn, UIMessage, Usage, Worker

FULL: dict[str, Any] = {
    "id": "wrk_1",
    "object": "worker",
    "created_at": 1_750_000_000,
    "status": "completed",
    "running": False,
    "error": {"code": "model_error", "message": "It broke."},
    "incomplete_details": {"reason": "cancelled"},
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi"}],
        }
    ],
    "output_text": "Hi",
    "messages": [
        {
            "id": "msg_1",
            "role": "assistant",
            "parts": [
                {"type": "step-start"},
                {"type": "text", "text": "Hi", "state": "done"},
                {"type": "file", "url": "https://h.test/a", "mediaType": "text/plain"},
                {"type": "hologram", "depth": 3},
            ],
            "metadata": {"turnId": "trn_1", "usage": {"steps": 1}},
        }
    ],
    "files": [{"filename": None, "mediaType": "text/plain", "url": "https://h.test/a", "size": 3}],
    "sources": [{"id": "src_1", "type": "url", "url": "https://h.test", "title": None}],
    "metadata": {"model": "demo", "mine": [1, {"a": None}]},
    "costs": {
        "modelCostUsd": 0.5,
        "toolCostUsd": 0.25,
        "sandboxCostUsd": 0,
        "internalCostUsd": 0.125,
    },
    "usage": {
        "inputTokens": 10,
        "outputTokens": 5,
        "reasoningTokens": 1,
        "cacheReadTokens": 2,
        "cacheWriteTokens": 3,
        "totalTokens": 15,
        "steps": 2,
        "costUsd": 0.875,
        "credits": 0,
        "durationMs": 1234,
    },
    "url": "https://h.test/workers/wrk_1",
}


def test_a_worker_has_every_field_in_snake_case():
    worker = Worker.model_validate(FULL)
    assert worker.costs == Costs(
        model_cost_usd=0.5, tool_cost_usd=0.25, sandbox_cost_usd=0, internal_cost_usd=0.125
    )
    assert worker.usage == Usage(
        input_tokens=10,
        output_tokens=5,
        reasoning_tokens=1,
        cache_read_tokens=2,
        cache_write_tokens=3,
        total_tokens=15,
        steps=2,
        cost_usd=0.875,
        credits=0,
        duration_ms=1234,
    )
    assert worker.error is not None
    assert worker.error.code == "model_error"
    assert worker.incomplete_details is not None
    assert worker.incomplete_details.reason == "cancelled"
    assert worker.output[0].content[0].text == "Hi"
    assert worker.files[0].media_type == "text/plain"
    assert worker.sources[0].url == "https://h.test"
    assert worker.metadata["model"] == "demo"


def test_what_came_is_given_back_as_it_came():
    assert Worker.model_validate(FULL).to_dict() == FULL
    assert Worker.model_validate({"id": "wrk_1"}).to_dict() == {"id": "wrk_1"}


def test_what_may_be_missing_may_be_missing():
    worker = Worker.model_validate({"id": "wrk_1"})
    assert (worker.costs, worker.usage, worker.error) == (None, None, None)
    assert (worker.messages, worker.files, worker.metadata) == ([], [], {})


def test_unknown_fields_and_values_are_kept():
    worker = Worker.model_validate({"id": "wrk_1", "status": "archived", "structured_output": {}})
    assert worker.status == "archived"
    assert worker.to_dict()["structured_output"] == {}


def test_parts_have_their_types():
    message = Worker.model_validate(FULL).messages[0]
    assert [type(part).__name__ for part in message.parts] == [
        "StepStartPart",
        "TextPart",
        "FilePart",
        "Part",
    ]
    assert isinstance(message.parts[2], FilePart)
    assert message.parts[2].media_type == "text/plain"
    assert message.text == "Hi"
    assert UIMessage(id="m", parts=[TextPart(text="a"), Part(type="x")]).text == "a"


@pytest.mark.parametrize("part", [1, {"text": "a"}, {"type": 1}])
def test_what_is_no_part_is_refused(part: object):
    with pytest.raises(ValueError, match="type"):
        UIMessage.model_validate({"parts": [part]})


def test_a_turn_mixes_both_kinds_of_names():
    told = {
        "id": "trn_1",
        "workerId": "wrk_1",
        "status": "completed",
        "source": "api",
        "input": "Do it.",
        "budget": "standard",
        "output_text": "Done.",
        "error": None,
        "incomplete_details": None,
        "costs": FULL["costs"],
        "usage": FULL["usage"],
        "createdAt": "2026-01-01T00:00:00Z",
        "startedAt": "2026-01-01T00:00:01Z",
        "endedAt": None,
    }
    turn = Turn.model_validate(told)
    assert (turn.worker_id, turn.started_at) == ("wrk_1", "2026-01-01T00:00:01Z")
    assert turn.to_dict() == told
