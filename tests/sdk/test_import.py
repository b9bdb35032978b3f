"""`import handinger` is light, and its names are complete."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import handinger

HEAVY = ("fastapi", "sqlalchemy", "pydantic_ai", "procrastinate", "psycopg", "uvicorn", "alembic")


def _modules_after(code: str) -> list[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_import_loads_nothing_but_itself_and_its_version():
    ours = [name for name in _modules_after("import handinger") if name.startswith("handinger")]
    assert ours == ["handinger", "handinger._version"]


def test_import_loads_no_third_party_module():
    before = set(_modules_after("pass"))
    loaded = set(_modules_after("import handinger")) - before
    assert {name for name in loaded if name.partition(".")[0] in ("pydantic", "httpx2")} == set()


def test_import_takes_less_than_50_ms():
    script = (
        "import time; begin = time.perf_counter(); import handinger;"
        " print(time.perf_counter() - begin)"
    )
    # The best of a few, because the machine may be busy with other tests.
    times = [
        float(
            subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
        )
        for _ in range(5)
    ]
    assert min(times) < 0.05


def test_every_name_can_be_imported_without_the_server():
    modules = _modules_after("from handinger import *")
    assert "handinger.sdk.client" in modules
    assert [name for name in modules if name.partition(".")[0] in HEAVY] == []
    server_side = [name for name in modules if name.startswith("handinger.")]
    assert [name for name in server_side if not name.startswith("handinger.sdk")] == [
        "handinger._version"
    ]


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse(Path(inspect.getfile(handinger)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.name, statement.module)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert {name for name, _ in seen} | {"__version__"} == set(handinger.__all__)
    for name, module in seen:
        assert getattr(handinger, name) is getattr(sys.modules[module or ""], name)


def test_unknown_names_are_attribute_errors():
    assert not hasattr(handinger, "Nonsense")


def test_dir_lists_the_public_names():
    assert set(handinger.__all__) <= set(dir(handinger))
