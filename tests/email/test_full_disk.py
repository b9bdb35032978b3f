"""A disk that is full costs nobody a mail: its sender keeps it, and nothing is half stored."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import psycopg
import pytest

from handinger.storage import blobs
from handinger.storage.embedded import EmbeddedPostgres
from tests.email.world import MIXED, World, mail, with_files
from tests.support.dns_server import DnsServer
from tests.support.model_server import ModelServer

# Beside the folder of the blobs: how many of them still fit.
ROOM = "room"


def disk_that_fills_up() -> None:
    """In the server's process: a disk that takes as many blobs as a file says, and then a half."""
    write = blobs._write  # pyright: ignore[reportPrivateUsage]

    def write_while_there_is_room(folder: Path, key: str, content: bytes | BinaryIO) -> None:
        room = folder.parent / ROOM
        if room.exists():
            left = int(room.read_text())
            room.write_text(str(left - 1))
            if left <= 0:
                write(folder, key, _Full(content))  # pyright: ignore[reportArgumentType]
        write(folder, key, content)

    blobs._write = write_while_there_is_room  # pyright: ignore[reportPrivateUsage]


class _Full:
    """Is read as far as the disk takes it."""

    def __init__(self, content: bytes | BinaryIO) -> None:
        self._content = content if isinstance(content, bytes) else content.read()

    def read(self, size: int = -1) -> bytes:
        del size
        if not self._content:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        half, self._content = self._content[: len(self._content) // 2 + 1], b""
        return half


@pytest.fixture(scope="module")
def cramped(
    model: ModelServer, names: DnsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cramped")
    world = World(folder / "data", model, names, prepare=disk_that_fills_up)
    world.start()
    yield world
    world.close()


def stored_files(world: World) -> set[Path]:
    folder = world.server.data_dir / "blobs"
    return {path for path in folder.rglob("*") if path.is_file() and path.name != "health"}


# The mail as it came is stored first, then each of its files.
@pytest.mark.parametrize("room", [0, 1, 2], ids=["nothing", "the mail", "one of two files"])
def test_a_mail_for_which_there_is_no_room_comes_again(cramped: World, room: int):
    worker_id, address = cramped.new_address()
    raw = mail(with_files("Read.", ("a.txt", "A" * 5000), ("b.txt", "B" * 5000)), headers=MIXED)
    before = stored_files(cramped)
    marker = cramped.server.data_dir / ROOM
    marker.write_text(str(room))
    assert cramped.send(raw, address)[0] == 451
    marker.write_text(str(room))
    answer = cramped.post(raw, address)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "Retry-After" in answer.headers
    marker.unlink()
    assert cramped.emails(worker_id) == cramped.turns(worker_id) == []
    # What was stored in full waits to be used, or to be removed; nothing is there in part.
    left = stored_files(cramped) - before
    assert len(left) == room
    assert all("#" not in path.name for path in left)
    assert cramped.send(raw, address) == (250, "")
    assert cramped.send(raw, address) == (250, "")
    assert cramped.inputs(worker_id) == ["Read."]
    cramped.wait_until_idle(worker_id)
    for name, letter in (("a.txt", "A"), ("b.txt", "B")):
        found = cramped.api.get(f"/api/workers/{worker_id}/files/inbox/{name}")
        assert found.text == letter * 5000


def test_a_database_without_room_takes_no_part_of_a_mail(cramped: World):
    worker_id, address = cramped.new_address()
    raw = mail("Do it.")
    postgres = EmbeddedPostgres.join(cramped.server.data_dir)
    try:
        with psycopg.connect(postgres.url, autocommit=True) as database:
            database.execute(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full';"
                " END $$"
            )
            # Once the turn and its job are written.
            database.execute(
                "CREATE TRIGGER full_disk AFTER INSERT ON inbound_emails EXECUTE FUNCTION"
                " full_disk()"
            )
            assert cramped.send(raw, address)[0] == 451
            database.execute("DROP TRIGGER full_disk ON inbound_emails")
    finally:
        postgres.leave()
    assert cramped.emails(worker_id) == cramped.turns(worker_id) == []
    assert cramped.send(raw, address) == (250, "")
    assert cramped.inputs(worker_id) == ["Do it."]
