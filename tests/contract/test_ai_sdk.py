"""The AI SDK itself reads our streams: the first releases of 5 and 6, which are the strictest."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.streams import Received, Stream, folded, stored_message, watch
from tests.contract.test_streaming import cancelled, failed, story
from tests.contract.wire import Json
from tests.contract.world import Api, Scripts

# The recorded turn of the streaming tests, as a fixture here too.
__all__ = ["story"]

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("package", ["ai-5", "ai-6"])]

SOURCES = Path(__file__).parent / "ai_sdk"
Read = Callable[[str, list[Received] | list[list[Json]]], Json]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """What a release of the AI SDK makes of these events; or its chat, of two streams."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("ai_sdk")
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    install = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.skip("the AI SDK could not be installed in time")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the AI SDK cannot be installed: {error.stderr.decode()[-300:]}")

    def read(package: str, told: list[Received] | list[list[Json]]) -> Json:
        received = [each for each in told if isinstance(each, Received)]
        recorded = "".join(
            f"id: {each.id}\ndata: {json.dumps(each.event, ensure_ascii=False)}\n\n"
            for each in received
        )
        result = subprocess.run(
            [node, "fold.mjs" if received else "page.mjs", package],
            cwd=folder,
            input=(recorded or json.dumps(told)).encode(),
            capture_output=True,
            timeout=30,
        )
        assert result.returncode == 0, result.stderr.decode()[-2000:]
        found: Any = json.loads(result.stdout)
        return found

    return read


def check_same_message(found: Json, stream: Stream, worker: Json) -> None:
    stored = stored_message(worker, folded(stream).id)
    message = found["message"]
    assert found["count"] == len(stream.received)
    assert (message["id"], message["role"]) == (stored["id"], stored["role"])
    parts = list(stored["parts"])
    if parts[-1] == {"type": "step-start"}:
        parts.pop()  # Its reader shows the start of a step once something follows.
    assert message["parts"] == parts
    assert stored["metadata"].items() >= message["metadata"].items()


def test_it_adds_up_a_turn_with_tools_to_our_stored_message(
    api: Api, read: Read, story: Stream, package: str
):
    found = read(package, story.received)
    check_same_message(found, story, api.worker(story.worker_id))
    assert found["errors"] == []


def test_it_adds_up_a_cancelled_turn(api: Api, scripts: Scripts, read: Read, package: str):
    stream = cancelled(api, scripts).read()
    found = read(package, stream.received)
    check_same_message(found, stream, api.worker(stream.worker_id))
    assert found["errors"] == []


def test_it_takes_a_failed_turn_for_an_error(api: Api, scripts: Scripts, read: Read, package: str):
    stream = failed(api, scripts).read()
    found = read(package, stream.received)
    worker = api.worker(stream.worker_id)
    check_same_message(found, stream, worker)
    assert found["errors"] == [worker["error"]["message"]]


def test_it_accepts_the_stream_of_an_idle_worker(api: Api, read: Read, story: Stream, package: str):
    idle = watch(api, story.worker_id).read()
    found = read(package, idle.received)
    assert (found["count"], found["errors"]) == (len(idle.received), [])


def test_a_page_that_is_told_of_a_retry_shows_only_what_stands(read: Read, package: str):
    """As docs/streaming.md says: stop, drop the message, resume."""
    start = {"type": "start", "messageId": "msg_1", "messageMetadata": {"workerId": "wrk_1"}}
    retry = {"type": "data-retry", "data": {"messageId": "msg_1"}, "transient": True}
    first = [start, *said("2", "Withdrawn words"), retry, *said("3", "New")]
    again = [start, *said("3", "New words"), {"type": "text-end", "id": "3"}, {"type": "finish"}]
    found = read(package, [first, again])
    assert found["errors"] == []
    assert found["status"] == "ready"
    assert [message["role"] for message in found["messages"]] == ["user", "assistant"]
    assert found["messages"][1]["parts"] == [
        {"type": "step-start"},
        {"type": "text", "text": "New words", "state": "done"},
    ]


def said(part: str, text: str) -> list[Json]:
    return [
        {"type": "start-step"},
        {"type": "text-start", "id": part},
        {"type": "text-delta", "id": part, "delta": text},
    ]


def test_it_would_refuse_what_is_not_in_its_vocabulary(read: Read, story: Stream, package: str):
    """So that a success above means something."""
    finish = story.received[-1]
    wrong = Received(finish.id, {**finish.event, "credits": 1})
    found = read(package, [*story.received[:-1], wrong])
    assert found["errors"] != []
