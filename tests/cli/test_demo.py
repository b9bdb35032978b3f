"""The demonstration script, with a small server of its own in place of the real one."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.sdk.stub import Stub, events, raw, reply, turn_frames, worker

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HANDINGER_DATA_DIR", raising=False)


def test_named_files_are_attached(demo: ModuleType, capsys: pytest.CaptureFixture[str]):
    Path("notes.md").write_text("# Notes\n```\ncode\n```\n")
    Path("other.txt").write_text("other")
    composed = demo.compose(
        'Compare "notes.md" with (other.txt), and notes.md. Not with missing.txt!'
    )
    assert composed.startswith('Compare "notes.md"')
    assert "File: notes.md\n````\n# Notes\n```\ncode\n```\n\n````" in composed
    assert "File: other.txt\n```\nother\n```" in composed
    assert composed.count("File: ") == 2
    assert "Attached: File: notes.md (" in capsys.readouterr().out


def test_the_usual_instruction_brings_the_readme(demo: ModuleType):
    assert "File: README.md\n```" in demo.compose(demo.INSTRUCTION)


def test_an_instruction_that_names_nothing_stays_as_it_is(demo: ModuleType):
    assert demo.compose("What is 6 times 7?") == "What is 6 times 7?"


def test_attachments_are_cut_to_a_stated_size(demo: ModuleType, capsys: pytest.CaptureFixture[str]):
    Path("a").write_text("a" * 50_000)
    Path("b").write_text("b" * 50_000)
    composed = demo.compose("Read a and b")
    assert composed.count("b") < 10_100
    assert "(only the beginning, cut to 10,000)" in composed
    assert "File: b (50,000 characters, cut to 10,000)" in capsys.readouterr().out


def test_what_is_no_text_is_named_and_left_out(
    demo: ModuleType, capsys: pytest.CaptureFixture[str]
):
    Path("image.png").write_bytes(b"\x89PNG\xff")
    assert demo.compose("Look at image.png") == "Look at image.png"
    assert "Not attached: image.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("instruction", "hosts"),
    [
        ("What is 6 times 7?", []),
        (
            "Read https://example.com/a, then (http://localhost:8000).",
            ["example.com", "localhost:8000"],
        ),
        ("Read http://[::1]:8000/x and http://[::1]:8000/y", ["[::1]:8000"]),
        ("Read http://user@127.0.0.1/ and http://[::1 and http://*/", []),
    ],
)
def test_pages_that_are_named_may_be_fetched(demo: ModuleType, instruction: str, hosts: list[str]):
    assert demo.named_hosts(instruction) == hosts
    assert demo.compose(instruction) == instruction


# Stands for `handinger serve`: it forwards to the stub, and tells how it ends.
SERVER = """
import http.server, json, os, pathlib, signal, sys, urllib.request
port = int(sys.argv[sys.argv.index("--port") + 1])
target, note = sys.argv[1], pathlib.Path(sys.argv[2])
note.write_text(json.dumps([os.environ["HANDINGER_BOOTSTRAP_API_KEY"],
                            os.environ["HANDINGER_DATA_DIR"]]))

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        if self.path == "/healthz":
            self.send_response(200); self.end_headers(); return
        body = self.rfile.read(int(self.headers.get("content-length", 0))) or None
        request = urllib.request.Request(target + self.path, body, dict(self.headers))
        with urllib.request.urlopen(request) as answer:
            self.send_response(answer.status)
            for name in ("content-type", "x-handinger-worker-id", "x-handinger-turn-id"):
                if name in answer.headers: self.send_header(name, answer.headers[name])
            self.end_headers()
            while chunk := answer.read1(): self.wfile.write(chunk); self.wfile.flush()
    do_POST = do_GET

def stop(*_):
    note.with_suffix(".stopped").touch()
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

FILE = {"filename": "summary.md", "mediaType": "text/markdown", "url": "u/files/x", "size": 3}
DONE = worker(files=[FILE])


def _run(stub: Stub, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """The script, with the server above instead of the real one."""
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, str(tmp_path / "server.py"), stub.url, str(tmp_path / "note")]
    script = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import demo\n"
        f"demo.SERVE = {command!r}\n"
        f"sys.exit(demo.main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_the_whole_demonstration(stub: Stub, tmp_path: Path):
    stub.on("POST /api/workers", events(*turn_frames(files=[FILE])))
    stub.on("GET /api/workers", reply({"workers": [DONE], "nextCursor": None}))
    stub.on(f"GET /api/workers/{DONE['id']}/files/summary.md", raw(b"Short \x1b[2Jand good."))
    with _run(stub, tmp_path, "--input", "") as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    key, data_dir = json.loads((tmp_path / "note").read_text())
    assert data_dir == ".handinger"
    assert {request.headers["authorization"] for request in stub.requests} == {f"Bearer {key}"}
    assert "File: README.md\n```" in stub.requests[0].json["input"]
    shown = (
        "Attached: File: README.md",
        "Server: http://127.0.0.1:",
        "Forty-two.",
        "file  summary.md",
        "Model: demo",
        "--- summary.md\nShort [2Jand good.\n---",
    )
    places = [out.index(part) for part in shown]
    assert places == sorted(places)
    assert (tmp_path / "note.stopped").exists()


def test_ctrl_c_stops_the_server_too(stub: Stub, tmp_path: Path):
    stub.on("POST /api/workers", *[lambda handler: time.sleep(60)] * 3)
    stub.on("GET /api/workers", reply({"workers": [DONE], "nextCursor": None}))
    with _run(stub, tmp_path, "--input", "a") as process:
        deadline = time.monotonic() + 30
        while not stub.requests:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # What a terminal does on Ctrl-C.
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "Detached" in out
    assert "Traceback" not in out
    assert (tmp_path / "note.stopped").exists()


def test_a_server_that_does_not_start_shows_its_log(demo: ModuleType):
    command = [sys.executable, "-c", "import sys; sys.exit('the port is cursed')"]
    with (
        pytest.raises(demo.DemoError, match=r"(?s)did not start.*the port is cursed"),
        demo.serving(command),
    ):
        pytest.fail("it never runs")


def test_a_data_directory_in_use_is_left_alone(
    demo: ModuleType, capsys: pytest.CaptureFixture[str]
):
    with demo.free_data_dir() as usual:
        assert usual == Path(".handinger")
    holder = demo.ServeLock.acquire(usual)
    with demo.free_data_dir() as other:
        assert other != usual
        assert other.is_dir()
    holder.release()
    assert not other.exists()
    assert "A server works in .handinger" in capsys.readouterr().out
