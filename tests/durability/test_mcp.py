"""A call of an MCP tool that was open when the process died, and whose server is gone since."""

from typing import Any

from tests.durability.observing import wait_for
from tests.durability.stand import Stand, accept
from tests.support.mcp_configuration import configure
from tests.support.mcp_server import HttpMcpServer
from tests.support.model_server import Step, ToolCall


def test_an_open_call_of_a_server_that_is_gone_is_told_as_unknown(stand: Stand):
    steps = [
        Step(tool_calls=[ToolCall("gone_echo", {"text": "hi"}), ToolCall("gone_slow", {})]),
        Step(text="done"),
    ]
    stand.model.script("gone", steps)
    with HttpMcpServer() as remote:
        configure(stand.server, "gone", remote.url, database_url=stand.observer.url)
        stand.restart()  # So that it need not notice the change.
        worker_id = accept(stand.server, "", "[[script:gone]] Call.").json()["id"]
        wait_for(
            lambda: stand.observer.rows(
                "SELECT 1 FROM tool_calls c JOIN turns t ON t.id = c.turn_id"
                " WHERE t.worker_id = %s AND c.result IS NOT NULL",
                worker_id,
            ),
            "the first call to end",
            timeout_s=60,
        )
        stand.kill()
    stand.start()
    stand.observer.wait_until_idle(timeout_s=60)
    worker = stand.get(worker_id).json()
    assert worker["output_text"] == "done"
    parts = [part for part in worker["messages"][1]["parts"] if part["type"].startswith("tool-")]
    echo, slow = sorted(parts, key=lambda part: part["type"])
    assert echo["output"] == "echo: hi"
    assert "outcome is unknown" in slow["errorText"]
    body: Any = stand.model.requests("gone")[-1].body
    results = [str(told["content"]) for told in body["messages"] if told["role"] == "tool"]
    assert len(results) == 2
    assert "echo: hi" in results[0]
    assert "outcome is unknown" in results[1]
