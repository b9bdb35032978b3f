"""The sandboxes of this process, and one sandbox as its user knows it."""

import asyncio
import contextlib
import logging
import os
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handinger.sandbox.descent import Descent
from handinger.sandbox.folders import PASSAGE, Folders, remove_tree
from handinger.sandbox.limits import Limits
from handinger.sandbox.process import Execution, Host, SandboxError, SandboxProcess, StopReason

logger = logging.getLogger(__name__)

# How often the disk is looked at, at most; a look may take this share of the time between two.
_LOOK_INTERVAL_S = 0.25
_LOOK_SHARE = 0.05
# What is written between two looks may be more than its limit, but hardly as many times that.
_OVERFULL = 4
# After one was taken, the next begins to start.
_SPARE_AFTER_S = 0.1


class Sandbox:
    """An environment for commands: a folder on the host, and the processes that work in it.

    Commands share it: what one leaves running in the background the next can talk to. Its processes
    start with the first command, and again after they were lost; its folder stays until it closes.
    """

    def __init__(self, name: str, folders: Folders, host: Host, limits: Limits) -> None:
        self.name = name
        self.uid = host.uid  # who must own the files in the workspace; None: ourselves
        self._folders = folders
        self._host = host
        self._limits = limits
        self._folder = folders.make_folder(name, uid=None)
        self._folder.chmod(PASSAGE)
        self.workspace = folders.make_folder(f"{name}/workspace", uid=host.uid)
        self._temporary = folders.make_folder(f"{name}/temporary", uid=host.uid)
        self._process: SandboxProcess | None = None
        self._watching: asyncio.Task[None] | None = None
        # What there may be on its disk: once that was full, no more than there is, until there is
        # room again. Else what removes files would be stopped as well.
        self._most_bytes, self._most_entries = limits.disk_bytes, limits.disk_entries
        self._was_full = False
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good."""
        return self._closed

    async def start(self) -> SandboxProcess:
        """Its processes, started if they do not run. Raises SandboxError."""
        async with self._lock:
            if self._closed:
                raise SandboxError("The sandbox was closed.")
            if self._process is None or not self._process.is_alive:
                await self._end_processes()
                self._process = await SandboxProcess.start(
                    self._host,
                    self._limits,
                    name=f"{self._folders.root.name}-{self.name}-{secrets.token_hex(2)}",
                    workspace=self.workspace,
                    temporary=self._temporary,
                )
            return self._process

    async def execute(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Execution:
        """Run a command; see `SandboxProcess.execute`. Raises SandboxError."""
        process = await self.start()
        if self._watching is None:
            self._watching = asyncio.create_task(
                self._watch_disk(process), name=f"sandbox {self.name}"
            )
        return await process.execute(argv, environment=environment, timeout_s=timeout_s)

    async def shell(self, command: str, *, timeout_s: float | None = None) -> Execution:
        """Run a command line; see `execute`."""
        return await self.execute([self._host.shell, "-c", "--", command], timeout_s=timeout_s)

    def stop(self, reason: StopReason) -> None:
        """End every process in it, those in the background too; it can be used again at once."""
        if self._process is not None:
            self._process.stop(reason)

    async def close(self) -> None:
        """End everything in it, and remove its folder. Calling it again does nothing."""
        async with self._lock:
            if self._closed:
                return
            self._closed = True
            await self._end_processes()
        await asyncio.to_thread(remove_tree, self._folder)

    async def _end_processes(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        if self._process is not None:
            await self._process.close()
            self._process = None

    async def _watch_disk(self, process: SandboxProcess) -> None:
        """Stop everything when the disk holds more than it may; no kernel limit does that."""
        room_bytes: int | None = self._most_bytes
        took, free_bytes = 0.0, self._free_bytes()
        while process.is_alive:
            if self._free_bytes() < self._limits.disk_reserve_bytes:
                # There are ways to have disk that nobody can count; this ends all of them.
                process.stop("disk_reserve")
            await self._rest(took / _LOOK_SHARE, free_bytes - (room_bytes or 0))
            # From before the look, so that what is written meanwhile counts.
            began, free_bytes = time.monotonic(), self._free_bytes()
            if self._was_full:
                await asyncio.to_thread(self._allow_what_is_there)
            room_bytes = await asyncio.to_thread(self._room_bytes)
            took = time.monotonic() - began
            if room_bytes is None:
                self._was_full = True
                process.stop("disk")

    async def _rest(self, rest_s: float, least_free_bytes: int) -> None:
        """Wait, but no longer than the disk has more free than this: all of it may be ours."""
        until = time.monotonic() + rest_s
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            if time.monotonic() >= until or self._free_bytes() <= least_free_bytes:
                return

    def _free_bytes(self) -> int:
        """Of the host's disk."""
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize

    def _room_bytes(self) -> int | None:
        """What may still be written; None if too much was written already."""
        used = self._usage(self._most_bytes, self._most_entries)
        if used is None:
            return None
        used_bytes, used_entries = used
        room_bytes = self._most_bytes - used_bytes
        self._most_bytes = min(self._most_bytes, max(used_bytes, self._limits.disk_bytes))
        self._most_entries = min(self._most_entries, max(used_entries, self._limits.disk_entries))
        return room_bytes

    def _allow_what_is_there(self) -> None:
        """Once; if more is written to it then, there is not more allowed for that."""
        limits, self._was_full = self._limits, False
        if (self._most_bytes, self._most_entries) != (limits.disk_bytes, limits.disk_entries):
            return
        used = self._usage(limits.disk_bytes * _OVERFULL, limits.disk_entries * _OVERFULL)
        if used is not None:
            self._most_bytes = max(used[0], limits.disk_bytes)
            self._most_entries = max(used[1], limits.disk_entries)

    def _usage(self, room_bytes: int, room_entries: int) -> tuple[int, int] | None:
        """Bytes on disk and entries of the whole sandbox; None if they are more than that."""
        all_bytes = all_entries = 0
        for folder in (self.workspace, self._temporary):
            used = usage(folder, room_bytes - all_bytes, room_entries - all_entries)
            if used is None:
                return None
            all_bytes, all_entries = all_bytes + used[0], all_entries + used[1]
        return all_bytes, all_entries


