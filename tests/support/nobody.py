"""Calls as an ordinary user, also where the tests run as root."""

import json
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handinger.sandbox.folders import remove_tree

_NOBODY = 65534


def as_ordinary_user(call: Callable[[], Any]) -> Any:
    """What it returns, which has to fit into JSON."""
    if os.geteuid() != 0:
        return call()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            os.write(writer, json.dumps(call()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, "the call failed"
    return json.loads(told)


@contextmanager
def ordinary_folder() -> Generator[Path]:
    """A folder that belongs to this user, who can get there."""
    way = Path(tempfile.mkdtemp(prefix="handinger-ordinary-"))
    way.chmod(0o711)
    folder = way / "folder"
    folder.mkdir()
    os.chown(folder, os.geteuid() or _NOBODY, -1)
    yield folder
    remove_tree(way)
