"""Every command in every format against a real server, word for word.

What differs from run to run (ids, times, ports) is replaced by its name. `UPDATE_GOLDEN=1 pytest
tests/cli/test_golden.py` writes the transcripts anew; read the difference before you commit it.
"""

import asyncio
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from handinger.cli import administration
from handinger.cli.main import run
from tests.cli.scene import ADD_NOTES, Scene, opened, typed

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
    "retrieve_email": ["workers retrieve-email $WORKER --format {format}"],
    "list": ["workers list --max-items 2 {these} --format {format}"],
    "turns": ["workers turns $WORKER --max-items 1 --format {format}"],
    "stream_updates": ["workers stream-updates $WORKER --format {format}"],
    "cancel": ["workers cancel $WORKER {few} --format {format}"],
    "delete": ["workers delete $SPARE --format {format}"],
    "schedules": [
        "workers:schedules create $LATER --input Go. --at 2039-05-01T09:00:00Z --format {format}",
        "workers:schedules create $LATER --input Go. --in 20m --budget low --format {format}",
        "workers:schedules create $LATER --input Go. --cron '0 9 29 2 *' "
        "--timezone Europe/Madrid --format {format}",
        "workers:schedules create $LATER --input Go. --every 1h --format {format}",
        "workers:schedules create $LATER --input Go. "
        "--when '{type: delayed, delayInSeconds: 600}' --format {format}",
        "workers:schedules list $LATER --format {format}",
        "workers:schedules list $LATER --max-items 1 --format {format}",
        "workers:schedules update $LATER $SCHEDULE --every 1d --pause --format {format}",
        "workers:schedules retrieve $LATER $SCHEDULE --format {format}",
        "workers:schedules cancel $LATER $SCHEDULE --format {format}",
    ],
    "emails": [
        "workers:emails list $MAILED --format {format}",
        "workers:emails list $MAILED --max-items 1 {mails} --format {format}",
    ],
    "usage": [
        "usage --group-by model --transform '{groupBy,keys:groups.#.key,balanceCredits}' "
        "--format {format}",
    ],
    "administration": [
        "keys list --format {format}",
        "orgs list --format {format}",
        "email list --format {format}",
        "credits show --format {format}",
        "budgets show --format {format}",
        "mcp list --format {format}",
        "prices a:b --format {format}",
    ],
    "failure": [
        "workers retrieve wrk_00000000000000000000000000000000 --format-error {format}",
        'workers create --input "" --format-error {format}',
    ],
}
ONCE = {
    "retrieve_file": [
        "workers retrieve-file $WORKER six.txt",
        "workers retrieve-file $WORKER six.txt -o -",
        "workers retrieve-file $WORKER six.txt --output copy.txt",
        "workers retrieve-file $WORKER seven.txt",
    ],
    "retrieve_mail": [
        "workers:emails list $MAILED --transform emails.#.subject",
        "workers:emails retrieve $MAILED $EMAIL",
        "workers:emails retrieve $MAILED $EMAIL -o mail.eml",
        "workers:emails retrieve $MAILED $EMAIL -o missing/mail.eml",
        "workers:emails retrieve $MAILED eml_00000000000000000000000000000000",
    ],
    "upload": [
        "workers create --input 'List your files.' --file notes.txt --file data/numbers.csv "
        "--transform output_text -r",
        "workers create --input 'List your files.' --file missing.txt",
        "workers create --input @notes.txt --transform output_text -r",
        "workers create --input - --metadata @team.yaml --transform '{output_text,metadata}'",
        "workers create --input - --metadata -",
        "workers retrieve @worker.txt --transform status -r",
    ],
    "background": [
        "workers create --input 'What is 1 + 1?' --background --transform '{running}'",
        "workers create --input 'What is 1 + 1?' --background --stream",
    ],
    "transform": [
        f"workers retrieve $WORKER {FEW}",
        "workers retrieve $WORKER --transform output_text -r",
        "workers list --max-items 2 --format jsonl --transform status",
        "workers retrieve $WORKER --transform missing",
        "workers retrieve $WORKER --transform a..b",
        "credits show --transform balanceCredits",
        "budgets show --transform '#.level'",
        "config --transform HANDINGER_EMAIL_DOMAIN -r",
    ],
    "chat": [f"chat $SPARE --format jsonl {FEW}"],
    "login": [
        "login --api-key $KEY",
        "logout",
        "logout",
        "login --api-key wrong",
    ],
    "making": [
        "keys create --name laptop --quiet --org nobody",
        "orgs create --name Research",
        "keys create --name ci --org Research",
        "keys list --org Research --transform '#.{name,revokedAt}'",
        "keys revoke $KEY_OF_RESEARCH --org Research",
        "keys list --org Research --transform '#.revokedAt'",
        "email allow ada@example.com *.example.org --org Research",
        "email disallow *.example.org --org Research",
        "email reset --org Research",
        "credits grant 5000 --note October --org Research",
        "credits show --org Research --format pretty",
        "credits unlimited --org Research",
        "budgets set low --usd 0.20 --model-calls none --org Research",
        "budgets reset low --org Research",
        "budgets cap 100 --org Research",
        "mcp add notes https://mcp.example.com/mcp --header X-Key=secret --org Research",
        "mcp remove notes --org Research",
        "mcp remove notes --org Research",
    ],
    "mcp_check": [
        "mcp check notes --format pretty",
        "mcp check notes --format jsonl --transform name",
        "mcp check other",
    ],
    "status": [
        "workers list --max-items 1 --transform workers.#",
        "workers retrieve $WORKER --format xml",
        "workers list --api-key hdg_live_of_nobody",
        "workers list --api-key hdg_live_00000000000000000000000000000000",
        "workers:schedules cancel $WORKER sch_00000000000000000000000000000000",
        "workers list --base-url http://127.0.0.1:1",
        "credits grant 1",
        "credits grant -1",
        "workers create --input 'What is 1 + 1?'",
        "workers create --input 'What is 1 + 1?' --stream",
        "credits unlimited",
    ],
    "unknown": [
        "worker list",
        "workers lst",
        "workers:schedules crate",
        "keys revke",
        "workers list --limt 3",
        "workers list --format xml",
        "workers retrieve",
    ],
}
CASES = [
    *(f"{name}.{format}" for name in EACH_FORMAT for format in FORMATS),
    *ONCE,
]
# How each format is written stands in one place for all commands: it is seen in the default run for
# an answer, a list, a stream and an error, and for every command in the slow one.
SHOWN = ("json", "pretty")
IN_ALL_FORMATS = ("retrieve", "list", "create_stream", "failure")
SLOW = {
    *(f"{name}.{format}" for name in EACH_FORMAT for format in FORMATS if format not in SHOWN),
    "mcp_check",  # loads all of the agent; `test_mcp` has the command too
} - {f"{name}.{format}" for name in IN_ALL_FORMATS for format in FORMATS}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with opened(tmp_path_factory.mktemp("golden")) as scene:
        assert run_in(scene, *ADD_NOTES) == 0
        yield scene


