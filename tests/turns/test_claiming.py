"""Turns that are claimed as they are accepted: begun once, or given back, and never a crash."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import psycopg
import pytest
from tests.support.postgres import joined

from handinger import engine, ids, keys
from handinger.attachments import Attachment
from handinger.budgets import Reservation, Spending
from handinger.engine.worker import JobWorker
from handinger.errors import Superseded
from handinger.ids import WorkerId
from handinger.settings import Settings
from handinger.storage.database import Database, TenantStatements, open_database
from handinger.turns import accept
from handinger.turns.accept import Instruction, NewTurn
from handinger.turns.claiming import ClaimedTurn, Claims

pytestmark = pytest.mark.anyio

LIMITED = pytest.mark.parametrize("balance_credits", [None, 1000], ids=["unlimited", "limited"])


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Of one PostgreSQL that all tests of the module share."""
    data_dir = tmp_path_factory.mktemp("claiming")
    postgres = joined(data_dir)
    yield Settings.model_validate(
        {
            "data_dir": data_dir,
            "database_url": postgres.url,
            "model": "demo",
            "usd_per_credit": "0.000000001",
        }
    )
    postgres.leave()


@pytest.fixture(scope="module")
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with open_database(settings) as database:
        yield database


class Opening:
    """Reserves so much for the first call; before that it does what it is told to."""

    def __init__(
        self, cost_nano: int = 0, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self._cost_nano = cost_nano
        self._meanwhile = meanwhile

    async def prepare(self, turn: ClaimedTurn, sql: TenantStatements) -> None:
        if self._meanwhile is not None:
            await self._meanwhile()

    def reserve(self, spent: Spending, available_nano: int | None) -> Sequence[Reservation]:
        if not self._cost_nano:
            return ()
        return [Reservation("model", "m", 1, self._cost_nano)]


class Jobs:
    """Takes the job of each seat, and never runs it."""

    def __init__(self) -> None:
        self.started: list[str | None] = []

    def start(self, seat: engine.Seat, job: Any) -> None:
        self.started.append(job.lock)


class Scene:
    """One worker, whose first turn this process accepts."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.worker_id = WorkerId(ids.new("wrk"))
        self.claims = Claims(database, settings, node="this")
        self.other = Claims(database, settings, node="other")
        self.jobs = Jobs()

    async def accept(
        self,
        *,
        balance_credits: int | None = None,
        seat_is_gone: bool = False,
        attachments: tuple[Attachment, ...] = (),
    ) -> None:
        organization = await keys.create_organization(self.database, "acme")
        self.tenant = self.database.tenant(organization.id)
        async with self.tenant.statements() as sql:
            if balance_credits is not None:
                await sql.run(
                    "INSERT INTO accounts (organization_id, balance_credits, month)"
                    " VALUES (%(organization_id)s, %(credits)s, '2026-01-01')",
                    credits=balance_credits,
                )
        async with self.database.system().statements() as sql:
            engine_worker = await sql.value(
                "INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id"
            )
        if seat_is_gone:
            engine_worker += 1_000_000
        instruction = Instruction("Work.", "standard", "api", attachments=attachments)
        turn = NewTurn.of(self.worker_id, instruction)
        await accept.create_worker(
            self.database,
            self.settings,
            organization.id,
            turn,
            metadata={},
            seat=engine.Seat(cast(JobWorker, self.jobs), engine_worker, organization.id),
            claims=self.claims,
        )

    async def stored(self) -> dict[str, Any]:
        async with self.tenant.statements() as sql:
            return await sql.value(
                "SELECT json_build_object('status', status, 'attempt', attempt, 'node', node,"
                " 'crashes', crashes, 'reserved', reserved_nano, 'held', held_nano,"
                " 'booked', (SELECT coalesce(sum(cost_nano), 0) FROM ledger l"
                " WHERE l.turn_id = t.id), 'balance', (SELECT balance_credits FROM accounts a"
                " WHERE a.organization_id = t.organization_id))"
                " FROM turns t WHERE organization_id = %(organization_id)s"
            )


@pytest.fixture
def scene(database: Database, settings: Settings) -> Scene:
    return Scene(database, settings)


@LIMITED
async def test_a_turn_is_claimed_as_it_is_accepted_and_reserves_as_it_begins(
    scene: Scene, balance_credits: int | None
) -> None:
    await scene.accept(balance_credits=balance_credits)
    assert scene.jobs.started == [scene.worker_id]
    stored = await scene.stored()
    assert (stored["status"], stored["attempt"], stored["node"]) == ("running", 1, "this")
    turn = await scene.claims.claim(scene.worker_id, opening=Opening(cost_nano=7))
    assert turn is not None
    assert (turn.attempt, turn.crashes) == (1, 0)
    stored = await scene.stored()
    assert (stored["attempt"], stored["reserved"], stored["booked"]) == (1, 7, 0)
    if balance_credits is not None:
        assert stored["held"] == 7
        assert stored["balance"] == balance_credits - 7


async def test_it_is_what_a_claim_would_have_found(scene: Scene) -> None:
    await scene.accept()
    accepted = await scene.claims.claim(scene.worker_id, opening=Opening())
    claimed = await scene.other.claim(scene.worker_id, opening=Opening())
    assert accepted is not None
    assert claimed is not None
    assert claimed.attempt == 2
    assert claimed.crashes == 1  # As the first attempt is over, without a word.
    for name in ClaimedTurn.__slots__:
        if name not in ("attempt", "crashes"):
            assert getattr(accepted, name) == getattr(claimed, name), name


@LIMITED
async def test_who_loses_the_turn_before_it_began_reserves_and_books_nothing(
    scene: Scene, balance_credits: int | None
) -> None:
    await scene.accept(balance_credits=balance_credits)

    async def take_over() -> None:
        assert await scene.other.claim(scene.worker_id, opening=Opening(cost_nano=7)) is not None

    with pytest.raises(Superseded):
        await scene.claims.claim(
            scene.worker_id, opening=Opening(cost_nano=500, meanwhile=take_over)
        )
    stored = await scene.stored()
    assert (stored["attempt"], stored["reserved"], stored["booked"]) == (2, 7, 0)
    if balance_credits is not None:
        assert stored["held"] == 7
        assert stored["balance"] == balance_credits - 7


@LIMITED
async def test_an_attempt_that_cannot_begin_is_no_crash_and_costs_nothing(
    scene: Scene, balance_credits: int | None
) -> None:
    await scene.accept(balance_credits=balance_credits)

    async def fail() -> None:
        raise OSError

    with pytest.raises(OSError):
        await scene.claims.claim(scene.worker_id, opening=Opening(cost_nano=500, meanwhile=fail))
    turn = await scene.claims.claim(scene.worker_id, opening=Opening(cost_nano=7))
    assert turn is not None
    assert (turn.attempt, turn.crashes) == (2, 0)
    stored = await scene.stored()
    assert (stored["reserved"], stored["booked"]) == (7, 0)


async def test_a_turn_that_a_stopping_server_gives_back_has_not_crashed(scene: Scene) -> None:
    await scene.accept()
    before = datetime.now(UTC)
    await scene.claims.give_back(scene.worker_id)
    turn = await scene.other.claim(scene.worker_id, opening=Opening())
    assert turn is not None
    assert (turn.attempt, turn.crashes) == (2, 0)
    assert turn.started_at > before  # Its time has not begun before.


async def test_nor_has_one_that_is_cut_off_before_it_began(scene: Scene) -> None:
    await scene.accept()
    preparing = asyncio.Event()

    async def hang() -> None:
        preparing.set()
        await asyncio.Event().wait()

    opening = Opening(cost_nano=500, meanwhile=hang)
    claiming = asyncio.create_task(scene.claims.claim(scene.worker_id, opening=opening))
    async with asyncio.timeout(30):
        await preparing.wait()
    claiming.cancel()
    await asyncio.gather(claiming, return_exceptions=True)
    turn = await scene.other.claim(scene.worker_id, opening=Opening())
    assert turn is not None
    assert (turn.attempt, turn.crashes) == (2, 0)
    assert (await scene.stored())["booked"] == 0


@pytest.mark.parametrize("error", [psycopg.OperationalError(), asyncio.CancelledError()])
async def test_an_accept_whose_answer_is_lost_is_no_crash(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The statement commits, and nobody hears of it."""
    value = TenantStatements.value

    async def lose_the_answer(self: TenantStatements, sql: Any, **parameters: object) -> Any:
        found = await value(self, sql, **parameters)
        if "INSERT INTO workers" in sql:
            raise error
        return found

    with monkeypatch.context() as patched:
        patched.setattr(TenantStatements, "value", lose_the_answer)
        with pytest.raises(type(error)):
            await scene.accept()
    assert scene.jobs.started == []
    turn = await scene.claims.claim(scene.worker_id, opening=Opening())
    assert turn is not None
    assert (turn.attempt, turn.crashes) == (2, 0)


async def test_a_turn_without_its_seat_is_for_whoever_takes_the_job(scene: Scene) -> None:
    """The worker of the engine is gone, after the database was away."""
    await scene.accept(seat_is_gone=True)
    assert scene.jobs.started == []
    stored = await scene.stored()
    assert (stored["status"], stored["attempt"], stored["node"]) == ("pending", 0, None)
    turn = await scene.other.claim(scene.worker_id, opening=Opening())
    assert turn is not None
    assert (turn.attempt, turn.crashes) == (1, 0)


async def test_a_turn_with_files_is_left_to_the_claim_that_delivers_them(scene: Scene) -> None:
    file = Attachment("inbox/a.txt", "0" * 64, 1, "text/plain", "http://test/inbox/a.txt")
    await scene.accept(attachments=(file,))
    assert scene.jobs.started == [scene.worker_id]
    assert (await scene.stored())["status"] == "pending"
    turn = await scene.claims.claim(scene.worker_id, opening=Opening())
    assert turn is not None
    assert [file.delivered for file in turn.attachments] == [True]
