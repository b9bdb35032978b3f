"""Bytes that are stored are on the disk."""

import io
import os
from pathlib import Path

import pytest

from handinger.storage import blobs


def test_a_blob_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A power failure must neither lose it nor leave a part of it under its name."""
    path = tmp_path / "wrk_1" / "ab" / "abc"
    synced: list[tuple[int, bool]] = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    blobs._write(tmp_path, "wrk_1/ab/abc", b"content")  # pyright: ignore[reportPrivateUsage]
    assert path.read_bytes() == b"content"
    inode = path.stat().st_ino
    folders = [folder.stat().st_ino for folder in (path.parent, path.parent.parent, tmp_path)]
    assert synced == [(inode, False), *((folder, True) for folder in folders)]
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_stored_in_full_is_not_stored(tmp_path: Path):
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("The disk is gone.")

    with pytest.raises(OSError, match="gone"):
        blobs._write(tmp_path, "wrk_1/ab/abc", Broken())  # pyright: ignore[reportPrivateUsage]
    assert list((tmp_path / "wrk_1" / "ab").iterdir()) == []
