"""The wheel that users install, in virtual environments that have nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import HandingerServer

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "dev.lock"
SERVER_ONLY = ("fastapi", "psycopg", "pydantic_ai", "sqlalchemy", "uvicorn", "alembic")

pytestmark = pytest.mark.slow


def _run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Nothing of this checkout, and nothing of the person who runs the tests.
    known = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", env={**known, **environment}
    )


def _uv(*arguments: str | Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run([uv, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # What builds it is installed already; nothing is fetched for that.
    _uv("build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _environment(folder: Path, wheel: Path, extra: str = "") -> Path:
    """A new virtual environment with the wheel, in the versions of the lock file."""
    _uv("venv", "--quiet", "--python", sys.executable, folder)
    pinned = folder / "constraints.txt"
    lines = LOCK.read_text().splitlines()
    pinned.write_text("\n".join(line.rstrip(" \\") for line in lines if "==" in line[:80]))
    python = folder / "bin" / "python"
    _uv("pip", "install", "--quiet", "--python", python, "-c", pinned, f"{wheel}{extra}")
    return folder / "bin"


@pytest.fixture(scope="module")
def client_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _environment(tmp_path_factory.mktemp("client") / "venv", wheel)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandingerServer]:
    server = HandingerServer(tmp_path_factory.mktemp("served") / "data")
    try:
        yield server.start()
    finally:
        server.close()


def test_it_is_typed_and_brings_no_server(client_bin: Path):
    script = (
        "import handinger, importlib.util as u, pathlib;"
        "assert (pathlib.Path(handinger.__file__).parent / 'py.typed').exists();"
        f"print([name for name in {SERVER_ONLY} if u.find_spec(name)])"
    )
    done = _run(client_bin / "python", "-W", "error", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_import_warns_of_nothing(client_bin: Path):
    done = _run(client_bin / "python", "-W", "error", "-c", "import handinger")
    assert (done.returncode, done.stderr) == (0, "")


def test_sdk_and_command_line_work_without_the_server(client_bin: Path, server: HandingerServer):
    known = {"HANDINGER_API_KEY": server.key, "HANDINGER_BASE_URL": server.base_url}
    script = (
        "from handinger import Handinger\n"
        "with Handinger() as client:\n"
        "    print(client.workers.create(input='What is 6 * 7?').output_text[-2:])\n"
    )
    done = _run(client_bin / "python", "-W", "error", "-c", script, **known)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
    done = _run(
        *(client_bin / "handinger", "workers", "create", "--input", "What is 6 * 7?"),
        *("--stream", "--transform", "type", "-r"),
        **known,
    )
    assert (done.returncode, done.stdout.split()[-1], done.stderr) == (0, "finish", "")


def test_commands_of_the_server_say_what_is_missing(client_bin: Path):
    done = _run(client_bin / "handinger", "serve")
    assert done.returncode == 2
    assert "pip install 'handinger[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_the_extra_it_serves(wheel: Path, tmp_path: Path):
    folder = _environment(tmp_path / "venv", wheel, "[server]")
    server = HandingerServer(tmp_path / "data", preload=False, command=[str(folder / "handinger")])
    try:
        server.start()
        answer = _run(
            *(folder / "handinger", "workers", "create", "--input", "What is 6 * 7?"),
            *("--transform", "output_text", "-r"),
            HANDINGER_API_KEY=server.key,
            HANDINGER_BASE_URL=server.base_url,
        )
        assert (answer.returncode, answer.stdout[-3:]) == (0, "42\n")
        assert server.terminate() == 0
    finally:
        server.close()
