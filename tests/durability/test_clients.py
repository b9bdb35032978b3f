"""A server that dies while a turn is told, and comes back: what readers with our clients see."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

from handinger import AsyncHandinger, Event, Handinger
from tests.durability.observing import wait_for
from tests.durability.stand import Stand
from tests.support.fold import Fold
from tests.support.model_server import Step, ToolCall

INPUT = "[[script:poem]] A poem, please."
LINES = [f"Line {number} of it.\n" for number in range(40)]
TOLD_BEFORE_DEATH = 10


class Watcher:
    """Hears events in a thread of its own."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.end: Future[int | None] = Future()

    def hear(self, event: Event) -> None:
        self.events.append(event.data)
        # A withdrawal has the place that it goes back to.
        if event.id is not None and event.type != "data-retry":
            self.ids.append(event.id)

    @property
    def text(self) -> str:
        deltas = list(self.events)
        return "".join(event["delta"] for event in deltas if event["type"] == "text-delta")

    def blocking(self, stand: Stand, worker_id: str) -> int:
        with (
            Handinger(api_key=stand.server.key, base_url=stand.server.base_url) as client,
            client.workers.continue_(worker_id, input=INPUT, stream=True) as stream,
        ):
            for event in stream:
                self.hear(event)
        return 0

    def under_asyncio(self, stand: Stand, worker_id: str) -> int:
        async def watch() -> None:
            async with (
                AsyncHandinger(api_key=stand.server.key, base_url=stand.server.base_url) as client,
                await client.workers.stream_updates(worker_id) as stream,
            ):
                async for event in stream:
                    self.hear(event)

        asyncio.run(watch())
        return 0

    def by_command_line(self, stand: Stand, worker_id: str) -> int:
        command = [sys.executable, "-m", "handinger", "workers", "stream-updates", worker_id]
        with subprocess.Popen(
            [*command, "--format", "jsonl"],
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "HANDINGER_API_KEY": stand.server.key,
                "HANDINGER_BASE_URL": stand.server.base_url,
            },
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self.events.append(json.loads(line))
            return process.wait()

    def start(self, watch: Any, *arguments: Any) -> None:
        """Watch from now on."""

        def run() -> None:
            try:
                self.end.set_result(watch(self, *arguments))
            except BaseException as error:
                self.end.set_exception(error)

        threading.Thread(target=run, daemon=True).start()


def check_whole(events: list[dict[str, Any]], stored: dict[str, Any]) -> None:
    """The turn was told once, with what the dead server had said of it withdrawn at most."""
    fold = Fold()
    for event in events:
        if event["type"] != "data-message":
            fold.add(event)
    assert fold.terminal == {"type": "finish"}
    assert fold.parts[-1]["text"] == "".join(LINES)
    assert (fold.id, fold.parts) == (stored["id"], stored["parts"])


def test_a_server_that_dies_in_mid_stream_and_comes_back_is_no_end(stand: Stand) -> None:
    call = ToolCall("write_file", {"path": "poem.md", "content": "To come."})
    stand.model.script(
        "poem",
        [Step(tool_calls=[call]), Step(text=LINES, gate_after_chunks=(TOLD_BEFORE_DEATH, "half"))],
    )
    worker_id = stand.new_worker()
    first, *others = watchers = [Watcher(), Watcher(), Watcher()]
    first.start(Watcher.blocking, stand, worker_id)
    wait_for(lambda: first.events, "the turn to begin")
    others[0].start(Watcher.under_asyncio, stand, worker_id)
    others[1].start(Watcher.by_command_line, stand, worker_id)
    for each in watchers:
        wait_for(
            lambda each=each: LINES[TOLD_BEFORE_DEATH - 1] in each.text,
            "the first lines",
            timeout_s=60,
        )
    stand.kill()
    stand.model.open_gate("half")
    stand.start()
    assert [each.end.result(timeout=60) for each in watchers] == [0, 0, 0]
    stored = stand.get(worker_id).json()["messages"]
    for each in watchers:
        check_whole(each.events, stored[-1])
        said = [event["data"]["role"] for event in each.events if event["type"] == "data-message"]
        assert said == ([] if each is first else ["user", "assistant", "user"])
        assert len(set(each.ids)) == len(each.ids)
