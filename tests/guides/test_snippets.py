"""Every snippet of the guides runs, on a real server with the demo model.

The snippets of a page run in the order in which they stand, in one shell: what one sets, the next
one has. `bash` blocks are run as they are, `python` blocks by Python; a `text` block behind one is
what it prints (`...` stands for anything). `sh` blocks are for your own machine, and only read.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.server import HandingerServer

ROOT = Path(__file__).parents[2]

# Pages that are ready; every guide belongs here.
PAGES = [
    "docs/get-started.md",
    "docs/workers.md",
    "docs/streaming.md",
    "docs/python.md",
]

BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 100
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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandingerServer]:
    server = HandingerServer(tmp_path_factory.mktemp("guides") / "data")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_runs(page: str, server: HandingerServer, tmp_path: Path):
    found = snippets(page)
    run = [snippet for snippet in found if snippet.language in ("bash", "python")]
    assert run, "no snippet was found"
    script = "".join(
        f"{snippet.command}\necho '{MARK}{place}'\n" for place, snippet in enumerate(run)
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "HANDINGER_DATA_DIR": str(server.data_dir),
            "HANDINGER_BASE_URL": server.base_url,
            "HANDINGER_API_KEY": server.key,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    outputs = re.split(rf"{MARK}\d+\n", done.stdout)
    failed = run[min(len(outputs), len(run)) - 1]
    assert done.returncode == 0, f"{page}:{failed.line}\n{failed.text}\n{done.stderr[-3000:]}"
    for snippet, output in zip(run, outputs, strict=False):
        expected = _expected_after(snippet, found)
        if expected is not None:
            assert _pattern(expected).search(output), f"{page}:{snippet.line} printed\n{output}"


def _expected_after(snippet: Snippet, found: list[Snippet]) -> str | None:
    following = found[found.index(snippet) + 1 :]
    return following[0].text if following and following[0].language == "text" else None


def _pattern(expected: str) -> re.Pattern[str]:
    pieces = (re.escape(piece) for piece in expected.strip().split("..."))
    return re.compile(".*?".join(pieces), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
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
            case language:
                assert language in ("bash", "python", "text", "js", "mermaid")
