"""`handinger completion`: the scripts that shells complete commands with."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

# Bash takes a colon for the end of a word, and would never see `workers:schedules`.
_WHOLE_WORDS = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n"


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Which shell.")],
) -> None:
    """Print what makes your shell complete commands and options.

    For bash and zsh, put eval "$(handinger completion bash)" into the shell's start-up file; for
    fish, write it to ~/.config/fish/completions/handinger.fish.
    """
    from handinger.cli.main import app

    script = app.meta.generate_completion(prog_name="handinger", shell=shell)
    sys.stdout.write((_WHOLE_WORDS if shell == "bash" else "") + script)
