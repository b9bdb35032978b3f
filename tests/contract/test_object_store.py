"""Files in an object store that speaks S3, through the whole server."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.test_commands import filenames, read, results_of, run
from tests.contract.test_uploads import post_form, text
from tests.contract.wire import Json, worker_in
from tests.contract.world import Api, Scripts, wait_until
from tests.support.hosts import require_sandboxes
from tests.support.model_server import ModelServer, Step, ToolCall
from tests.support.s3_server import S3Server
from tests.support.server import HandingerServer

# More than is sent in one request, and more than is held in memory.
LARGE = 20_000_000
UPLOADED = os.urandom(LARGE)


@pytest.fixture(scope="module")
def store() -> Iterator[S3Server]:
    with S3Server(page=2) as store:
        yield store


@pytest.fixture(scope="module")
def stored(new_server: StartServer, connect: Connect, store: S3Server) -> Api:
    """A server with its files there."""
    server = new_server(
        "stored",
        {
            "HANDINGER_STORAGE_URL": f"s3://{store.bucket}/some/folder",
            "HANDINGER_BLOB_GRACE_S": "1",
            **store.environment,
        },
    )
    return connect(server, server.key)


def objects_of(store: S3Server, worker: Json) -> set[str]:
    """The hashes of what a worker has there."""
    prefix = f"some/folder/{worker['id']}/"
    return {key.rpartition("/")[2] for key in [*store.objects] if key.startswith(prefix)}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def worker(stored: Api, scripts: Scripts) -> Json:
    """With a large file that came along, one that a tool wrote, and a copy that a command made."""
    require_sandboxes()
    steps = [
        Step(tool_calls=[ToolCall("write_file", {"path": "note.txt", "content": "noted"})]),
        Step(tool_calls=[run("cp inbox/large.bin copy.bin; echo more >> copy.bin; cat note.txt")]),
        Step(tool_calls=[ToolCall("publish_file", {"path": "inbox/large.bin"})]),
        Step(tool_calls=[ToolCall("read_file", {"path": "inbox/large.bin", "offset": LARGE - 4})]),
    ]
    instruction = scripts(*steps, Step(text="done")).input
    sent = [text("input", instruction), ("files", "large.bin", UPLOADED)]
    return worker_in(post_form(stored, "/api/workers", *sent))


def test_what_comes_along_what_is_written_and_what_commands_make_is_there(
    stored: Api, store: S3Server, worker: Json
):
    wrote, ran, published, shown = results_of(worker)
    assert "published" in wrote
    assert ran["stdout"] == "noted"
    assert published == "Published inbox/large.bin."
    assert shown.splitlines()[1] == f"{LARGE - 4:08x}  {UPLOADED[-4:].hex(' ')}"
    # No more is read of it than is shown, and its beginning, which tells what it is.
    assert store.ranges[-2:] == ["bytes=0-4095", f"bytes={LARGE - 4}-{LARGE - 1}"]
    assert filenames(worker) == ["copy.bin", "inbox/large.bin", "note.txt"]
    copy = UPLOADED + b"more\n"
    assert objects_of(store, worker) == {sha256(UPLOADED), sha256(copy), sha256(b"noted")}
    assert store.uploads == {}  # None was left half done.
    assert not (stored.server.data_dir / "blobs").exists()


def test_files_are_read_whole_and_in_ranges(stored: Api, store: S3Server, worker: Json):
    assert read(stored, worker, "inbox/large.bin") == UPLOADED
    assert read(stored, worker, "copy.bin") == UPLOADED + b"more\n"
    path = f"/api/workers/{worker['id']}/files/copy.bin"
    part = stored.client.get(path, headers={"Range": f"bytes={LARGE - 2}-"})
    assert (part.status_code, part.content) == (206, UPLOADED[-2:] + b"more\n")
    unchanged = stored.client.get(path, headers={"If-None-Match": part.headers["etag"]})
    assert unchanged.status_code == 304
    asked = len(store.seen)
    assert stored.client.head(path).headers["content-length"] == str(LARGE + 5)
    assert len(store.seen) == asked  # What the manifest knows need not be fetched.


def test_another_server_has_the_same_files(
    stored: Api, worker: Json, scripts: Scripts, model: ModelServer, tmp_path: Path
):
    (tmp_path / "data").mkdir()
    other = HandingerServer(
        tmp_path / "data",
        model_url=model.base_url,
        key=stored.key,
        environment=stored.server.environment
        | {"HANDINGER_DATA_DIR": str(tmp_path / "data"), "HANDINGER_SHUTDOWN_GRACE_S": "1"},
    ).start()
    stored.server.terminate()  # So that the turn cannot run there.
    try:
        with httpx2.Client(base_url=other.base_url, headers=other.headers, timeout=60) as client:
            asked = scripts(Step(tool_calls=[run("sha256sum copy.bin")]), Step(text="done"))
            answer = client.post(f"/api/workers/{worker['id']}", json={"input": asked.input})
            (ran,) = results_of(worker_in(answer))
            assert ran["stdout"].split() == [sha256(UPLOADED + b"more\n"), "copy.bin"]
    finally:
        other.close()
        stored.server.start()


def test_bytes_that_no_file_has_any_more_are_removed(
    stored: Api, store: S3Server, scripts: Scripts
):
    made = worker_in(stored.create(scripts(_write("one"), _write("two"), Step(text="done"))))
    wait_until(lambda: objects_of(store, made) == {sha256(b"two")})
    assert read(stored, made, "a.txt") == b"two"


def test_a_deleted_worker_leaves_nothing(stored: Api, store: S3Server, scripts: Scripts):
    """More objects than one answer to a list names."""
    writes = [_write(f"{number}", path=f"{number}.txt") for number in range(5)]
    made = worker_in(stored.create(scripts(*writes, Step(text="done"))))
    assert len(objects_of(store, made)) == 5
    assert stored.client.delete(f"/api/workers/{made['id']}").status_code == 200
    assert objects_of(store, made) == set()


def test_a_store_that_fails_is_told_and_costs_no_turn(
    stored: Api, store: S3Server, scripts: Scripts
):
    assert stored.client.get("/readyz").status_code == 200
    asked = scripts(_write("lost"), Step(text="went on"))
    store.failing = True
    try:
        assert "storage" in stored.client.get("/readyz").json()["problems"]
        made = worker_in(stored.create(asked))
    finally:
        store.failing = False
    (part,) = [part for part in made["messages"][-1]["parts"] if part["type"].startswith("tool-")]
    assert part["state"] == "output-error"
    assert store.secret not in part["errorText"]
    assert made["output_text"] == "went on"
    assert made["files"] == []


def test_nothing_is_had_without_the_secret(
    new_server: StartServer, connect: Connect, store: S3Server
):
    """That the tests above would notice a request that is not signed."""
    environment = store.environment | {"AWS_SECRET_ACCESS_KEY": "another"}
    url = f"s3://{store.bucket}"
    server = new_server("stranger", {"HANDINGER_STORAGE_URL": url, **environment})
    ready = connect(server, server.key).client.get("/readyz")
    assert "storage" in ready.json()["problems"]


def _write(content: str, *, path: str = "a.txt") -> Step:
    return Step(tool_calls=[ToolCall("write_file", {"path": path, "content": content})])
