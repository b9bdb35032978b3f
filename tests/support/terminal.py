"""Programs in a pseudo-terminal: what they write there, and with tmux what a person sees of it."""

import contextlib
import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 30.0


class Terminal:
    """A program in a pseudo-terminal; collects what it writes there."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        columns: int = 80,
        rows: int = 24,
    ) -> None:
        self._keyboard, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process = subprocess.Popen(
            command,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            env={"TERM": "xterm-256color", **environment},
            start_new_session=True,
            # The terminal becomes that of the program, so that Ctrl-C reaches it.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(screen)
        self.written = b""

    @property
    def text(self) -> str:
        """All that was written, without the commands to the terminal."""
        commands = r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\]8;[^\x1b]*\x1b\\"  # the second: links
        return re.sub(commands, "", self.written.decode(errors="replace"))

    def type(self, keys: str) -> None:
        """Press keys; `\\x03` is Ctrl-C."""
        os.write(self._keyboard, keys.encode())

    def read_until(self, wanted: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Until this was written."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self.text:
            assert time.monotonic() < deadline, f"{wanted!r} did not appear in:\n{self.text}"
            assert self._read() or wanted in self.text, f"it ended without {wanted!r}:\n{self.text}"

    def finish(self, *, timeout_s: float = PATIENCE_S) -> int:
        """Read to the end and give the exit status."""
        deadline = time.monotonic() + timeout_s
        while self._read():
            assert time.monotonic() < deadline, self.text
        os.close(self._keyboard)
        return self._process.wait(timeout_s)

    def close(self) -> None:
        """End it if it has not ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._keyboard)

    def _read(self) -> bool:
        if not select.select([self._keyboard], [], [], 0.1)[0]:
            return True
        try:
            chunk = os.read(self._keyboard, 65536)
        except OSError:  # Linux says EIO when the other side is closed.
            return False
        self.written += chunk
        return bool(chunk)


class Screen:
    """A program in a tmux of its own; `lines` are what stands on the screen now."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        columns: int,
        rows: int,
        folder: Path,
    ) -> None:
        self._socket = str(folder / "tmux")
        size = ("-x", str(columns), "-y", str(rows))
        # The size is asked of the terminal, whatever this process was started in.
        bare = ["env", "-u", "COLUMNS", "-u", "LINES"]
        line = shlex.join([*bare, *(f"{name}={it}" for name, it in environment.items()), *command])
        # The screen stays when the program has ended.
        ended = f'{line}; echo "[$?]"; sleep 600'
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "sh", "-c", ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tmux("kill-server")

    @property
    def lines(self) -> list[str]:
        """From the first to the last that has something."""
        return self._tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def wait_for(self, *wanted: str) -> list[str]:
        """The lines, once each of these stands in one of them."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            lines = self.lines
            if all(any(each in line for line in lines) for each in wanted):
                return lines
            assert time.monotonic() < deadline, "\n".join([f"{wanted} is not all on:", *lines])
            time.sleep(0.05)

    def type(self, keys: str) -> None:
        """Press keys, by tmux's names: `C-c`."""
        self._tmux("send-keys", keys)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *arguments],
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


def has_tmux() -> bool:
    """Whether screens can be seen here."""
    return shutil.which("tmux") is not None
