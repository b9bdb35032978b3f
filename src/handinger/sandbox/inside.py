"""The first process of a sandbox: it starts commands and says how they ended.

It is handed to the sandbox's own Python as source text, so it may import nothing of ours, and must
do with an older Python than the server's. Commands run beside it, so what it says is hearsay.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
from typing import Any

_WATCH_INTERVAL_S = 0.2
_CPU_GRACE_S = 2


class Runner:
    """Carries out what the server asks for over the channel, until the channel closes."""

    def __init__(self, channel: socket.socket, limits: "dict[str, int]") -> None:
        self._channel = channel
        self._libc = ctypes.CDLL(None)
        self._limits = limits
        self._running: dict[int, int] = {}  # process to the number of its command
        self._watched_at = 0.0
        # Of the file systems that are the host's disk.
        self._disks = {os.stat(folder).st_dev for folder in (".", "/tmp")}  # noqa: S108

    def serve(self) -> None:
        """Return when the server has gone; the kernel then ends everything else in here."""
        # Commands must not look into this process, or into what it has open.
        self._set_readable(False)
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # Python would end by it. To all others that have no handler, the kernel makes us deaf.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(woken, select.POLLIN)
        self._tell({"ready": True})
        busy = False
        while True:
            ready = poll.poll(_WATCH_INTERVAL_S * 1000 if busy else None)
            if not busy:
                # Nothing ran until now, so there is nothing to see yet.
                self._watched_at = time.monotonic()
            for descriptor, _ in ready:
                if descriptor == woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(woken, 4096)
                elif not self._obey():
                    return
            # The ends of commands first: somebody waits for them.
            was_busy, busy = busy, self._reap()
            if busy:
                self._watch()
            elif was_busy:
                self._clear()

    def _obey(self) -> bool:
        """Carry out one message; False when there will be none any more."""
        message, descriptors, _, _ = socket.recv_fds(self._channel, 4096, 3)
        if not message:
            return False
        order = json.loads(message)
        if "run" in order:
            self._run(order["run"], descriptors)
        elif "kill_all" in order:
            self._kill_all()
        else:
            for process, number in self._running.items():
                if number == order["kill"]:
                    # It is not reaped yet, so its number cannot belong to another.
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process, signal.SIGKILL)
        return True

    def _run(self, number: int, descriptors: "list[int]") -> None:
        request, out, err = descriptors
        with open(request, "rb") as file:
            file.seek(0)
            spec = json.loads(file.read())
        try:
            process = os.fork()
        except OSError as error:
            os.write(err, f"cannot start: {error.strerror}\n".encode())
            self._tell({"exit": number, "code": 126})
        else:
            if process == 0:
                try:
                    self._become(spec, out, err)
                finally:
                    os._exit(126)
            self._running[process] = number
        finally:
            os.close(out)
            os.close(err)

    def _set_readable(self, readable: bool) -> None:
        self._libc.prctl(4, int(readable), 0, 0, 0)  # PR_SET_DUMPABLE

    def _become(self, spec: "dict[str, Any]", out: int, err: int) -> None:
        self._set_readable(True)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        os.closerange(3, 1024)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("800")
        os.nice(self._limits["nice"])
        argv, env = spec["argv"], spec["env"]
        try:
            os.execvpe(argv[0], argv, env)  # noqa: S606 # No shell is wanted here.
        except FileNotFoundError:
            message, status = "command not found", 127
        except NotADirectoryError:
            message, status = "command not found", 127
        except OSError as error:
            message, status = error.strerror, 126
        os.write(2, f"{argv[0]}: {message}\n".encode(errors="surrogateescape"))
        os._exit(status)

    def _reap(self) -> bool:
        """Tell the ends of commands, and clear orphans away; whether processes are left."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if process == 0:
                return True
            number = self._running.pop(process, None)
            if number is not None:
                code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
                self._tell({"exit": number, "code": code})

    def _watch(self) -> None:
        """End everything that takes too much: the kernel's own limits are not everywhere."""
        now = time.monotonic()
        if now - self._watched_at < _WATCH_INTERVAL_S:
            return
        self._watched_at = now
        segments = _shared_segments()
        threads, memory_kb = 0, sum(segments.values())
        removed: dict[tuple[int, int], int] = {}
        for name in os.listdir("/proc"):
            if not name.isdecimal() or name == "1":
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    threads += int(file.read().rpartition(b")")[2].split()[17])
                memory_kb += _memory_kb(name)
                removed.update(_removed_bytes(name, self._disks))
        # No more are ever seen where the kernel holds them.
        if threads >= self._limits["processes"]:
            self._kill_all()
            self._tell({"exceeded": "processes"})
        elif memory_kb * 1024 > self._limits["memory_bytes"]:
            self._kill_all()
            self._remove(segments)
            self._tell({"exceeded": "memory"})
        elif available_bytes() < self._limits["memory_reserve_bytes"]:
            # The kernel itself holds memory for programs, such as full sockets, that nobody can
            # count; this ends all of it.
            self._kill_all()
            self._remove(segments)
            self._tell({"exceeded": "memory_reserve"})
        elif sum(removed.values()) > self._limits["disk_bytes"]:
            self._kill_all()
            self._tell({"exceeded": "disk"})

    def _clear(self) -> None:
        """No process is left. What nobody has must leave enough memory for the next."""
        segments = _shared_segments()
        if sum(segments.values()) * 1024 > self._limits["memory_bytes"] / 2:
            self._remove(segments)

    def _remove(self, segments: "dict[int, int]") -> None:
        for segment in segments:
            self._libc.shmctl(segment, 0, None)  # IPC_RMID

    def _kill_all(self) -> None:
        # At once, for the kernel: no process can fork itself away meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)

    def _tell(self, message: "dict[str, object]") -> None:
        self._channel.send(json.dumps(message).encode())


