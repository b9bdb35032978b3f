"""kill -9 while a command runs: it ends with the server, is not repeated, and leaves nothing."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durability.observing import wait_for
from tests.durability.stand import Stand, accept
from tests.support.hosts import require_sandboxes, runs
from tests.support.model_server import Step, ToolCall

WAIT_S = 30


@pytest.fixture
def sandboxes_in(stand: Stand) -> Iterator[Path]:
    """The stand's server keeps its sandboxes there."""
    require_sandboxes()
    above = Path(tempfile.mkdtemp(prefix="handinger-sandboxes-"))
    # The user that sandboxes run as must get through.
    above.chmod(0o711)
    folder = above / "sandboxes"
    before = dict(stand.server.environment)
    stand.server.environment["HANDINGER_SANDBOX_DIR"] = str(folder)
    stand.restart()
    yield folder
    stand.server.environment.clear()
    stand.server.environment.update(before)
    stand.restart()
    shutil.rmtree(above)


def test_a_command_dies_with_its_server_and_is_not_repeated(stand: Stand, sandboxes_in: Path):
    nap, detached = (f"sleep 98{n}.{secrets.randbelow(10**9)}" for n in (1, 2))
    command = f"echo kept > before.txt; setsid {detached} & {nap}"
    stand.model.script(
        "killed",
        [
            Step(tool_calls=[ToolCall("run_command", {"command": "echo 1 > finished.txt"})]),
            Step(tool_calls=[ToolCall("run_command", {"command": command})]),
            Step(text="done"),
        ],
    )
    worker_id = accept(stand.server, "", "[[script:killed]] Please.").json()["id"]
    wait_for(lambda: runs(nap) and runs(detached), "the command", timeout_s=WAIT_S)
    left = {folder.name for folder in sandboxes_in.iterdir()}
    assert left
    stand.kill()
    wait_for(lambda: not runs(nap) and not runs(detached), "its end", timeout_s=WAIT_S)
    stand.start()
    wait_for(lambda: not stand.get(worker_id).json()["running"], "the turn's end", timeout_s=WAIT_S)
    worker = stand.get(worker_id).json()
    first, second = (
        part for part in worker["messages"][-1]["parts"] if part["type"] == "tool-run_command"
    )
    assert first["output"]["exit_code"] == 0
    assert "outcome is unknown" in second["errorText"]
    assert [file["filename"] for file in worker["files"]] == ["finished.txt"]
    assert not runs(nap)
    assert not left & {folder.name for folder in sandboxes_in.iterdir()}
