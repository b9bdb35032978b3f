"""The published Python client of this API works against this server, unchanged."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.model_server import ModelServer, Step, ToolCall
from tests.support.server import HandingerServer

LOCK = Path(__file__).parents[2] / "requirements" / "public-client.lock"
SCRIPT = Path(__file__).with_name("public_client.py")


@pytest.fixture(scope="module")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the published client, and not this project."""
    folder = tmp_path_factory.mktemp("public-client") / "venv"
    uv = Path(sys.executable).with_name("uv")
    python = folder / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", LOCK],
        check=True,
    )
    return python


def test_the_published_client_does_all_that_it_can(client_python: Path, tmp_path: Path) -> None:
    with ModelServer() as model:
        call = ToolCall("write_file", {"path": "haiku.md", "content": "An old silent pond"})
        model.script("haiku", [Step(tool_calls=[call]), Step(text="It is in haiku.md.")])
        model.script("more", [Step(text="A frog jumps in.")])
        server = HandingerServer(
            tmp_path / "data",
            model_url=model.base_url,
            environment={"HANDINGER_EMAIL_DOMAIN": "workers.example.org"},
        )
        try:
            server.start()
            seen = json.loads(
                subprocess.run(
                    [client_python, SCRIPT, server.base_url, server.key],
                    check=True,
                    capture_output=True,
                    timeout=120,
                    cwd=tmp_path,
                ).stdout
            )
        finally:
            server.close()

    assert seen["created"]["output_text"] == "It is in haiku.md."
    assert seen["created"]["status"] == "completed"
    assert [file["filename"] for file in seen["created"]["files"]] == ["haiku.md"]
    assert seen["retrieved"] == seen["created"]
    assert seen["continued"]["id"] == seen["created"]["id"]
    assert seen["continued"]["output_text"] == "A frog jumps in."
    assert len(seen["continued"]["messages"]) == 4
    assert seen["file"] == "An old silent pond"
    # This client gives texts as they came, and the address comes as JSON.
    assert re.fullmatch(r"worker\+\w+@workers\.example\.org", json.loads(seen["email"]))
    assert seen["errors"] == [
        "NotFoundError",
        "UnprocessableEntityError",
        "AuthenticationError",
        "NotFoundError",
        "NotFoundError",
    ]
    assert [update["type"] for update in seen["updates"]] == ["data-message"] * 4 + ["data-worker"]
    assert seen["updates"][-1]["data"]["output_text"] == "A frog jumps in."

    schedules = seen["schedules"]
    made = schedules["made"]
    assert [one["type"] for one in made] == ["delayed", "interval", "scheduled", "cron"]
    assert (made[0]["delayInSeconds"], made[1]["intervalSeconds"]) == (7200, 86_400)
    assert (made[3]["cron"], made[3]["timezone"]) == ("0 9 * * MON", "UTC")
    listed = schedules["listed"]
    assert listed["workerId"] == seen["created"]["id"]
    assert listed["schedules"] == sorted(made, key=lambda one: one["nextRunAt"])
    assert schedules["cancelled"] == [True] * 4
    assert schedules["left"] == 0

    assert seen["raw"]["parsed"][:4] == ["Worker", "Worker", "Worker", "str"]
    assert len(seen["raw"]["parsed"]) == 8
    assert seen["raw"]["named"]
    streamed = seen["streamed"]
    assert (streamed["created"][0], streamed["created"][-2:]) == (
        "start",
        ["data-worker", "finish"],
    )
    assert (streamed["continued"], streamed["copy"]) == ("finish", "An old silent pond")

    other = seen["async"]
    assert other["texts"] == ["It is in haiku.md.", "A frog jumps in.", "A frog jumps in."]
    assert (other["updates"], other["file"]) == (5, "An old silent pond")
    assert json.loads(other["email"]).endswith("@workers.example.org")
    assert other["schedules"] == [True, True]
