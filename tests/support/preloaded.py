"""Server processes forked from one that has imported everything, which takes seconds to do anew.

What runs in them is `handinger serve`, from its entry point on. Whoever adds to what is preloaded
must see that no import starts a thread, which a fork would lose.
"""

import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TypeVar

Argument = TypeVar("Argument")

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(
    [
        "handinger.cli.main",
        "handinger.cli.serve",
        "handinger.server",
        "handinger.storage.tables",
        "alembic.command",
        "handinger.agent.demo",
        "handinger.agent.openai_client",
        "genai_prices.data",
        "openai.resources.chat",
        "openai.resources.responses",
        "pydantic_ai.providers.openai",
        "tests.support.preloaded",
    ]
)


def nothing() -> None:
    """Needs no preparation."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a process is to run, and where."""

    arguments: list[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path  # what it says is added to it
    # Called first, in the new process: a function of a module, which may change constants.
    prepare: Callable[[], None] = nothing


def start(command: Command) -> ForkServerProcess:
    """Run `handinger` in a process of its own, which ends with this one at the latest."""
    return fork(_run, command)


def fork(act: Callable[[Argument], None], argument: Argument) -> ForkServerProcess:
    """Call a function of a module in a process of its own, which does not outlive this one."""
    process = _forking.Process(target=act, args=(argument,), daemon=True)
    process.start()
    return process


def _run(command: Command) -> None:
    gc.freeze()  # What is preloaded is no garbage, and to look at it is to copy its memory.
    os.environ.clear()
    os.environ.update(command.environment)
    os.chdir(command.folder)
    written = os.open(command.log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(written, stream.fileno())
    os.close(written)
    sys.argv = ["handinger", *command.arguments]
    command.prepare()

    from handinger.cli.main import main

    main()
