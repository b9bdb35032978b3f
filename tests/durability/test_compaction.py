"""kill -9 around the moment in which a summary takes the place of a conversation."""

import httpx2
import pytest

from tests.durability.holding import Write
from tests.durability.stand import (
    Stand,
    fresh_key,
    in_background,
    killed_in,
    post,
    require_whole_conversation,
    sent_messages,
)
from tests.support.model_server import Step, ToolCall, Usage

LONG = "All of this was said. " * 300
_FULL = Usage(prompt_tokens=5000)
_CALL = ToolCall("write_file", {"path": "note.txt", "content": "Once."})


@pytest.mark.parametrize("committed", [False, True], ids=["before its commit", "after its commit"])
def test_a_summary_takes_effect_once(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    monkeypatch.setitem(stand.server.environment, "HANDINGER_CONTEXT_WINDOW", "6000")
    stand.restart()
    stand.model.script("first", [Step(text="The code word is heron.", usage=_FULL)])
    steps = [Step(tool_calls=[_CALL]), Step(text="It is heron.")]
    stand.model.script("next", steps)
    worker = post(stand.server, "", f"[[script:first]] Note it. {LONG}").json()
    path, key, input = f"/{worker['id']}", fresh_key(), "[[script:next]] Which one?"
    with killed_in(stand, Write("messages", "INSERT", committed=committed)):
        blocking = in_background(stand.server, path, input, key=key)
    with pytest.raises(httpx2.TransportError):
        blocking.result(timeout=10)
    stand.start()
    continued = post(stand.server, path, input, key=key).json()

    assert continued["output_text"] == "It is heron."
    # The summary is asked for with the first script's marker in it, the second time if it was lost.
    assert len(stand.model.requests("first")) == (2 if committed else 3)
    assert stand.observer.rows(
        "SELECT count(*) FROM messages WHERE worker_id = %s AND covers_id IS NOT NULL", worker["id"]
    ) == [(1,)]
    sent = sent_messages(stand.model.requests("next"))
    require_whole_conversation(sent)
    assert [message["role"] for message in sent] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
    ]
    assert [message["role"] for message in continued["messages"]] == ["user", "assistant"] * 2
    stand.kill()
