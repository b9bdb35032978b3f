"""The completion of shells, in real ones: what the Tab key makes of the beginning of a command."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.support.terminal import Terminal

BIN = Path(sys.executable).parent


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Terminal]:
    """A person's shell that has the completion loaded, and waits for a command."""
    path = f"{BIN}:{os.environ['PATH']}"
    command = ["bash", "--norc", "--noprofile", "-i"]
    environment = {"PATH": path, "HOME": str(tmp_path), "PS1": "ready> ", "TERM": "dumb"}
    terminal = Terminal(command, environment, columns=200)
    terminal.read_until("ready> ")
    terminal.type('eval "$(handinger completion bash)" && echo "loaded: $?"\n')
    terminal.read_until("loaded: 0")
    terminal.read_until("0\r\nready> ")
    yield terminal
    terminal.close()


TYPED = {
    "handinger comple": "handinger completion ",
    "handinger workers retrieve-em": "handinger workers retrieve-email ",
    # The colon is part of the word.
    "handinger workers:s": "handinger workers:schedules ",
    "handinger workers:schedules cr": "handinger workers:schedules create ",
    "handinger workers create --inp": "handinger workers create --input ",
    "handinger workers create --budget unl": "handinger workers create --budget unlimited ",
    "handinger workers list --status run": "handinger workers list --status running ",
    # Nothing begins like this: the bell.
    "handinger nothing": "handinger nothing\x07",
}


def test_tab_completes_in_bash(bash: Terminal):
    for number, (typed, completed) in enumerate(TYPED.items()):
        bash.type(f"{typed}\t#{number}")
        bash.read_until(f"#{number}")
        assert f"{completed}#{number}" in bash.text
        bash.type("\x15")  # takes the line back


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_well_formed(cli: Cli, shell: str, tmp_path: Path):
    status, out, err = cli("completion", shell)
    assert (status, err) == (0, "")
    assert "workers:schedules" in out.replace("\\", "")
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(out)
        subprocess.run([shell, "-n", str(script)], check=True)
