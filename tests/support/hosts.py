"""What a test needs of the host that not every host has."""

import asyncio
import functools
import subprocess
import tempfile

import pytest

from handinger import settings
from handinger.sandbox.survey import examine


@functools.cache
def _why_no_sandboxes() -> str:
    with tempfile.TemporaryDirectory() as data_dir:
        found = asyncio.run(examine(settings.load(data_dir=data_dir)))
    return "" if found.host is not None else found.trouble


def require_sandboxes() -> None:
    """Skip the test where commands truly cannot run, and say why."""
    if why := _why_no_sandboxes():
        pytest.skip(why)


def runs(command: str) -> bool:
    """Whether a process with this command line runs anywhere on this host."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True, text=True)
    return command in listed.stdout.splitlines()
