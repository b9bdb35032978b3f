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

# Who may see every tenant's rows, and why it must.
SYSTEM_USES = {
    "api/health.py _database_problem",  # asks whether the database answers
    "email/addresses.py find",  # finds out whose mail it is
    "email/answering.py answer",  # a job names a turn, and the look says whose it is
    "email/delivering.py deliver",  # a job names a mail
    "email/listing.py sent_file",  # by the token of a mail, which its recipient has
    "engine/queue.py Engine._requeue",  # the queue knows no tenants
    "engine/queue.py Engine._rescue",
    "keys.py authenticate",  # finds out whose request it is
    "keys.py create_organization",  # organizations are the tenants
    "keys.py first_organization",
    "keys.py list_organizations",
    "live.py Hub._notify",  # a notice, no rows
    "schedules/firing.py Alarm.keep_set",  # a time, no rows
    "schedules/firing.py Alarm._due",  # finds out whose schedules are due
    "schedules/firing.py reset",  # a time, no rows
    "turns/deliveries.py Deliveries._write",  # by ids that this process was given
    "turns/execution.py claim",  # a job names a worker, and the claim says whose it is
    "turns/garbage.py _collect_batch",  # bytes of workers that may be gone
    "turns/housekeeping.py Housekeeping._measure_queue",  # counts
    "turns/housekeeping.py forget_old_requests",
    "turns/housekeeping.py requeue_orphans",
    "turns/reading.py load_entries",  # of a turn that its caller may read
    "turns/reading.py moved",
    "turns/reading.py refresh",
}


def _texts() -> Iterator[tuple[str, str]]:
    """Every text file of the project, with its path from the root."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in sorted([*files, *ROOT.iterdir()]):
        name = path.relative_to(ROOT)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parent.parts)
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


def test_who_sees_every_tenant_is_listed():
    uses = {
        f"{name} {function}"
        for name, module in _modules()
        for function in _users_of_system(module)
        if name != "storage/database.py"
    }
    assert uses == SYSTEM_USES


def _users_of_system(tree: ast.AST, inside: str = "") -> Iterator[str]:
    """The functions, dotted behind their classes, that call `Database.system`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _users_of_system(node, f"{inside}.{node.name}".lstrip("."))
            continue
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="platform"))):
                pass  # The standard library's.
            case ast.Call(func=ast.Attribute(attr="system")):
                yield inside
            case _:
                pass
        yield from _users_of_system(node, inside)
