"""Connections that break at random bytes, before a real server: each event is told exactly once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handinger import Event
from handinger.cli.main import run
from handinger.sdk import exchange
from tests.sdk.faces import KEY, AsyncFace, Face, SyncFace
from tests.support.cutter import Cutter
from tests.support.fold import Fold
from tests.support.model_server import ModelServer, Step, ToolCall
from tests.support.server import HandingerServer

INPUT = "[[script:count]] Count."
WORDS = [f"word-{number} " for number in range(80)]
STEPS = [
    Step(
        reasoning=["First ", "a ", "note."],
        text=["I note ", "it."],
        tool_calls=[ToolCall("write_file", {"path": "note.md", "content": "words " * 40})],
        paced=True,
    ),
    Step(text=WORDS, chunk_delay_s=0.002, paced=True),
]
# From within the request to the end of the longest event.
MOST_BYTES = 9_000


@dataclass(frozen=True)
class Scene:
    model: ModelServer
    server: HandingerServer

    def worker(self, worker_id: str) -> dict[str, Any]:
        """As it stands in the end, asked for directly."""
        face = SyncFace(self.server.base_url)
        try:
            return face.call("retrieve", worker_id).to_dict()
        finally:
            face.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with ModelServer() as model:
        model.script("count", STEPS)
        folder = tmp_path_factory.mktemp("cut") / "data"
        server = HandingerServer(folder, model_url=model.base_url, key=KEY)
        try:
            yield Scene(model, server.start())
        finally:
            server.close()


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(exchange, "_LONGEST_DELAY_S", 0.01)


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> type[Face]:
    return request.param


def check_turn(events: list[dict[str, Any]], worker: dict[str, Any]) -> None:
    """The events are a whole turn without repetition, and add up to what is stored."""
    fold = Fold()
    for event in events:
        fold.add(event)
    assert fold.terminal == {"type": "finish"}
    assert fold.retries == 0
    texts = [part["text"] for part in fold.parts if part["type"] == "text"]
    assert texts == ["I note it.", "".join(WORDS)]
    stored = worker["messages"][-1]
    assert (fold.id, fold.parts) == (stored["id"], stored["parts"])


@pytest.mark.parametrize("seed", range(3))
def test_a_turn_is_told_once(scene: Scene, kind: type[Face], seed: int):
    with Cutter(scene.server.port, seed=seed, most_bytes=MOST_BYTES) as cutter:
        face = kind(cutter.base_url, max_retries=10)
        try:
            told, stream = face.stream("create", input=INPUT, stream=True)
        finally:
            face.close()
    ids = [event.id for event in told]
    assert len(set(ids)) == len(ids)
    worker = scene.worker(stream.worker_id)
    # However often the request was sent, it was one instruction.
    assert [message["role"] for message in worker["messages"]] == ["user", "assistant"]
    check_turn([event.data for event in told], worker)
    assert cutter.cuts > 0


@pytest.mark.parametrize("seed", range(10, 12))
def test_a_worker_is_told_once(scene: Scene, kind: type[Face], seed: int):
    """Its ended turns as messages, and the one that runs as events."""
    gate = f"{kind.__name__}-{seed}"
    scene.model.script(gate, [STEPS[0], Step(text=WORDS, gate_after_chunks=(9, gate), paced=True)])
    direct = SyncFace(scene.server.base_url)
    try:
        worker_id = direct.call("create", input=INPUT).id
        direct.call("continue_", worker_id, input=f"[[script:{gate}]] Count.", background=True)
    finally:
        direct.close()
    told: list[Event] = []

    def hear(event: Event) -> None:
        told.append(event)
        # The turn does not end before this reader has seen it run.
        if event.type == "start":
            scene.model.open_gate(gate)

    with Cutter(scene.server.port, seed=seed, most_bytes=MOST_BYTES) as cutter:
        face = kind(cutter.base_url, max_retries=10)
        try:
            face.call("wait", worker_id, on_event=hear)
        finally:
            face.close()
    ids = [event.id for event in told]
    assert len(set(ids)) == len(ids)
    worker = scene.worker(worker_id)
    messages = [event.data["data"] for event in told if event.type == "data-message"]
    assert messages == worker["messages"][:-1]
    check_turn([event.data for event in told if event.type != "data-message"], worker)
    assert cutter.cuts > 0


def test_the_command_line_tells_it_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HANDINGER_API_KEY", KEY)
    with Cutter(scene.server.port, seed=20, most_bytes=MOST_BYTES, spare_every=3) as cutter:
        monkeypatch.setenv("HANDINGER_BASE_URL", cutter.base_url)
        status = run(["workers", "create", "--input", INPUT, "--stream"])
    out, err = capfd.readouterr()
    assert (status, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    worker_id = next(event["data"]["id"] for event in events if event["type"] == "data-worker")
    check_turn(events, scene.worker(worker_id))
    assert cutter.cuts > 0
