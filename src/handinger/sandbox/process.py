"""A sandbox that runs: bubblewrap, our first process in it, and the commands that it was given."""

import asyncio
import contextlib
import functools
import importlib.resources
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from handinger.errors import HandingerServerError
from handinger.sandbox.bubblewrap import View
from handinger.sandbox.cgroups import Group, Hierarchy, counts_memory
from handinger.sandbox.limits import Limits

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 5.0
_CHUNK_BYTES = 64 * 1024
_MAX_MESSAGE_BYTES = 4096
_CREDENTIALS = struct.Struct("3i")  # struct ucred
_KILLED = 128 + signal.SIGKILL

StopReason = Literal[
    "timeout",
    "output",
    "memory",
    "processes",
    "cpu",
    "file",
    "disk",
    "memory_reserve",
    "disk_reserve",
]
_EXCEEDED: Mapping[object, StopReason] = {
    "memory": "memory",
    "memory_reserve": "memory_reserve",
    "processes": "processes",
    "disk": "disk",
}

# The kernel's signal to a process that is at one of its own limits.
_AT_LIMIT: Mapping[int, StopReason] = {128 + signal.SIGXCPU: "cpu", 128 + signal.SIGXFSZ: "file"}


class SandboxError(HandingerServerError):
    """A sandbox cannot be started, or has ended; the message says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """What of this host sandboxes are made with."""

    bwrap: Path
    python: Path
    shell: str  # as it is called in a sandbox
    view: View
    uid: int | None  # whose user bubblewrap runs as; None: the server's own
    filter: bytes | None  # see seccomp.py
    hierarchy: Hierarchy | None

    @property
    def counts_memory(self) -> bool:
        """Whether the kernel counts the memory of each sandbox, whatever it is used for."""
        return counts_memory(self.hierarchy)


@dataclass(frozen=True, slots=True)
class Execution:
    """One command that was carried out, and what came of it."""

    exit_code: int  # as shells have it: 128 and the signal's number for one that was killed
    stdout: bytes
    stderr: bytes
    seconds: float
    stopped: StopReason | None  # what it took too much of, if it was stopped for that


@dataclass(slots=True, eq=False)
class _Output:
    """One stream of a command. Its beginning is kept; what comes later is taken and let go."""

    descriptor: int
    kept: bytearray = field(default_factory=bytearray)


@dataclass(slots=True, eq=False)
class _Command:
    out: _Output
    err: _Output
    ended: asyncio.Future[int]
    stopped: StopReason | None = None


class SandboxProcess:
    """One sandbox from its start to its end. It belongs to one event loop, and to no thread."""

    def __init__(
        self, host: Host, limits: Limits, process: "subprocess.Popen[bytes]", channel: socket.socket
    ) -> None:
        self._host = host
        self._limits = limits
        self._process = process
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._first: asyncio.Future[int] = self._loop.create_future()
        self._init: int | None = None  # a descriptor for the first process within
        self._group: Group | None = None
        self._commands: dict[int, _Command] = {}
        self._outputs: set[_Output] = set()
        self._last_number = 0
        self._ended = asyncio.Event()
        self._loop.add_reader(channel, self._hear)

    @classmethod
    async def start(
        cls, host: Host, limits: Limits, *, name: str, workspace: Path, temporary: Path
    ) -> "SandboxProcess":
        """Start one on these folders. Raises SandboxError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # The kernel says who speaks, so that nobody within can pretend to be another process.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        said = _in_memory("said", b"")
        try:
            with theirs:
                process = _spawn(host, limits, workspace, temporary, theirs, said)
        except OSError as error:
            ours.close()
            os.close(said)
            raise SandboxError(f"Bubblewrap cannot be started: {error}.") from error
        sandbox = cls(host, limits, process, ours)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await sandbox._begin(name)
        except BaseException as error:
            await sandbox.close()
            if isinstance(error, SandboxError | TimeoutError):
                words = os.pread(said, 2000, 0).decode(errors="replace").strip()
                raise SandboxError(
                    f"The sandbox did not start: {words or 'it said nothing'}."
                ) from error
            raise
        finally:
            os.close(said)
        return sandbox

    @property
    def is_alive(self) -> bool:
        """Whether commands can be given to it."""
        return not self._ended.is_set()

    async def execute(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Execution:
        """Run a command to its end, its timeout, or the limit that it runs into.

        What it leaves running in the background goes on. When the caller is cancelled, the command
        ends with its process group. Raises SandboxError if the sandbox ends meanwhile.
        """
        began = time.monotonic()
        deaths_before = self._out_of_memory_kills()
        number, command = self._give(argv, environment or {})
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    exit_code = await asyncio.shield(command.ended)
            except TimeoutError:
                self._stop(number, "timeout")
                exit_code = await command.ended
            for output in (command.out, command.err, command.out, command.err):
                # What it wrote is in its pipes, which hold less than two such reads take.
                self._read(output, number)
        finally:
            if not command.ended.done():
                self._order({"kill": number})
            self._commands.pop(number, None)
        if exit_code == _KILLED and self._out_of_memory_kills() > deaths_before:
            command.stopped = command.stopped or "memory"
        return Execution(
            exit_code=exit_code,
            stdout=bytes(command.out.kept),
            stderr=bytes(command.err.kept),
            seconds=time.monotonic() - began,
            stopped=command.stopped or _AT_LIMIT.get(exit_code),
        )

    def stop(self, reason: StopReason) -> None:
        """End every process within, those in the background too; the sandbox itself goes on."""
        for command in self._commands.values():
            command.stopped = command.stopped or reason
        self._order({"kill_all": True})

    async def close(self) -> None:
        """End everything in it and return when it has ended. Calling it again does nothing."""
        self._lose()
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
            os.close(self._init)
            self._init = None
        else:
            self._process.kill()
        await self._wait_for_bubblewrap()
        for output in list(self._outputs):
            self._close_output(output)
        if self._group is not None:
            group, self._group = self._group, None
            await asyncio.to_thread(group.remove)

    def _out_of_memory_kills(self) -> int:
        return self._group.out_of_memory_kills() if self._group is not None else 0

    # Beginning and ending

    async def _begin(self, name: str) -> None:
        pid = await self._first
        self._init = os.pidfd_open(pid)
        if self._host.hierarchy is not None:
            try:
                self._group = self._host.hierarchy.create(name, self._limits)
                self._group.add(pid)
            except OSError as error:
                raise SandboxError(f"its control group cannot be made: {error}") from error

    def _lose(self) -> None:
        """Nothing more will be heard of it."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._loop.remove_reader(self._channel)
        self._channel.close()
        lost = SandboxError("The sandbox has ended, and the command with it.")
        for command in self._commands.values():
            if not command.ended.done():
                command.ended.set_exception(lost)
                command.ended.exception()  # Its caller may be gone.
        if not self._first.done():
            self._first.set_exception(SandboxError("it ended at once"))
            self._first.exception()

    async def _wait_for_bubblewrap(self) -> None:
        """Bubblewrap ends when its child has, and that one when everything in it has."""
        if self._process.returncode is not None:
            return
        gone = self._loop.create_future()
        watched = os.pidfd_open(self._process.pid)
        self._loop.add_reader(watched, lambda: gone.done() or gone.set_result(None))
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await gone
        except TimeoutError:
            logger.warning("Bubblewrap does not end, and is killed")
            self._process.kill()
        finally:
            self._loop.remove_reader(watched)
            os.close(watched)
        try:
            await asyncio.to_thread(self._process.wait, _END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            logger.warning("Bubblewrap hangs in the kernel, and is left there")

    # Commands

    def _give(self, argv: Sequence[str], environment: Mapping[str, str]) -> tuple[int, _Command]:
        if self._ended.is_set():
            raise SandboxError("The sandbox has ended.")
        self._last_number += 1
        number = self._last_number
        env = {**self._host.view.environment(), **environment}
        spec = json.dumps({"argv": list(argv), "env": env})
        with contextlib.ExitStack() as handed:
            request = _in_memory("request", spec.encode())
            handed.callback(os.close, request)
            out, out_writer = self._pipe(handed)
            err, err_writer = self._pipe(handed)
            command = _Command(out, err, self._loop.create_future())
            self._commands[number] = command
            for output in (out, err):
                self._outputs.add(output)
                self._loop.add_reader(
                    output.descriptor, functools.partial(self._read, output, number)
                )
            try:
                message = json.dumps({"run": number}).encode()
                socket.send_fds(self._channel, [message], [request, out_writer, err_writer])
            except OSError as error:
                self._commands.pop(number)
                self._lose()
                raise SandboxError(f"The sandbox cannot be reached: {error}.") from error
        return number, command

    def _pipe(self, handed: contextlib.ExitStack) -> tuple[_Output, int]:
        reader, writer = os.pipe()
        handed.callback(os.close, writer)
        os.set_blocking(reader, False)
        return _Output(reader), writer

    def _read(self, output: _Output, number: int) -> None:
        """Take a piece of what is there. A command that has told too much is stopped."""
        if output not in self._outputs:
            return
        try:
            chunk = os.read(output.descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self._close_output(output)
            return
        command = self._commands.get(number)
        if command is None:
            return  # It has ended; what it left in the background may talk on, to nobody.
        room = self._limits.output_bytes - len(command.out.kept) - len(command.err.kept)
        output.kept += chunk[:room]
        if len(chunk) > room:
            self._stop(number, "output")

    def _close_output(self, output: _Output) -> None:
        self._outputs.discard(output)
        self._loop.remove_reader(output.descriptor)
        os.close(output.descriptor)

    def _stop(self, number: int, reason: StopReason) -> None:
        command = self._commands[number]
        if command.stopped is None:
            command.stopped = reason
            self._order({"kill": number})

    # Messages

    def _order(self, order: Mapping[str, object]) -> None:
        if self._ended.is_set():
            return
        try:
            self._channel.send(json.dumps(order).encode())
        except OSError as error:
            logger.warning("A sandbox cannot be reached and is given up: %s", error)
            self._lose()

    def _hear(self) -> None:
        try:
            message, ancillary, _, _ = self._channel.recvmsg(
                _MAX_MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
            )
        except BlockingIOError:
            return
        except OSError:
            message, ancillary = b"", []
        if not message:
            self._lose()
            return
        said = _parse(message)
        if "ready" in said and not self._first.done():
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    self._first.set_result(_CREDENTIALS.unpack(content)[0])
        elif "exceeded" in said:
            reason = _EXCEEDED[said["exceeded"]]
            for command in self._commands.values():
                command.stopped = command.stopped or reason
        elif "exit" in said:
            number, code = said["exit"], said.get("code")
            command = self._commands.get(number) if isinstance(number, int) else None
            if command is not None and not command.ended.done():
                command.ended.set_result(code if isinstance(code, int) else _KILLED)


def _spawn(
    host: Host,
    limits: Limits,
    workspace: Path,
    temporary: Path,
    channel: socket.socket,
    said: int,
) -> "subprocess.Popen[bytes]":
    """Start bubblewrap, from the loop's thread: the kernel ends it with the thread that did."""
    counted = host.counts_memory
    arguments = [str(host.bwrap), *host.view.arguments(workspace, temporary, counted=counted)]
    passed = [channel.fileno()]
    with contextlib.ExitStack() as inherited:
        if host.filter is not None:
            program = _in_memory("filter", host.filter)
            inherited.callback(os.close, program)
            passed.append(program)
            arguments += ["--seccomp", str(program)]
        # Isolated, and without site-packages: nothing of the host's configuration is loaded.
        arguments += [str(host.python), "-I", "-S", "-B", "-c", _inside()]
        arguments += [str(channel.fileno()), json.dumps(limits.inside(counted=counted))]
        return subprocess.Popen(
            arguments,
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=passed,
            start_new_session=True,
            umask=0o022,
            user=host.uid,
            group=host.uid,
            extra_groups=None if host.uid is None else [],
        )


@functools.cache
def _inside() -> str:
    return (importlib.resources.files("handinger.sandbox") / "inside.py").read_text("utf-8")


def _in_memory(name: str, content: bytes) -> int:
    """A file without a name that begins with this content, open at its beginning."""
    descriptor = os.memfd_create(name)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _parse(message: bytes) -> dict[str, Any]:
    """What came out of a sandbox may be anything."""
    try:
        said: object = json.loads(message)
    except ValueError:
        return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}