def usage(folder: Path, room_bytes: int, room_entries: int) -> tuple[int, int] | None:
    """Bytes on disk and entries under a folder; None if they are more than that.

    Also what cannot be counted is too much, or to hide it would be to have it for nothing. It ends
    with the first entry that is too many, however they lie.
    """
    counted = _Counted(room_bytes, room_entries)
    try:
        with Descent(folder, unlock=True) as at:
            at.wait(counted.add(at.descriptor))
            while (name := at.next()) is not None:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    at.enter(name)
                    at.wait(counted.add(at.descriptor))
    except _TooMuch:
        return None
    except OSError as error:
        logger.info("The disk of a sandbox cannot be counted, and is taken for full: %s", error)
        return None
    return counted.bytes, counted.entries


class _TooMuch(Exception):
    """More than there may be."""


@dataclass(slots=True)
class _Counted:
    room_bytes: int
    room_entries: int
    bytes: int = 0
    entries: int = 0

    def add(self, folder: int) -> list[str]:
        """What is in a folder; the folders among that. Raises _TooMuch, OSError."""
        inner: list[str] = []
        with os.scandir(folder) as scan:
            for entry in scan:
                self.entries += 1
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                self.bytes += found.st_blocks * 512
                if stat.S_ISDIR(found.st_mode):
                    inner.append(entry.name)
                if self.bytes > self.room_bytes or self.entries > self.room_entries:
                    raise _TooMuch
        return inner


class Sandboxes:
    """Makes sandboxes, knows which are open, and ends all with the server.

    One more than is needed runs already, as to start one takes longer than most commands.
    """

    def __init__(self, folders: Folders, host: Host, limits: Limits) -> None:
        self.host = host
        self.limits = limits
        self._folders = folders
        self._open: dict[str, Sandbox] = {}
        self._spare: asyncio.Task[Sandbox] | None = None
        self._preparing: asyncio.TimerHandle | None = None

    def create(self) -> Sandbox:
        """A new one with an empty workspace. Nothing runs in it yet."""
        sandbox = Sandbox(secrets.token_hex(6), self._folders, self.host, self.limits)
        self._open[sandbox.name] = sandbox
        return sandbox

    def prepare_spare(self) -> None:
        """Have the next one that is taken start now, in the background."""
        if self._spare is None:
            self._spare = asyncio.create_task(self._start_new(), name="spare sandbox")

    async def take(self) -> Sandbox:
        """One with an empty workspace that runs already. Raises SandboxError."""
        self.prepare_spare()
        spare, self._spare = self._spare, None
        assert spare is not None
        if self._preparing is not None:
            self._preparing.cancel()
        # The command that it is taken for goes first.
        self._preparing = asyncio.get_running_loop().call_later(_SPARE_AFTER_S, self.prepare_spare)
        return await spare

    async def _start_new(self) -> Sandbox:
        sandbox = self.create()
        try:
            await sandbox.start()
        except BaseException:
            await self.close(sandbox)
            raise
        return sandbox

    def find(self, name: str) -> Sandbox | None:
        """The open sandbox of this name."""
        return self._open.get(name)

    async def close(self, sandbox: Sandbox) -> None:
        """End a sandbox, and everything in it."""
        self._open.pop(sandbox.name, None)
        await sandbox.close()

    async def close_all(self) -> None:
        """End every sandbox that is open."""
        if self._preparing is not None:
            self._preparing.cancel()
        if self._spare is not None:
            self._spare.cancel()
            await asyncio.gather(self._spare, return_exceptions=True)
            self._spare = None
        await asyncio.gather(*(self.close(sandbox) for sandbox in list(self._open.values())))
