"""Every command in every format against a real server, word for word.

What differs from run to run (ids, times, ports) is replaced by its name. `UPDATE_GOLDEN=1 pytest
tests/cli/test_golden.py` writes the transcripts anew; read the difference before you commit it.
"""

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handinger import Handinger
from handinger.cli.main import run
from tests.support.server import HandingerServer

GOLDEN = Path(__file__).with_name("golden")
FORMATS = ("json", "jsonl", "yaml", "raw", "pretty")

# A worker has many fields; that all of them are printed is seen once, in `retrieve`.
FEW = "--transform '{id,status,output_text,files:files.#.filename}'"
THESE = {"jsonl": "--transform id", "pretty": ""}

EACH_FORMAT = {
    "create": [
        'workers create --input "What is 6 * 7? Write it to a.txt." {few} --format {format}'
    ],
    "create_stream": ['workers create --input "What is 6 * 7?" --stream {type} --format {format}'],
    "continue": ['workers continue $SPARE --input "And 2 + 2?" {few} --format {format}'],
    "retrieve": ["workers retrieve $WORKER --format {format}"],
    "list": ["workers list --max-items 2 {these} --format {format}"],
    "turns": ["workers turns $WORKER --max-items 1 --format {format}"],
    "stream_updates": ["workers stream-updates $WORKER --format {format}"],
    "cancel": ["workers cancel $WORKER {few} --format {format}"],
    "delete": ["workers delete $SPARE --format {format}"],
    "failure": [
        "workers retrieve wrk_00000000000000000000000000000000 --format-error {format}",
        'workers create --input "" --format-error {format}',
    ],
}
ONCE = {
    "retrieve_file": ["workers retrieve-file $WORKER six.txt"],
    "transform": [
        f"workers retrieve $WORKER {FEW}",
        "workers retrieve $WORKER --transform output_text -r",
        "workers list --max-items 2 --format jsonl --transform status",
        "workers retrieve $WORKER --transform missing",
        "workers retrieve $WORKER --transform a..b",
    ],
    "chat": [f"chat $SPARE --format jsonl {FEW}"],
    "unknown": [
        "worker list",
        "workers lst",
        "workers list --limt 3",
        "workers list --format xml",
        "workers retrieve",
    ],
}
CASES = [
    *(f"{name}.{format}" for name in EACH_FORMAT for format in FORMATS),
    *ONCE,
]


@dataclass
class Scene:
    """A server with a worker that has done something."""

    server: HandingerServer
    client: Handinger
    worker_id: str


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    server = HandingerServer(tmp_path_factory.mktemp("golden") / "data")
    server.start()
    with Handinger(api_key=server.key, base_url=server.base_url) as client:
        worker = client.workers.create(input="What is 6 * 7? Write it to six.txt.")
        yield Scene(server, client, worker.id)
    server.close()


@pytest.fixture
def environment(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HANDINGER_API_KEY", scene.server.key)
    monkeypatch.setenv("HANDINGER_BASE_URL", scene.server.base_url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TZ", "UTC")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("case", CASES)
def test_a_transcript_is_as_it_was(
    case: str, scene: Scene, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    name, _, format = case.partition(".")
    if name == "list":
        for _ in range(2):
            scene.client.workers.create(input="What is 1 + 1?")
    words = {
        "format": format,
        "few": "" if format == "pretty" else FEW,
        # How a text is cut into deltas may differ from run to run.
        "type": "" if format == "pretty" else "--transform type",
        "these": THESE.get(format, "--transform workers.#.id"),
    }
    told = ""
    for command in EACH_FORMAT[name] if format else ONCE[name]:
        for word, stands_for in words.items():
            command = command.replace(f"{{{word}}}", stands_for)
        told += _transcript(command, scene, capfd, monkeypatch)
    path = GOLDEN / f"{case}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(told, encoding="utf-8")
    assert told == path.read_text(encoding="utf-8")


def test_no_transcript_is_left_over():
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


def _transcript(
    command: str,
    scene: Scene,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    arguments = [_filled(word, scene) for word in shlex.split(command)]
    capfd.readouterr()
    read_end, write_end = os.pipe()
    os.write(write_end, b"What is 3 * 3?\n")
    os.close(write_end)
    with os.fdopen(read_end) as typed:
        monkeypatch.setattr("sys.stdin", typed)
        status = run(arguments)
    out, err = capfd.readouterr()
    beside = "".join(f"! {line}\n" for line in err.splitlines())
    return _named(f"$ handinger {command}\n{out}{beside}[{status}]\n\n", scene)


def _filled(word: str, scene: Scene) -> str:
    match word:
        case "$WORKER":
            return scene.worker_id
        case "$SPARE":
            return scene.client.workers.create(input="What is 1 + 1?").id
        case "$SCHEDULE":
            return scene.client.workers.schedules.list(scene.worker_id).schedules[0].id
        case _:
            return word


def _named(text: str, scene: Scene) -> str:
    """The text with names for what is never twice the same."""
    text = text.replace(scene.server.base_url, "http://SERVER")
    seen: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        kind = match[1]
        count = sum(known.startswith(kind) for known in seen)
        return seen.setdefault(match[0], f"{kind}{count + 1}")

    # A text in deltas is of one type, however many there are.
    text = re.sub(r"(\"?text-delta\"?\n(---\n)?)+", r"\1", text)
    text = re.sub(r"\b((?:wrk|trn|msg|sch|src|req|call)_)[0-9a-zA-Z]{8,}", name, text)
    for pattern, stands_for in (
        (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "TIME"),
        (r"(created_at\W+)\d+", r"\1NUMBER"),
        (r"((durationMs|[a-z]+Tokens)\W+)\d+", r"\1NUMBER"),
        (r"\b\d+(\.\d)? (s|min|h)\b", "SPAN"),
        (r"[\d,]+ tokens", "NUMBER tokens"),
        (r"(trn_?\d+)-\d+(\.\d+)+", r"\1-PLACE"),
        (r"demo_\d+_[0-9a-f]+", "demo_CALL"),
        (r"(nextCursor\W+)[\w=-]{8,}", r"\1CURSOR"),
        (r"(--cursor )[\w=-]+", r"\1CURSOR"),
        (r"(requestId\W+)\w[\w-]+", r"\1ID"),
        (r" +$", ""),
    ):
        text = re.sub(pattern, stands_for, text, flags=re.MULTILINE)
    return text
