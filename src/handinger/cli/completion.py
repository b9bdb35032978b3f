"""`handinger completion`: the scripts that shells complete commands with."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

# Bash takes a colon for the end of a word, and would never see `workers:schedules`.
_WHOLE_WORDS = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n"
# As it is made, the script for zsh only defines a function. This puts it to use: by `eval`, which
# may come before the shell has started its completion, and as a file of that name in `fpath`.
_IN_USE = """
if [[ "$funcstack[1]" == _cyclopts_handinger ]]; then
  _cyclopts_handinger "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
  compdef _cyclopts_handinger handinger
fi
"""
# No command is called like a file that happens to be here.
_NO_FILES = "complete -c handinger -n __fish_use_subcommand -f\n"


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Which shell.")],
) -> None:
    """Print what makes your shell complete commands and options.

    For bash and zsh, put eval "$(handinger completion bash)" into the shell's start-up file; for
    fish, write it to ~/.config/fish/completions/handinger.fish.
    """
    from handinger.cli.main import app

    script = app.meta.generate_completion(prog_name="handinger", shell=shell)
    before, after = {"bash": (_WHOLE_WORDS, ""), "zsh": ("", _IN_USE), "fish": ("", _NO_FILES)}[
        shell
    ]
    sys.stdout.write(before + script + after)
