"""The documentation is complete, and true where a machine can tell."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from cyclopts import App

from handinger.agent import tools
from handinger.api import errors as api_errors
from handinger.cli.main import app as command_line
from handinger.errors import RequestError
from handinger.server import describe_app
from handinger.settings import DEFAULT_BUDGETS, BudgetName, Settings
from handinger.turns.endings import ErrorCode, IncompleteReason

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# What the SDK and the command line read, which is no setting of the server.
CLIENT_VARIABLES = {"HANDINGER_API_KEY", "HANDINGER_BASE_URL"}
SETTINGS = {f"HANDINGER_{name.upper()}" for name in Settings.model_fields}
VARIABLE = re.compile(r"HANDINGER_[A-Z][A-Z_]*[A-Z]")


def _page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def _row(page: str, first: str) -> list[str]:
    rows = [row for row in _rows(_page(page)) if row[0] == first]
    assert len(rows) == 1, f"{page} has {len(rows)} rows for {first}"
    return rows[0]


# Settings


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_described_with_its_default(name: str):
    _, default, meaning, example = _row("docs/configuration.md", f"`HANDINGER_{name.upper()}`")
    assert default == _written_default(name)
    assert meaning.endswith((".", ")"))
    assert example.startswith("`")


def _written_default(name: str) -> str:
    default: object = Settings.model_fields[name].default
    match default:
        case _ if name == "budgets":
            return "see [below](#budgets)"
        case _ if name == "prices":
            return "none"
        case None:
            return "not set"
        case float():
            return f"`{default:g}`"
        case _:
            return f"`{default}`"


@pytest.mark.parametrize("level", list(DEFAULT_BUDGETS))
def test_every_budget_is_described_with_its_caps(level: BudgetName):
    _, *caps = _row("docs/configuration.md", f"`{level}`")
    limits = DEFAULT_BUDGETS[level]
    assert caps == [
        "null" if cap is None else f"{cap:g}"
        for cap in (limits.model_calls, limits.usd, limits.seconds)
    ]


def test_readme_lists_settings_as_the_reference_does():
    table = _page("README.md").partition("\n## Configuration\n")[2].partition("\n## ")[0]
    rows = [row for row in _rows(table) if row[0].startswith("`")]
    assert len(rows) >= 5
    for variable, default, _ in rows:
        if variable != "`HANDINGER_BUDGETS`":
            assert default == _row("docs/configuration.md", variable)[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_variable_that_is_named_exists(page: Path):
    named = set(VARIABLE.findall(page.read_text(encoding="utf-8")))
    assert named - SETTINGS - CLIENT_VARIABLES == set()


# Routes and errors


def _routes() -> list[str]:
    paths = describe_app().openapi()["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


@pytest.mark.parametrize("route", _routes())
def test_every_route_is_described(route: str):
    assert len(_row("docs/http-api.md", f"`{route}`")) == 2


def test_no_route_is_described_that_does_not_exist():
    described = {
        row[0].strip("`")
        for row in _rows(_page("docs/http-api.md"))
        if re.match(r"`[A-Z]+ /", row[0])
    }
    assert described == set(_routes())


def _error_classes(root: type[RequestError] = RequestError) -> Iterator[type[RequestError]]:
    for error in root.__subclasses__():
        yield error
        yield from _error_classes(error)


@pytest.mark.parametrize("error", list(_error_classes()), ids=lambda error: error.__name__)
def test_every_error_is_described_with_its_status(error: type[RequestError]):
    described = [row[:2] for row in _rows(_page("docs/http-api.md"))]
    assert [str(error.status), f"`{error.default_code}`"] in described


def _codes_in_routes() -> set[str]:
    """Codes that the HTTP layer writes itself: the third argument of `error_response`."""
    codes: set[str] = set(api_errors._HTTP_CODES.values())
    for path in Path(api_errors.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="error_response"), args=[_, _, ast.Constant(value=str(code))]
                ):
                    codes.add(code)
                case _:
                    pass
    return codes


@pytest.mark.parametrize("code", sorted(_codes_in_routes()))
def test_every_code_of_the_http_layer_is_described(code: str):
    assert f"`{code}`" in _page("docs/http-api.md").partition("\n## Errors\n")[2]


def test_there_are_codes_of_the_http_layer():
    assert {"precondition_failed", "internal_error"} <= _codes_in_routes()


@pytest.mark.parametrize("code", [*get_args(ErrorCode), *get_args(IncompleteReason)])
def test_every_way_to_end_is_described(code: str):
    rows = [row[0] for row in _rows(_page("docs/http-api.md"))]
    assert f"`{code}`" in rows


# Tools and commands


def _tools() -> Iterator[tuple[str, list[str]]]:
    """Every tool with its parameters, those that may be left out with their value."""
    for module in pkgutil.iter_modules(tools.__path__, f"{tools.__name__}."):
        for tool in getattr(importlib.import_module(module.name), "tools", list)():
            schema = tool.function_schema.json_schema
            yield tool.name, [_parameter(*item) for item in schema["properties"].items()]


def _parameter(name: str, schema: dict[str, object]) -> str:
    if "default" not in schema:
        return f"`{name}`"
    default = schema["default"]
    return f'`{name}="{default}"`' if isinstance(default, str) else f"`{name}={default}`"


@pytest.mark.parametrize(("tool", "parameters"), list(_tools()))
def test_every_tool_is_described_with_its_parameters(tool: str, parameters: list[str]):
    assert _row("docs/tools.md", f"`{tool}`")[1] == (", ".join(parameters) or "-")


def _commands(app: App = command_line, above: str = "handinger") -> Iterator[str]:
    for name in app:
        if name.startswith("-"):
            continue
        below = list(_commands(app[name], f"{above} {name}"))
        yield from below or [f"{above} {name}"]


@pytest.mark.parametrize("command", list(_commands()))
def test_every_command_is_described(command: str):
    assert len(_row("docs/cli.md", f"`{command}`")) == 2


# Links


LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in LINK.findall(prose):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(
    ("page", "target"), list(_links()), ids=lambda part: getattr(part, "name", part)
)
def test_every_link_leads_somewhere(page: Path, target: str):
    name, _, anchor = target.partition("#")
    found = (page.parent / name) if name else page
    assert found.exists()
    if anchor:
        assert anchor in _anchors(found.read_text(encoding="utf-8"))


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_in_the_list():
    records = {path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    assert set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", _page("docs/adr/README.md"))) == records
