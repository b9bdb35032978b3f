"""Bytes as they are, of files and of mails: into a file, into a pipe, or as text in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from handinger.cli import output, wording
from handinger.cli.failures import CommandError

Target: TypeAlias = Annotated[
    Path | None, Parameter(name=("--output", "-o"), help="Write it here, not to the output.")
]


def is_file(target: Path | None) -> bool:
    """Whether it is none of the ways to name the output."""
    return target is not None and str(target) != "@-"


def is_for_a_person(target: Path | None) -> bool:
    """Whether it goes to a terminal, and nobody has said that it shall go there as it is."""
    return target is None and sys.stdout.isatty()


@contextmanager
def writing(target: Path) -> Generator[None]:
    """Ends the command with one line if the file cannot be written in this block."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}.") from error


def told(target: Path, size_bytes: int) -> None:
    """Say that it is there."""
    output.note(f"Wrote {target} ({wording.bytes_size(size_bytes)}).")


def print_text(content: bytes) -> None:
    """For a terminal, which it must not steer. Raises CommandError for what is no text."""
    if b"\0" in content:
        raise CommandError("The file is not text; use --output FILE.")
    sys.stdout.write(wording.printable(content.decode(errors="replace")))
