"""The local folder of a workspace, beside a program that changes it at every moment."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from handinger.files import FileError, Tree
from handinger.sandbox.folders import remove_tree
from tests.support.nobody import as_ordinary_user, ordinary_folder

SECRET = b"the secret"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROUNDS = 300


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(SECRET)
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "inside").mkdir()
    return Tree(tmp_path / "inside", None)


@contextmanager
def meanwhile(change: Callable[[], object]) -> Generator[None]:
    """Somebody who does this over and over."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            change()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_what_was_written_is_read_and_scanned(tree: Tree):
    stamp = tree.write("a/b.sh", b"x", executable=True, modified_at=NOW)
    assert tree.read("a/b.sh", 10) == (b"x", stamp)
    assert tree.scan().files == {"a/b.sh": stamp}
    assert (stamp.executable, stamp.size) == (True, 1)
    assert stamp.mtime_ns == int(NOW.timestamp()) * 10**9


def test_removing_a_file_removes_the_folders_that_it_leaves_empty(tree: Tree):
    tree.write("a/b/c", b"", executable=False, modified_at=NOW)
    tree.write("a/d", b"", executable=False, modified_at=NOW)
    tree.remove("a/b/c")
    assert [path.name for path in (tree.root / "a").iterdir()] == ["d"]


@pytest.mark.parametrize("target", ["outside/file", "outside", "/etc/passwd", "loop"])
def test_links_are_never_followed(tree: Tree, outside: Path, target: str):
    link = tree.root / "loop"
    link.symlink_to(target if target.startswith(("/", "loop")) else outside.parent / target)
    assert tree.read("loop", 100) is None
    assert tree.read("loop/file", 100) is None
    scan = tree.scan()
    assert scan.files == {}
    assert scan.left_out == ["loop: links are not kept"]


def test_writing_replaces_links_and_whatever_else_is_in_the_way(tree: Tree, outside: Path):
    (tree.root / "folder").symlink_to(outside)
    (tree.root / "file").symlink_to(outside / "file")
    (tree.root / "full" / "x").mkdir(parents=True)
    os.mkfifo(tree.root / "pipe")
    for path in ("folder/file", "file", "full", "pipe"):
        tree.write(path, b"ours", executable=False, modified_at=NOW)
        assert tree.read(path, 10) is not None
    assert (outside / "file").read_bytes() == SECRET


def test_a_pipe_keeps_nobody_waiting(tree: Tree):
    os.mkfifo(tree.root / "pipe")
    assert tree.read("pipe", 10) is None
    assert tree.scan().left_out == ["pipe: only files are kept"]


def test_a_file_that_is_too_large_is_refused(tree: Tree):
    tree.write("large", b"12345", executable=False, modified_at=NOW)
    with pytest.raises(FileError, match="more than 4 bytes"):
        tree.read("large", 4)


def test_names_that_are_no_text_are_left_out_with_a_word(tree: Tree):
    (tree.root / os.fsdecode(b"bad\xff")).write_bytes(b"")
    scan = tree.scan()
    (path,) = scan.files
    assert path == os.fsdecode(b"bad\xff")


def test_a_folder_that_becomes_a_link_while_it_is_read_leads_nowhere(tree: Tree, outside: Path):
    folder, aside = tree.root / "folder", tree.root / "aside"
    folder.mkdir()
    (folder / "file").write_bytes(b"harmless")

    def swap() -> None:
        folder.rename(aside)
        folder.symlink_to(outside)
        folder.unlink()
        aside.rename(folder)

    with meanwhile(swap):
        for _ in range(ROUNDS):
            found = tree.read("folder/file", 100)
            assert found is None or found[0] == b"harmless"
            tree.scan()


def test_a_file_that_becomes_a_link_while_it_is_read_leads_nowhere(tree: Tree, outside: Path):
    file, link = tree.root / "file", tree.root / "link"

    def swap() -> None:
        link.symlink_to(outside / "file")
        link.rename(file)
        link.write_bytes(b"harmless")
        link.rename(file)

    swap()
    with meanwhile(swap):
        for _ in range(ROUNDS):
            found = tree.read("file", 100)
            assert found is None or found[0] in (b"harmless", b"")


def test_nothing_outside_is_written_while_folders_become_links(tree: Tree, outside: Path):
    folder = tree.root / "folder"

    def swap() -> None:
        try:
            folder.symlink_to(outside)
        except FileExistsError:
            try:
                folder.rename(tree.root / "aside")
            except OSError:
                return

    with meanwhile(swap):
        for _ in range(ROUNDS):
            try:
                tree.write("folder/file", b"ours", executable=False, modified_at=NOW)
                tree.remove("folder/file")
            except OSError:
                continue  # The other one was quicker.
    assert (outside / "file").read_bytes() == SECRET
    assert [path.name for path in outside.iterdir()] == ["file"]


MAKE_DEEP = """
import os
for _ in range(1200):
    os.mkdir("d")
    os.chdir("d")
open("bottom", "w").close()
"""


@pytest.fixture
def deep(tree: Tree) -> Generator[Path]:
    """A folder in the tree with folders within folders, deeper than Python can recurse."""
    folder = tree.root / "deep"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", MAKE_DEEP], cwd=folder, check=True)
    yield folder
    remove_tree(tree.root)


def test_folders_whose_paths_are_too_long_are_left_out_with_a_word(tree: Tree, deep: Path):
    (deep / "file").touch()
    scan = tree.scan()
    assert list(scan.files) == ["deep/file"]
    (left_out,) = scan.left_out
    assert left_out.startswith("deep/d/d/")
    assert left_out.endswith("paths below it are too long")


def test_a_file_takes_the_place_of_folders_however_deep(tree: Tree, deep: Path):
    tree.write("deep", b"ours", executable=False, modified_at=NOW)
    assert deep.read_bytes() == b"ours"


def test_what_lies_deep_and_wide_is_opened_once(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    far = tree.root.joinpath(*["d"] * 400)
    far.mkdir(parents=True)
    for number in range(300):
        (far / str(number)).mkdir()
    opened: list[object] = []
    really = os.open

    def counted(*args: Any, **named: Any) -> int:
        opened.append(args)
        return really(*args, **named)

    monkeypatch.setattr(os, "open", counted)
    tree.scan()
    assert len(opened) < 2 * (400 + 300)


@pytest.mark.parametrize("place", [".", "folder", "folder/inner"])
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
def test_files_in_a_locked_folder_are_not_taken_for_removed(place: str, mode: int):
    def hides_and_takes() -> list[bool]:
        tree.write("folder/inner/file", b"x", executable=False, modified_at=NOW)
        (tree.root / place).chmod(mode)
        hides = tree.scan().hides("folder/inner/file")
        tree.write("folder/inner/file", b"y", executable=False, modified_at=NOW)
        return [hides, tree.read("folder/inner/file", 10) is not None]

    with ordinary_folder() as folder:
        tree = Tree(folder, None)
        assert as_ordinary_user(hides_and_takes) == [True, True]
