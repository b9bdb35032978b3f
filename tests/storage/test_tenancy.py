"""Nobody forgets the organization: not a statement of a tenant, and not who sees every tenant."""

import ast
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import pytest

import handinger
from handinger.ids import OrganizationId
from handinger.settings import Settings
from handinger.storage.database import Database, Tenant, TenantStatements, open_database

SOURCE = Path(handinger.__file__).parent

# Every use of `Database.system()`, by module and function, and why it may see every tenant.
ALLOWED = {
    # Looking for the key is how a request finds its organization; the rest is the operator's.
    "keys.authenticate": 1,
    "keys.create_organization": 1,
    "keys.first_organization": 1,
    "keys.list_organizations": 1,
    # The engine works for all, and knows a worker by its lock only.
    "engine.queue.Engine._requeue": 1,
    "engine.queue.Engine._make_anew": 1,
    "turns.claiming.Claims.claim": 1,
    "turns.housekeeping.Housekeeping._measure_queue": 1,
    "turns.housekeeping.forget_old_requests": 1,
    "turns.housekeeping.requeue_orphans": 2,
    # What is due, for whomever: each then acts as the organization that its row names.
    "email.answering.answer": 1,
    "email.delivering.deliver": 1,
    "schedules.firing.Alarm._due": 1,
    "schedules.firing.Alarm.keep_set": 1,
    "schedules.firing.reset": 1,
    "turns.garbage._collect_batch": 1,
    # By a token that nobody can guess, which is how a mail finds its organization.
    "email.addresses.find": 1,
    "email.listing.sent_file": 1,
    # By the ids of turns that this process was given by somebody who may see them.
    "turns.deliveries.Deliveries._write": 1,
    "turns.reading.load_entries": 1,
    "turns.reading.moved": 1,
    "turns.reading.refresh": 1,
    # Nobody's rows at all.
    "api.health._database_problem": 1,
    "live.Hub._notify": 1,
}


class _Uses(ast.NodeVisitor):
    """Where `.system()` is called on what is, by its name, a database."""

    def __init__(self, module: str) -> None:
        self._place = [module]
        self.found: Counter[str] = Counter()

    def _enter(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._place.append(node.name)
        self.generic_visit(node)
        self._place.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enter(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._enter(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._enter(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = ast.unparse(node.value)
        if node.attr == "system" and owner != "platform":
            self.found[".".join(self._place)] += 1
        self.generic_visit(node)


def test_every_use_of_the_system_is_known():
    found: Counter[str] = Counter()
    for path in SOURCE.rglob("*.py"):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        uses = _Uses(module.removesuffix(".__init__"))
        uses.visit(ast.parse(path.read_text()))
        found += uses.found
    assert dict(found) == ALLOWED


def test_nobody_takes_a_connection_past_the_two_ways():
    """The pool is for the storage and for the engine, which hands it to its library."""
    users = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "pool"
    }
    assert users == {"engine/queue.py", "storage/database.py"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tenancy")


@pytest.fixture
async def database(data_dir: Path):
    settings = Settings.model_validate({"data_dir": data_dir})
    async with open_database(settings) as database:
        yield database


@pytest.mark.anyio
async def test_times_are_read_in_utc_whatever_the_database_prefers(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    async with (
        open_database(Settings.model_validate({"data_dir": data_dir})) as database,
        database.system().statements() as sql,
    ):
        last = await sql.value("SELECT timestamptz '9999-12-31 23:00:00Z'")
        assert last == datetime(9999, 12, 31, 23, tzinfo=UTC)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["statements", "transaction", "snapshot"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM workers",
        "SELECT count(*) FROM workers WHERE organization_id = 'org_1'",
        "SELECT count(*) FROM workers WHERE organization_id = %(organization)s",
        "DELETE FROM workers",
        "SELECT 1",
    ],
)
async def test_a_statement_without_the_organization_is_refused(
    database: Database, way: str, sql: LiteralString
):
    tenant = database.tenant(OrganizationId("org_1"))
    async with getattr(tenant, way)() as statements:
        assert isinstance(statements, TenantStatements)
        for send in (
            statements.run(sql, organization="org_1"),
            statements.value(sql, organization="org_1"),
            statements.first(_Row, sql, organization="org_1"),
            statements.all(_Row, sql, organization="org_1"),
        ):
            with pytest.raises(AssertionError, match="forgets the organization"):
                await send


class _Row:
    pass


@pytest.mark.anyio
async def test_a_statement_sees_the_organization_that_it_was_opened_for(database: Database):
    tenants = [Tenant(database.pool, OrganizationId(name)) for name in ("org_1", "org_2")]
    told: list[object] = []
    for tenant in tenants:
        async with tenant.statements() as sql:
            told.append(await sql.value("SELECT %(organization_id)s::text"))
    assert told == ["org_1", "org_2"]
