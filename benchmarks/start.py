"""How long until a started server is healthy, and what importing the SDK takes and loads."""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tests.support.server import START_TIMEOUT_S, HandingerServer

from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Stage

_IMPORT = """
import json, sys, time
began = time.perf_counter()
import handinger
took_s = time.perf_counter() - began
handinger.Handinger
client_s = time.perf_counter() - began
print(json.dumps([took_s, client_s, sorted(sys.modules)]))
"""
_SERVER_ONLY = frozenset(
    [
        "alembic",
        "fastapi",
        "genai_prices",
        "limits",
        "obstore",
        "procrastinate",
        "psycopg",
        "psycopg_pool",
        "pydantic_ai",
        "pydantic_settings",
        "sqlalchemy",
        "starlette",
        "uvicorn",
        "uvloop",
    ]
)


def run(stage: Stage) -> Part:
    """Each round begins on a new data directory and comes back to it."""
    part = Part("start", "from exec to the first 200 of /healthz; importing the SDK")
    new_s, old_s = list[float](), list[float]()
    for _ in range(stage.count(4, quick=1)):
        with tempfile.TemporaryDirectory(prefix="handinger-bench-") as folder:
            data_dir = Path(folder) / "data"
            for samples in (new_s, old_s):
                samples.append(_start_and_stop(stage, data_dir))
    import_ms, client_ms, foreign = list[float](), list[float](), set[str]()
    for _ in range(stage.count(7, quick=3)):
        printed = subprocess.check_output([sys.executable, "-c", _IMPORT])
        import_s, client_s, modules = json.loads(printed)
        import_ms.append(import_s * 1000)
        client_ms.append(client_s * 1000)
        foreign |= {name for name in modules if _belongs_to_the_server(name)}
    part.rows = [
        Row("start on a new data directory", "s", new_s, bound=Bound(at_most=6)),
        Row("start on an old data directory", "s", old_s, bound=Bound(at_most=4)),
        Row("import handinger", "ms", import_ms, bound=Bound(at_most=300)),
        Row("the same, and name its client", "ms", client_ms, bound=Bound(at_most=300)),
        Row("server modules that this loads", "", [len(foreign)], bound=Bound(at_most=0)),
    ]
    if foreign:
        part.notes.append(f"Loaded, and should not be: {', '.join(sorted(foreign))}.")
    return part


def _start_and_stop(stage: Stage, data_dir: Path) -> float:
    server = HandingerServer(data_dir, model_url=stage.model.base_url, preload=False)
    try:
        began = time.monotonic()
        server.start(wait=False)
        _wait_until_healthy(server)
        return time.monotonic() - began
    finally:
        server.close()


def _wait_until_healthy(server: HandingerServer) -> None:
    """A closer look than the tests' own, which costs the server's start more than it sees."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=1)) as http_:
                http_.request("GET", "/healthz")
                if http_.getresponse().status == 200:
                    return
        except OSError:
            time.sleep(0.01)
    raise TimeoutError(f"the server did not become healthy: {server.log()}")


def _belongs_to_the_server(module: str) -> bool:
    top, _, rest = module.partition(".")
    if top == "handinger":
        return bool(rest) and not rest.startswith(("sdk", "_version"))
    return top in _SERVER_ONLY
