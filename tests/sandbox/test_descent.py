"""Walks through folders as programs make them that want nobody to come through."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handinger.sandbox.descent import Descent
from handinger.sandbox.folders import remove_tree
from handinger.sandbox.sandbox import usage
from tests.support.nobody import as_ordinary_user, ordinary_folder

PLENTY = 1 << 40
LEVELS = 1200

MAKE_DEEP = """
import os, sys
for _ in range(int(sys.argv[1])):
    os.mkdir("d" * 50)
    os.chdir("d" * 50)
open("bottom", "wb").write(bytes(9000))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with ordinary_folder() as folder:
        yield folder


@pytest.fixture
def deep(folder: Path) -> Path:
    subprocess.run([sys.executable, "-c", MAKE_DEEP, str(LEVELS)], cwd=folder, check=True)
    return folder


def test_what_lies_deeper_than_a_path_can_say_is_counted(deep: Path):
    counted = usage(deep, PLENTY, PLENTY)
    assert counted is not None
    assert counted[0] >= 9000
    assert counted[1] == LEVELS + 1


def test_few_descriptors_are_open_and_the_way_back_is_found(deep: Path):
    (deep / "beside").mkdir()
    seen = 0
    with Descent(deep) as at:
        at.wait(["beside", "d" * 50])
        before = most = len(os.listdir("/proc/self/fd"))
        while (name := at.next()) is not None:
            at.enter(name)
            at.wait(name for name in os.listdir(at.descriptor) if name != "bottom")
            seen += 1
            most = max(most, len(os.listdir("/proc/self/fd")))
    assert seen == LEVELS + 1
    assert most - before < 50


def test_a_way_back_that_was_moved_is_told(deep: Path, tmp_path: Path):
    with Descent(deep) as at:
        at.wait(["d" * 50, "never reached"])
        for _ in range(100):
            at.enter("d" * 50)
        inner = Path(*["d" * 50] * 30)
        (tmp_path / "elsewhere").mkdir()
        (deep / inner).rename(tmp_path / "elsewhere" / "moved")
        with pytest.raises(OSError, match="moved away"):
            at.next()
    remove_tree(tmp_path / "elsewhere")


def test_links_are_not_entered(folder: Path):
    (folder / "link").symlink_to("/usr")
    with Descent(folder) as at, pytest.raises(NotADirectoryError):
        at.enter("link")
    assert usage(folder, PLENTY, PLENTY) == (0, 1)


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400, 0o600])
def test_what_is_in_a_folder_that_nobody_may_look_into_is_counted(folder: Path, mode: int):
    def count() -> object:
        locked = folder / "locked"
        locked.mkdir()
        (locked / "file").write_bytes(bytes(9_000_000))
        locked.chmod(mode)
        return usage(folder, PLENTY, PLENTY)

    used, entries = as_ordinary_user(count)
    assert used >= 9_000_000
    assert entries == 2


def test_what_cannot_be_counted_is_too_much(folder: Path):
    (folder / "foreign").mkdir(mode=0o700)
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder that is somebody else's")
    assert as_ordinary_user(lambda: usage(folder, PLENTY, PLENTY)) is None


def test_counting_ends_with_the_first_entry_that_is_too_many(folder: Path):
    for number in range(20):
        (folder / str(number)).mkdir()
    assert usage(folder, PLENTY, 19) is None
    assert usage(folder, PLENTY, 20) is not None


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
def test_locked_folders_are_removed(folder: Path, mode: int):
    def lock_and_remove() -> bool:
        inner = folder / "locked" / "inner"
        inner.mkdir(parents=True)
        (inner / "file").touch()
        inner.chmod(mode)
        inner.parent.chmod(mode)
        remove_tree(folder / "locked")
        return (folder / "locked").exists()

    assert as_ordinary_user(lock_and_remove) is False
