"""Starts a server of its own, gives a worker something real to do, shows it live, and stops again.

    python scripts/demo.py [--input "What to do with README.md or with https://example.com"]

The files that the instruction names are sent along; pages the worker fetches itself. This machine
is the person's own, so pages of it that the instruction names may be fetched too.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import unquote, urlsplit

import httpx2

from handinger import Handinger, HandingerError, Worker
from handinger.cli.wording import printable
from handinger.errors import HandingerServerError
from handinger.storage.embedded import DataDirectoryInUse, ServeLock

SERVE = (sys.executable, "-m", "handinger", "serve")
CREATE = (sys.executable, "-m", "handinger", "workers", "create")
ROOT = Path(__file__).resolve().parent.parent

INSTRUCTION = (
    "Summarise README.md in a few sentences, write the summary to summary.md, and state how many"
    " words README.md has."
)
MAX_ATTACHED_CHARACTERS = 60_000
MAX_SHOWN_CHARACTERS = 4_000
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 25
INTERRUPTED = 130


def main() -> int:
    """Run the demonstration; the exit status is that of the command line in its middle."""
    parser = argparse.ArgumentParser(description="Give a worker something real to do.")
    parser.add_argument("--input", default=INSTRUCTION, help="what to do")
    # Make hands on an empty INPUT when none is given.
    instruction = parser.parse_args().input.strip() or INSTRUCTION
    print(f"Instruction: {instruction}")
    composed = compose(instruction)
    try:
        with serving(SERVE, private_hosts=named_hosts(instruction)) as server:
            status = watch(composed, server)
            if status != INTERRUPTED:
                show_result(server)
    except (DemoError, HandingerServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


class DemoError(Exception):
    """Ends the demonstration with a sentence for the person."""


# The instruction, with what it names.


def compose(instruction: str) -> str:
    """The instruction and, behind it, the texts of the files that it names."""
    left = MAX_ATTACHED_CHARACTERS
    blocks: list[str] = []
    for name, text in attachments(instruction):
        cut = "" if len(text) <= left else f", cut to {left:,}"
        print(f"Attached: {name} ({len(text):,} characters{cut})")
        text, left = text[:left], max(left - len(text), 0)
        # The fence must be longer than any in the text.
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
        note = f" (only the beginning{cut})" if cut else ""
        blocks.append(f"{name}{note}\n{fence}\n{text}\n{fence}")
    if not blocks:
        return instruction
    lead = "What is named above follows here, because you cannot open it yourself."
    return "\n\n".join([instruction, lead, *blocks])


def attachments(instruction: str) -> Iterator[tuple[str, str]]:
    """A title and a text for each readable file that the instruction names."""
    words = re.sub(r"https?://\S+", " ", instruction)
    names = [name.rstrip(".:!?") for name in re.findall(r"[^\s\"'`<>()\[\],;]+", words)]
    for name in dict.fromkeys(names):
        path = next((base / name for base in (Path(), ROOT) if (base / name).is_file()), None)
        if path is not None and (text := read_file(path)) is not None:
            yield f"File: {name}", text


def named_hosts(instruction: str) -> list[str]:
    """The hosts, with their ports, of the pages that the instruction names."""
    hosts: list[str] = []
    for found in re.finditer(r"https?://[^\s<>\"`]+", instruction):
        try:
            netloc = urlsplit(str(found[0])).netloc.rstrip(".,;:!?)'\"")
        except ValueError:
            continue
        if re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?", netloc):
            hosts.append(netloc)
    return list(dict.fromkeys(hosts))


def read_file(path: Path) -> str | None:
    """The text of a file, or None if it has none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        print(f"Not attached: {path} ({error})")
        return None


# The server.


@dataclass(frozen=True)
class Server:
    """A server that runs for this demonstration only."""

    base_url: str
    api_key: str


@contextmanager
def serving(command: Sequence[str], *, private_hosts: Sequence[str] = ()) -> Generator[Server]:
    """Run a server on a free port, until the block ends. It may fetch from these private hosts."""
    with free_data_dir() as data_dir, tempfile.TemporaryFile() as log:
        port = free_port()
        server = Server(f"http://127.0.0.1:{port}", f"hdg_live_{secrets.token_urlsafe(32)}")
        own = {"HANDINGER_DATA_DIR": str(data_dir), "HANDINGER_BOOTSTRAP_API_KEY": server.api_key}
        if private_hosts:
            own["HANDINGER_FETCH_ALLOW_PRIVATE"] = ",".join(private_hosts)
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the command line, not for the server behind it.
            start_new_session=True,
        )
        try:
            if not answers_in_time(process, server):
                log.seek(0)
                tail = log.read().decode(errors="replace").splitlines()[-30:]
                raise DemoError("\n".join(["The server did not start; its log ends with:", *tail]))
            print(f"Server: {server.base_url}, data in {data_dir}\n", flush=True)
            yield server
        finally:
            stop(process)


@contextmanager
def free_data_dir() -> Generator[Path]:
    """The usual data directory, or a temporary one while another server holds that."""
    usual = Path(os.environ.get("HANDINGER_DATA_DIR") or ".handinger")
    try:
        ServeLock.acquire(usual).release()
    except DataDirectoryInUse:
        with tempfile.TemporaryDirectory(prefix="handinger-demo-") as folder:
            print(f"A server works in {usual}, so this one gets a temporary directory.")
            yield Path(folder)
    else:
        yield usual


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers_in_time(process: subprocess.Popen[bytes], server: Server) -> bool:
    """Wait until the server is healthy; False if it ends before, or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx2.Client(trust_env=False, timeout=2) as http:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if http.get(f"{server.base_url}/healthz").is_success:
                    return True
            except httpx2.TransportError:
                time.sleep(0.1)  # It does not listen yet.
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop this server, and no other."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# The worker.


def watch(instruction: str, server: Server) -> int:
    """Let the command line create a worker and show what it does; its exit status."""
    own = {"HANDINGER_BASE_URL": server.base_url, "HANDINGER_API_KEY": server.api_key}
    # Ctrl-C reaches the command line too, which then says how to come back, and ends by itself.
    former = signal.signal(signal.SIGINT, leave_it_to_the_command_line)
    try:
        return subprocess.run(
            [*CREATE, "--stream", "--format", "pretty", "--input", "@-"],
            input=instruction.encode(),
            env={**os.environ, **own},
            check=False,
        ).returncode
    finally:
        signal.signal(signal.SIGINT, former)


def leave_it_to_the_command_line(number: int, frame: FrameType | None) -> None:
    """A handler, because a child would inherit that the signal is ignored."""
    del number, frame


def show_result(server: Server) -> None:
    """Which model it was, and the first text that the worker published."""
    with Handinger(base_url=server.base_url, api_key=server.api_key) as client:
        try:
            worker = client.workers.list(limit=1).workers[0]
            print(f"\nModel: {worker.metadata.get('model')}")
            show_first_text(client, worker)
        except (HandingerError, IndexError) as error:
            print(f"\nThere is no result to show: {error}")


def show_first_text(client: Handinger, worker: Worker) -> None:
    """Fetch and print it."""
    for file in worker.files:
        if file.media_type.startswith("text/"):
            path = file.filename or unquote(file.url.rpartition("/files/")[2])
            text = client.workers.retrieve_file(path, worker_id=worker.id).read().decode()
            print(f"\n--- {path}\n{printable(text[:MAX_SHOWN_CHARACTERS])}\n---")
            return


if __name__ == "__main__":
    sys.exit(main())
