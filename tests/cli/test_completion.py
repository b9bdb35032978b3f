"""The completion of shells, in real ones: what the Tab key makes of the beginning of a command."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.support.terminal import Terminal

EVAL = 'eval "$(handinger completion {shell})"\n'
# How a person starts each, without the settings of this machine, and has it load the completion.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], EVAL),
    "zsh": (["zsh", "-f", "-i"], EVAL),
    "fish": (["fish", "-i"], ""),
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, commands: Path, tmp_path: Path) -> Iterator[Terminal]:
    """A person's shell that has the completion loaded, and waits for a command."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "xterm" if name == "fish" else "dumb",
        "LC_ALL": "C.UTF-8",
    }
    if name == "fish":
        script = tmp_path / ".config" / "fish" / "completions" / "handinger.fish"
        script.parent.mkdir(parents=True)
        made = ["handinger", "completion", "fish"]
        script.write_bytes(subprocess.run(made, env=environment, stdout=-1, check=True).stdout)
    start, load = SHELLS[name]
    terminal = Terminal(start, environment, columns=200)
    terminal.type(load.format(shell=name))
    terminal.type("printf '%s,' it is ready\n")
    terminal.read_until("it,is,ready,")
    yield terminal
    terminal.close()


TYPED = {
    "handinger comple": "handinger completion",
    "handinger workers retrieve-em": "handinger workers retrieve-email",
    # The colon is part of the word.
    "handinger workers:s": "handinger workers:schedules",
    "handinger workers:schedules cr": "handinger workers:schedules create",
    "handinger workers create --inp": "handinger workers create --input",
    "handinger workers create --budget unl": "handinger workers create --budget unlimited",
    "handinger workers list --status run": "handinger workers list --status running",
    # Nothing begins like this.
    "handinger nothing": "handinger nothing",
}


def test_tab_completes(shell: Terminal):
    for number, (typed, completed) in enumerate(TYPED.items()):
        # From the beginning of the line on, the command becomes what another one prints.
        shell.type(f"{typed}\t\x01printf '%s,' \x05 {number} end\n")
        shell.read_until(f",{number},end,")
        assert ",".join([*completed.split(), str(number), "end,"]) in shell.text


@pytest.mark.parametrize("shell_name", ["zsh", "fish"])
def test_the_scripts_of_other_shells_name_the_commands(cli: Cli, shell_name: str):
    if shutil.which(shell_name) is not None:
        pytest.skip("the shell itself is asked")
    status, out, err = cli("completion", shell_name)
    assert (status, err) == (0, "")
    assert "workers:schedules" in out.replace("\\", "")
