"""A real Handinger server process for tests: started, killed, restarted, on its own data."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import httpx2

from tests.support import preloaded
from tests.support.postgres import give_postgres

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 25.0


def free_port(host: str = "127.0.0.1") -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


class HandingerServer:
    """One `handinger serve`. Several may share a database by `database_url`.

    With `preload`, its process begins with all modules imported, and with a call of `prepare`, and
    its PostgreSQL is a copy; else it is started as a person starts it, by this `command`, which
    takes seconds more.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        model_url: str | None = None,
        key: str | None = None,
        database_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        preload: bool = True,
        prepare: Callable[[], None] = preloaded.nothing,
        command: Sequence[str] = (sys.executable, "-m", "handinger"),
    ) -> None:
        self.data_dir = data_dir
        self.key = key or "hdg_live_" + secrets.token_urlsafe(32)
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.log_path = data_dir.parent / f"{data_dir.name}-{self.port}.log"
        self._process: _Process | None = None
        self._preload = preload
        self._prepare = prepare
        self._command = command
        # Only what is named here: no provider's key of the person who runs the tests. A change is
        # for the next start.
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "HANDINGER_DATA_DIR": str(data_dir),
            "HANDINGER_BOOTSTRAP_API_KEY": self.key,
            "HANDINGER_PUBLIC_URL": self.base_url,
        }
        if model_url is not None:
            self.environment |= {
                "HANDINGER_MODEL": "openai-chat:scripted",
                "OPENAI_BASE_URL": model_url,
                "OPENAI_API_KEY": "sk-scripted-0000000000",
            }
        if database_url is not None:
            self.environment["HANDINGER_DATABASE_URL"] = database_url
        self.environment |= environment or {}

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def headers(self) -> dict[str, str]:
        """That authorize a request."""
        return {"Authorization": f"Bearer {self.key}"}

    def start(self, *, wait: bool = True) -> "HandingerServer":
        """Start, and wait until it is healthy."""
        command = preloaded.Command(
            ["serve", "--port", str(self.port)],
            self.environment,
            self.data_dir.parent,
            self.log_path,
            self._prepare,
        )
        if self._preload and "HANDINGER_DATABASE_URL" not in self.environment:
            give_postgres(self.data_dir)
        self.log_path.touch()
        self._process = _Forked(command) if self._preload else _Executed(command, self._command)
        if wait:
            self.wait_until_healthy()
        return self

    def wait_until_healthy(self) -> None:
        """Poll `/healthz`."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.status() is not None:
                raise AssertionError(f"the server exited: {self.log()}")
            try:
                if httpx2.get(f"{self.base_url}/healthz", timeout=1).status_code == 200:
                    return
            except httpx2.HTTPError:
                time.sleep(0.03)
        raise AssertionError(f"the server did not become healthy: {self.log()}")

    def log(self) -> str:
        """The end of what it logged."""
        return self.log_path.read_text(errors="replace")[-5000:]

    def kill(self) -> None:
        """kill -9: no chance to clean up."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and wait for the exit; its status."""
        return self.stop(signal.SIGTERM)

    def stop(self, number: signal.Signals) -> int:
        """Send this signal, and wait for the exit; its status."""
        self._signal(number)
        assert self._process is not None
        status = self._process.status()
        assert status is not None
        return status

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.status() is not None:
            return
        os.kill(self._process.pid, number)
        self._process.wait()

    def close(self) -> None:
        """Stop it, and with it an embedded PostgreSQL, whatever happened before."""
        if self._process is not None and self._process.status() is None:
            self.terminate()
        elif "HANDINGER_DATABASE_URL" not in self.environment:
            # Killed: its PostgreSQL runs on. The last one out stops it.
            from handinger.storage.embedded import EmbeddedPostgres

            if (self.data_dir / "postgres").exists():
                EmbeddedPostgres.join(self.data_dir).leave()


class _Process(Protocol):
    """A running server."""

    pid: int

    def status(self) -> int | None:
        """That it ended with, if it has."""
        ...

    def wait(self) -> None:
        """Until it has ended."""
        ...


class _Executed:
    """As a person starts it."""

    def __init__(self, command: preloaded.Command, program: Sequence[str]) -> None:
        with command.log.open("ab") as written:
            self._process = subprocess.Popen(
                [*program, *command.arguments],
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                cwd=command.folder,
            )
        self.pid = self._process.pid

    def status(self) -> int | None:
        return self._process.poll()

    def wait(self) -> None:
        self._process.wait(STOP_TIMEOUT_S)


class _Forked:
    """With all its modules loaded."""

    def __init__(self, command: preloaded.Command) -> None:
        self._process = preloaded.start(command)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def status(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> None:
        self._process.join(STOP_TIMEOUT_S)
        assert self._process.exitcode is not None, "the server does not end"
