"""Every snippet of the guides runs, on a real server with the demo model.

The snippets of a page run in the order in which they stand, in one shell: what one sets, the next
one has. `bash` blocks are run as they are, `python` blocks by Python; a `text` block behind one is
what it prints (`...` stands for anything). `sh` blocks are for your own machine, and only read.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.email.sink import Sink
from tests.support.server import HandingerServer, free_port

ROOT = Path(__file__).parents[2]

GUIDES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))

BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 100
# What the person knows who started the server.
OF_THE_OPERATOR = ["HANDINGER_SMTP_LISTEN", "HANDINGER_INBOUND_EMAIL_SECRET"]
MARK = "::end of snippet::"


@dataclass(frozen=True)
class Snippet:
    line: int
    language: str
    text: str

    @property
    def command(self) -> str:
        """As a shell runs it."""
        if self.language == "python":
            return f"python -W error - <<'END_OF_SNIPPET'\n{self.text}END_OF_SNIPPET\n"
        return self.text


def snippets(page: str) -> list[Snippet]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Snippet(
            text.count("\n", 0, block.start()) + 1,
            block[2],
            re.sub(f"^{block[1]}", "", block[3], flags=re.MULTILINE),
        )
        for block in BLOCK.finditer(text)
    ]


PAGES = [
    page
    for page in GUIDES
    if any(snippet.language in ("bash", "python") for snippet in snippets(page))
]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandingerServer]:
    with Sink() as mail_server:
        environment = {
            "HANDINGER_EMAIL_DOMAIN": "workers.example.org",
            "HANDINGER_EMAIL_VERIFY": "false",
            "HANDINGER_SMTP_LISTEN": f"127.0.0.1:{free_port()}",
            "HANDINGER_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
            "HANDINGER_INBOUND_EMAIL_SECRET": "secret-of-the-provider-" + "0" * 20,
        }
        folder = tmp_path_factory.mktemp("guides") / "data"
        server = HandingerServer(folder, environment=environment)
        try:
            yield server.start()
        finally:
            server.close()


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_runs(page: str, server: HandingerServer, commands: Path, tmp_path: Path):
    found = snippets(page)
    run = [snippet for snippet in found if snippet.language in ("bash", "python")]
    script = "".join(
        f"{snippet.command}\necho '{MARK}{place}'\n" for place, snippet in enumerate(run)
    )
    done = paste(script, server, commands, tmp_path)
    outputs = re.split(rf"{MARK}\d+\n", done.stdout)
    failed = run[min(len(outputs), len(run)) - 1]
    assert done.returncode == 0, f"{page}:{failed.line}\n{failed.text}\n{done.stderr[-3000:]}"
    for snippet, output in zip(run, outputs, strict=False):
        expected = _expected_after(snippet, found)
        if expected is None:
            # curl is content with every answer.
            assert '{"error":"' not in output, f"{page}:{snippet.line} printed\n{output}"
        else:
            assert _pattern(expected).search(output), f"{page}:{snippet.line} printed\n{output}"


def paste(
    script: str, server: HandingerServer, commands: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Have a shell run it that knows where the server is, and its key."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(folder),
            "HANDINGER_DATA_DIR": str(server.data_dir),
            "HANDINGER_BASE_URL": server.base_url,
            "HANDINGER_API_KEY": server.key,
            **{name: server.environment[name] for name in OF_THE_OPERATOR},
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_the_tour_works_as_it_is_pasted(server: HandingerServer, commands: Path, tmp_path: Path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tour = readme.partition("\n## A 60-second tour\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", tour, flags=re.DOTALL)
    pasted = paste("\n".join(blocks), server, commands, tmp_path)
    assert pasted.returncode == 0, pasted.stderr
    for expected in (
        "`12.5% of 240` = 30",  # the answer to the first instruction, and the file that it wrote
        '"type":"finish"',  # the stream of the second
        "2 ** 20` = 1048576",  # by the SDK
        "17 * 23` = 391",  # by the command line
    ):
        assert expected in pasted.stdout


def _expected_after(snippet: Snippet, found: list[Snippet]) -> str | None:
    following = found[found.index(snippet) + 1 :]
    return following[0].text if following and following[0].language == "text" else None


def _pattern(expected: str) -> re.Pattern[str]:
    pieces = (re.escape(piece) for piece in expected.strip().split("..."))
    return re.compile(".*?".join(pieces), re.DOTALL)


def test_the_guides_have_snippets():
    guides = [
        "get-started",
        "workers",
        "streaming",
        "files",
        "budgets",
        "schedules",
        "email",
        "self-hosting",
    ]
    others = ["self-hosting", "cli", "python", "http-api"]
    assert {f"docs/{name}.md" for name in [*guides, *others]} <= set(PAGES)


@pytest.mark.parametrize("page", GUIDES)
def test_what_is_not_run_is_at_least_well_formed(page: str):
    for snippet in snippets(page):
        match snippet.language:
            case "sh":
                checked = subprocess.run(
                    ["bash", "-n"], input=snippet.text, text=True, capture_output=True, check=False
                )
                assert checked.returncode == 0, f"{page}:{snippet.line} {checked.stderr}"
            case "json":
                json.loads(snippet.text)
            case "yaml":
                yaml.safe_load(snippet.text)
            case language:
                assert language in ("bash", "python", "text", "js", "mermaid")