def run_in(scene: Scene, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        scene.enter(monkeypatch, scene.server.data_dir)
        return run(arguments)


@pytest.fixture
def environment(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene.enter(monkeypatch, tmp_path)
    monkeypatch.setenv("HANDINGER_PRICES", '{"a:b": {"input": 3, "output": 15}}')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "numbers.csv").write_text("1,2\n")
    (tmp_path / "notes.txt").write_text("What is 2 * 2?")
    (tmp_path / "team.yaml").write_text("team: blue\n")
    (tmp_path / "worker.txt").write_text(f"{scene.worker.id}\n")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES]
)
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
        "mails": "--transform " + ("status" if format == "jsonl" else "emails.#.status"),
    }
    told = ""
    known: dict[str, str] = {}
    for command in EACH_FORMAT[name] if format else ONCE[name]:
        for word, stands_for in words.items():
            command = command.replace(f"{{{word}}}", stands_for)
        told += _transcript(command, scene, capfd, monkeypatch, known)
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
    known: dict[str, str],
) -> str:
    arguments = [_filled(word, scene, known) for word in shlex.split(command)]
    capfd.readouterr()
    status = typed(arguments, monkeypatch, text="What is 3 * 3?\n")
    out, err = capfd.readouterr()
    beside = "".join(f"! {line}\n" for line in err.splitlines())
    return _named(f"$ handinger {command}\n{out}{beside}[{status}]\n\n", scene)


def _filled(word: str, scene: Scene, known: dict[str, str]) -> str:
    """What a word of a command stands for; `known` is what was named in this transcript before."""
    match word:
        case "$WORKER":
            return scene.worker.id
        case "$SPARE":
            return scene.spare()
        case "$LATER":
            return known.setdefault(word, scene.spare())
        case "$MAILED":
            known.setdefault("$EMAIL", scene.mail(worker := known.setdefault(word, scene.spare())))
            return worker
        case "$EMAIL":
            return known[word]
        case "$SCHEDULE":
            return scene.client.workers.schedules.list(known["$LATER"]).schedules[0].id
        case "$KEY":
            return scene.server.key
        case "$KEY_OF_RESEARCH":
            return asyncio.run(administration.list_keys("Research"))[0].id
        case _:
            return word


def _named(text: str, scene: Scene) -> str:
    """The text with names for what is never twice the same."""
    text = text.replace(scene.server.base_url, "http://SERVER").replace(scene.server.key, "$KEY")
    text = text.replace(scene.server.key[-4:], "HINT").replace("\r\n", "\n")
    seen: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        kind = match[1]
        count = sum(known.startswith(kind) for known in seen)
        return seen.setdefault(match[0], f"{kind}{count + 1}")

    # A text in deltas is of one type, however many there are.
    text = re.sub(r"(\"?text-delta\"?\n(\.\.\.\n)?(---\n)?)+", r"\1", text)
    text = re.sub(r"\b((?:wrk|trn|msg|sch|src|req|call|org|key|eml)_)[0-9a-zA-Z]{8,}", name, text)
    for pattern, stands_for in (
        (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "TIME"),
        (r"(created_at\W+)\d+", r"\1NUMBER"),
        (r"((durationMs|[a-z]+Tokens)\W+)\d+", r"\1NUMBER"),
        (r"\b\d+(\.\d)? (s|min|h)\b", "SPAN"),
        (r"[\d,]+ tokens", "NUMBER tokens"),
        (r"(trn_?\d+)-\d+(\.\d+)+", r"\1-PLACE"),
        (r"hdg_live_[\w-]{20,}", "KEY"),
        (r"(hint\W+)[\w-]{4}\b", r"\1HINT"),
        (r"worker\+\w+@", "worker+TOKEN@"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d", "MOMENT"),
        (r"/\S+/handinger/credentials", "FOLDER/handinger/credentials"),
        (r"demo_\d+_[0-9a-f]+", "demo_CALL"),
        (r"(nextCursor\W+)[\w=-]{8,}", r"\1CURSOR"),
        (r"(--cursor )[\w=-]+", r"\1CURSOR"),
        (r"(requestId\W+)\w[\w-]+", r"\1ID"),
        (r" +$", ""),
    ):
        text = re.sub(pattern, stands_for, text, flags=re.MULTILINE)
    return text
