"""`handinger` and `python` for shells, run in forks of a process that has imported everything.

A script of many commands spends nearly all of its time on starting Python. Here each of them is a
small program that hands its arguments, folder, environment and streams to a process that forks, and
ends as that fork does. What runs in it is the real command, from its entry point on.
"""

import contextlib
import gc
import importlib
import marshal
import os
import pkgutil
import signal
import socket
import sys
import warnings
from collections.abc import Generator
from pathlib import Path

from tests.support import preloaded

# Few modules, so that it starts in no time; `-I -S` leaves the rest out.
_PROGRAM = """#!{python} -IS
import marshal, os, socket, sys
if {name!r} == "python" and sys.argv[1:] not in {prepared!r}:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = marshal.dumps(({name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)))
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(told)
    server.shutdown(socket.SHUT_WR)
    status = server.recv(1)
os._exit(status[0] if status else 70)
"""


# Ways to run a program from the input; Python itself does the rest.
_FROM_INPUT = (["-"], ["-W", "error", "-"])


@contextlib.contextmanager
def preloaded_commands(folder: Path) -> Generator[Path]:
    """A folder for `PATH`, that has the commands as long as the context lasts."""
    address = str(folder / "commands")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(100)
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name in ("handinger", "python"):
            program = bin_folder / name
            given = {"python": sys.executable, "address": address, "prepared": _FROM_INPUT}
            program.write_text(_PROGRAM.format(name=name, **given))
            program.chmod(0o755)
        process = preloaded.fork(_serve, listener)
    try:
        yield bin_folder
    finally:
        process.kill()
        process.join()


def _serve(listener: socket.socket) -> None:
    for package in ("handinger.cli", "handinger.sdk"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")
    importlib.import_module("handinger.agent.mcp")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for the forks.
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _carry_out(client)
        client.close()


def _carry_out(client: socket.socket) -> None:
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile("rb") as told:
        name, arguments, folder, environment = marshal.loads(told.read())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = [name, *arguments]
    status = _status_of(name)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # Its reader has gone.
            stream.flush()
    client.sendall(bytes([status]))
    os._exit(0)


def _status_of(name: str) -> int:
    from handinger.cli.main import main

    try:
        if name == "handinger":
            main()
        else:
            warnings.resetwarnings()
            warnings.simplefilter("error" if "error" in sys.argv else "default")
            exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else end.code is not None
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType] # one is there
        return 1
    return 0