def _memory_kb(process: str) -> int:
    """What a process has that is not in a file; of what it shares with others, its part."""
    told_kb = _told_kb(f"/proc/{process}/smaps_rollup", b"Pss_Anon:", b"Pss_Shmem:")
    if not told_kb:
        # It does not let itself be looked into, or the kernel is too old for that. What anybody may
        # see counts files, too.
        told_kb = _told_kb(f"/proc/{process}/status", b"VmRSS:")
    # Tables of pages that it touched, and what of it was swapped out, are in no resident set.
    return sum(told_kb + _told_kb(f"/proc/{process}/status", b"VmPTE:", b"VmSwap:"))


def _told_kb(path: str, *names: bytes) -> "list[int]":
    """What the kernel tells under these names; of a process that is gone nothing."""
    try:
        with open(path, "rb") as file:
            return [int(line.split()[1]) for line in file if line.startswith(names)]
    except OSError:
        return []


def available_bytes() -> int:
    """What the whole host can still give to programs."""
    told_kb = _told_kb("/proc/meminfo", b"MemAvailable:")
    return told_kb[0] * 1024 if told_kb else sys.maxsize


def _removed_bytes(process: str, disks: "set[int]") -> "dict[tuple[int, int], int]":
    """Bytes of the files that it has open and that have no name any more, so nobody finds them."""
    found: dict[tuple[int, int], int] = {}
    with os.scandir(f"/proc/{process}/fd") as descriptors:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                status = descriptor.stat()
                is_removed = status.st_nlink == 0 and stat.S_ISREG(status.st_mode)
                if is_removed and status.st_dev in disks:
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found


def _shared_segments() -> "dict[int, int]":
    """Segments of System V's shared memory: kilobytes by id. No process need have them mapped."""
    found: dict[int, int] = {}
    with contextlib.suppress(OSError), open("/proc/sysvipc/shm", "rb") as file:
        for line in file.read().splitlines()[1:]:
            columns = line.split()
            found[int(columns[1])] = int(columns[14]) // 1024
    return found


def limit(limits: "dict[str, int]") -> None:
    """What the kernel holds against every process in here; none can raise it again."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_s"] + _CPU_GRACE_S),
        (resource.RLIMIT_DATA, limits["memory_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"] + 1),  # and this one
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 64 * 1024),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))
    # By a signal that says why, to which it may be deaf until it is killed.
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(limits["cpu_s"], hard), hard))


def main() -> None:
    """Called with the number of the channel's descriptor and the limits as JSON."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    limits = json.loads(sys.argv[2])
    limit(limits)
    with contextlib.suppress(ConnectionError):
        Runner(channel, limits).serve()


if __name__ == "__main__":
    main()
