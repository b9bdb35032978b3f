"""What holds for every file of the project, whoever wrote it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "handinger"
OWN_NAME = Path(__file__).relative_to(ROOT)

FOLDERS = ("src", "tests", "docs", "scripts", "benchmarks")
SUFFIXES = {".py", ".md", ".sql", ".mako", ".toml", ".yaml", ".yml", ".json", ".txt", ""}

# Where a developer's or a build machine's own folders are.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~])/(?:home/[a-z][\w-]*/|Users/[A-Za-z][\w-]*/|root/|work/|mnt/|workspaces?/)"
    r"|[A-Z]:\\Users\\"
)
UNFINISHED = re.compile(r"\b(?:TODO|FIXME)\b")


def _texts() -> Iterator[tuple[str, str]]:
    """Every text file of the project, with its path from the root."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in sorted([*files, *ROOT.iterdir()]):
        name = path.relative_to(ROOT)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parent.parts)
        if name == Path(".git"):
            continue  # In a worktree a file, with a path of the machine in it.
        if path.is_file() and path.suffix in SUFFIXES and not hidden and name != OWN_NAME:
            yield name.as_posix(), path.read_text(encoding="utf-8")


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def _lines_with(pattern: re.Pattern[str], folders: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in _texts()
        if not folders or name.startswith(folders)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_somebodys_machine():
    assert _lines_with(MACHINE_PATHS) == []


@pytest.mark.parametrize(
    "line",
    [
        "see /home/ada/handinger/notes",
        'path = "/Users/ada/handinger"',
        "cd /work/handinger",  # a build machine
        "C:\\Users\\ada",
    ],
)
def test_a_path_of_somebodys_machine_is_found(line: str):
    assert MACHINE_PATHS.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "GET /api/workers/{workerId}",
        "https://example.com/home/page",
        "/var/lib/handinger",  # made by the server itself
        "src/handinger/workers.py",
    ],
)
def test_other_paths_are_left_alone(line: str):
    assert not MACHINE_PATHS.search(line)


def test_nothing_is_marked_as_unfinished():
    assert _lines_with(UNFINISHED, ("src/", "tests/", "docs/")) == []


def test_every_module_says_what_it_owns():
    silent = {name for name, module in _modules() if not ast.get_docstring(module)}
    assert silent <= {"_version.py"}  # Its one constant says it.


def test_nothing_that_answers_a_request_is_called_in_a_thread():
    threaded = [
        f"{name}:{function.lineno}: {function.name}"
        for name, module in _modules()
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef)
        and (_is_route(function) or function.name in _dependencies(module))
    ]
    assert threaded == []


def _is_route(function: ast.FunctionDef) -> bool:
    return any(
        ast.unparse(decorator).startswith("router.") for decorator in function.decorator_list
    )


def _dependencies(module: ast.Module) -> set[str]:
    return {
        ast.unparse(call.args[0])
        for call in ast.walk(module)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Depends"
    }
