"""Turns on a real server with a scripted model: those that fail, and what a person sees of one."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.scene import typed
from tests.cli.test_live import command, surroundings
from tests.sdk.faces import KEY
from tests.support.model_server import HttpError, ModelServer, Step, ToolCall
from tests.support.server import HandingerServer
from tests.support.terminal import Screen, has_tmux

BROKEN = "[[script:broken]] Go."
WORKS = "[[script:works]] Go."


@dataclass(frozen=True)
class Scene:
    model: ModelServer
    server: HandingerServer


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with ModelServer() as model:
        model.script("broken", [Step(fail_always=HttpError(400, body="no such parameter"))])
        model.script("works", [Step(text="It works.")])
        folder = tmp_path_factory.mktemp("turns") / "data"
        server = HandingerServer(folder, model_url=model.base_url, key=KEY)
        try:
            yield Scene(model, server.start())
        finally:
            server.close()


@pytest.fixture(autouse=True)
def environment(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HANDINGER_API_KEY", KEY)
    monkeypatch.setenv("HANDINGER_BASE_URL", scene.server.base_url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_a_failed_turn_is_status_1_and_the_next_one_works(cli: Cli):
    status, out, err = cli("workers", "create", "--input", BROKEN)
    worker = json.loads(out)
    assert (status, worker["error"]["code"]) == (1, "model_error")
    assert re.fullmatch(r"error: model_error: The model failed: .*no such parameter.*\n", err)
    # To look at it is no failure.
    assert cli("workers", "retrieve", worker["id"])[0] == 0
    status, out, err = cli("workers", "continue", worker["id"], "--input", WORKS)
    assert (status, json.loads(out)["output_text"], err) == (0, "It works.", "")


@pytest.mark.parametrize("format", ["auto", "raw", "pretty"])
def test_a_failed_turn_in_a_stream_is_status_1(cli: Cli, format: str):
    arguments = ["workers", "create", "--input", BROKEN, "--stream", "--format", format]
    status, out, err = cli(*arguments)
    assert status == 1
    assert "The model failed: " in (out if format == "pretty" else err)
    assert "no such parameter" in out


def test_programs_are_told_why_it_failed(cli: Cli):
    _, _, err = cli("workers", "create", "--input", BROKEN, "--format-error", "jsonl")
    told = json.loads(err)
    assert (told["code"], told["exitStatus"]) == ("model_error", 1)


def test_a_failed_turn_ends_a_piped_chat(monkeypatch: pytest.MonkeyPatch, scene: Scene, cli: Cli):
    text = f"{WORKS}\n{BROKEN}\n{WORKS}\n"
    assert typed(["chat", "--format", "jsonl"], monkeypatch, text=text) == 1
    status, out, _ = cli("workers", "list", "--max-items", "1", "--transform", "workers.0.id", "-r")
    assert status == 0
    turns = cli("workers", "turns", out.split()[-1], "--transform", "turns.#.error.code")[1]
    assert json.loads(turns) == ["model_error"]


@pytest.mark.skipif(not has_tmux(), reason="tmux is not installed")
@pytest.mark.parametrize(("columns", "rows"), [(120, 30), (40, 24)], ids=["wide", "narrow"])
def test_a_person_sees_the_turn_while_it_runs(
    scene: Scene, tmp_path: Path, columns: int, rows: int
):
    name = f"watched-{columns}"
    call = ToolCall("write_file", {"path": "note.md", "content": "Noted."})
    text = ["I have ", "written ", "it."]
    steps = [
        Step(text="First the note.", tool_calls=[call], gate=f"{name}-tool"),
        Step(text=text, gate_after_chunks=(2, f"{name}-text"), paced=True),
    ]
    scene.model.script(name, steps)
    arguments = ("workers", "create", "--input", f"[[script:{name}]] Go.", "--budget", "low")
    place = surroundings(scene.server.base_url)
    with Screen(command(*arguments), place, columns=columns, rows=rows, folder=tmp_path) as screen:
        screen.wait_for("working  o opens tools", "1 call of 4 · $0.00 of $0.0500")
        scene.model.open_gate(f"{name}-tool")
        # The text that grows is there before it is whole, and the tool that is done stays.
        shown = screen.wait_for("✓ write_file", "I have written", "2 calls of 4")
        assert not any("it." in line for line in shown)
        scene.model.open_gate(f"{name}-text")
        shown = screen.wait_for("[0]")
    whole = "".join(line.ljust(columns) if line else " " for line in shown)
    assert "I have written it." in whole
    assert not any("working" in line for line in shown)
    host = re.escape(scene.server.base_url)
    assert re.search(rf"file  note\.md  6 B  {host}/api/workers/wrk_\w+/files/note\.md", whole)
    assert re.search(r"openai-chat:scripted · 2 steps · [\d,]+ tokens · \$0\.00 · \d+\.\d s", whole)
    assert re.search(r'continue: handinger workers continue wrk_\w+ --input "\.\.\."', whole)
