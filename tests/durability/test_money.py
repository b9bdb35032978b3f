"""kill -9 between reserve and settle: nothing charged twice, nothing lost, nothing left over."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

import pytest

from handinger import keys
from handinger.budgets import accounts
from handinger.settings import Settings
from handinger.storage.database import open_database
from tests.durability.holding import Write
from tests.durability.observing import wait_for
from tests.durability.stand import Stand, accept, killed_in, post
from tests.support.hosts import require_sandboxes
from tests.support.ledger import CHECKS
from tests.support.model_server import ModelServer, Step, ToolCall, Usage
from tests.support.site import Reply, Site

_USAGE = Usage(prompt_tokens=100, completion_tokens=10)
_SETTLED_NANO = 100 * 3000 + 10 * 15_000
_LIST = ToolCall("list_files", {})
_SEARCH = ToolCall("web_search", {"query": "herons"})
_SEARCH_NANO = 5_000_000
_COMMAND = ToolCall("run_command", {"command": "sleep 0.1", "timeout_seconds": 7})
# Seven seconds, and five to stop it, at 0.01 USD.
_COMMAND_NANO = 120_000_000


class SearchEngine(Site):
    """Finds nothing; while it is held, it does not even say that."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        super().__init__({"/search": self._answer})

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        assert self.free.wait(60)
        Reply(json.dumps({"results": []}), media_type="application/json")(request)


@pytest.fixture(scope="module")
def engine() -> Iterator[SearchEngine]:
    engine = SearchEngine()
    with engine:
        yield engine


@pytest.fixture(scope="module")
def paid_stand(tmp_path_factory: pytest.TempPathFactory, engine: SearchEngine) -> Iterator[Stand]:
    """A server whose model, searches and commands have a price."""
    with ModelServer() as model:
        stand = Stand(
            tmp_path_factory.mktemp("paid"),
            model,
            environment={
                "HANDINGER_PRICES": '{"*": {"input": 3, "output": 15}}',
                "HANDINGER_SEARCH_PROVIDER": "searxng",
                "HANDINGER_SEARCH_URL": engine.origin,
                "HANDINGER_SEARCH_USD": str(_SEARCH_NANO / 1e9),
                "HANDINGER_SANDBOX_USD_PER_SECOND": "0.01",
                "HANDINGER_CONTEXT_WINDOW": "6000",
            },
        )
        yield stand
        stand.close()


def _ended(stand: Stand, turn_id: object) -> list[tuple[str, bool, int]]:
    """What was booked for a turn once it has ended; all sums agree, and nothing is reserved."""
    wait_for(
        lambda: stand.observer.rows(
            "SELECT 1 FROM turns WHERE id = %s AND status = 'completed'", turn_id
        ),
        "the turn to end",
        timeout_s=60,
    )
    for what, query in CHECKS.items():
        assert stand.observer.rows(query) == [], what  # pyright: ignore[reportArgumentType] # Ours.
    booked = stand.observer.rows(
        "SELECT kind, settled, cost_nano FROM ledger WHERE turn_id = %s ORDER BY id", turn_id
    )
    return cast(list[tuple[str, bool, int]], booked)


def _latest_turn(stand: Stand, worker_id: str) -> str:
    return stand.observer.turns(worker_id)[-1]


@pytest.mark.parametrize("held_step", [0, 1])
def test_a_call_whose_process_dies_is_paid_in_full_and_once(
    paid_stand: Stand, held_step: int
) -> None:
    """In the first call of a turn, which its claim paid for, or in one that a step did."""
    stand, name = paid_stand, f"dies{held_step}"
    gates = [f"{name}.held" if step == held_step else None for step in range(2)]
    stand.model.script(
        name,
        [
            Step(text="Looking.", tool_calls=[_LIST], usage=_USAGE, gate=gates[0]),
            Step(text="Done.", usage=_USAGE, gate=gates[1]),
        ],
    )
    worker_id = accept(stand.server, "", f"[[script:{name}]] Work.").json()["id"]
    stand.model.wait_for_requests(name, held_step + 1, timeout_s=30)
    ((turn_id, reserved),) = stand.observer.rows(
        "SELECT id, reserved_nano FROM turns WHERE worker_id = %s", worker_id
    )
    assert isinstance(reserved, int)
    assert reserved > _SETTLED_NANO
    stand.kill()
    stand.model.open_gate(f"{name}.held")
    stand.start()

    booked = [(settled, nano) for _, settled, nano in _ended(stand, turn_id)]
    settled = (True, _SETTLED_NANO)
    assert booked == [settled] * held_step + [(False, reserved)] + [settled] * (2 - held_step)
    worker = stand.get(worker_id).json()
    assert round(worker["usage"]["costUsd"] * 1e9) == reserved + 2 * _SETTLED_NANO
    assert worker["usage"]["steps"] == 2


_slow = pytest.mark.slow


@pytest.mark.parametrize(
    "committed",
    [False, pytest.param(True, marks=_slow)],
    ids=["before its commit", "after its commit"],
)
def test_a_call_whose_answer_was_being_stored_is_paid_once_if_it_is_stored(
    paid_stand: Stand, committed: bool
) -> None:
    stand, name = paid_stand, f"stored{committed}"
    stand.model.script(
        name, [Step(tool_calls=[_LIST], usage=_USAGE), Step(text="Done.", usage=_USAGE)]
    )
    with killed_in(stand, Write("ledger", "INSERT", committed=committed)):
        worker_id = accept(stand.server, "", f"[[script:{name}]] Work.").json()["id"]
    stand.start()

    booked = _ended(stand, _latest_turn(stand, worker_id))
    settled = ("model", True, _SETTLED_NANO)
    made = len(stand.model.requests(name))
    if committed:
        # It called a tool that costs nothing; nothing was reserved when the process died.
        assert (made, booked) == (2, [settled] * 2)
    else:
        lost = booked[0]
        assert (made, booked) == (3, [lost, settled, settled])
        assert lost[:2] == ("model", False)


@pytest.fixture
def balance(paid_stand: Stand) -> Iterator[int]:
    """The organization of the stand has so many credits, for as long as a test lasts."""
    configured = Settings.model_validate(
        {"data_dir": paid_stand.data_dir, "database_url": paid_stand.observer.url}
    )

    async def grant(credits: int) -> None:
        async with open_database(configured) as database:
            organization = await keys.first_organization(database)
            if credits:
                await accounts.grant(database, organization.id, credits=credits)
            else:
                await accounts.lift(database, organization.id)

    asyncio.run(grant(1000))
    yield 1000
    asyncio.run(grant(0))


@pytest.mark.parametrize(
    "died", ["in a model's call", pytest.param("in a tool's call", marks=_slow)]
)
def test_what_is_kept_for_the_conclusion_is_not_paid_for_when_its_process_dies(
    paid_stand: Stand, engine: SearchEngine, balance: int, died: str
) -> None:
    """No call was made with it; with an account, the others are kept from it, no more."""
    stand, name = paid_stand, died.replace(" ", "-").replace("'", "")
    in_model = died == "in a model's call"
    gate = f"{name}.held" if in_model else None
    engine.seen.clear()
    stand.model.script(
        name,
        [Step(tool_calls=[_SEARCH], usage=_USAGE, gate=gate), Step(text="Done.", usage=_USAGE)],
    )
    if not in_model:
        engine.free.clear()
    worker_id = accept(stand.server, "", f"[[script:{name}]] Work.").json()["id"]
    if in_model:
        stand.model.wait_for_requests(name, 1, timeout_s=30)
    else:
        wait_for(lambda: engine.seen, "the search", timeout_s=30)
    ((turn_id, reservations, held),) = stand.observer.rows(
        "SELECT id, reservations, held_nano FROM turns WHERE worker_id = %s", worker_id
    )
    under_way, kept = cast(list[dict[str, Any]], reservations)
    assert (under_way["is_kept"], kept["is_kept"]) == (False, True)
    assert held == under_way["cost_nano"] + kept["cost_nano"]
    stand.kill()
    stand.model.open_gate(f"{name}.held")
    engine.free.set()
    stand.start()

    booked = _ended(stand, turn_id)
    model, search = ("model", True, _SETTLED_NANO), ("tool", True, _SEARCH_NANO)
    lost = (under_way["kind"], False, under_way["cost_nano"])
    assert booked == ([lost, model, search, model] if in_model else [model, lost, search, model])
    ((left, credits, held_credits),) = stand.observer.rows(
        "SELECT a.balance_credits, t.credits, t.held_credits FROM accounts a"
        " JOIN turns t USING (organization_id) WHERE t.id = %s",
        turn_id,
    )
    spent = -(-sum(nano for *_, nano in booked) // 10_000_000)
    assert (left, credits, held_credits) == (balance - spent, spent, spent)


@pytest.mark.parametrize(
    "died",
    [
        pytest.param("under way", marks=_slow),
        "before its commit",
        pytest.param("after its commit", marks=_slow),
    ],
)
def test_a_search_is_paid_as_often_as_it_was_made(
    paid_stand: Stand, engine: SearchEngine, died: str
) -> None:
    """It may be made again, as it changes nothing."""
    stand, name = paid_stand, f"search {died}".replace(" ", "-")
    engine.seen.clear()
    stand.model.script(
        name, [Step(tool_calls=[_SEARCH], usage=_USAGE), Step(text="Done.", usage=_USAGE)]
    )
    if died == "under way":
        engine.free.clear()
        worker_id = accept(stand.server, "", f"[[script:{name}]] Work.").json()["id"]
        wait_for(lambda: engine.seen, "the search", timeout_s=30)
        stand.kill()
        engine.free.set()
    else:
        write = Write("ledger", "INSERT", 2, committed=died == "after its commit")
        with killed_in(stand, write):
            worker_id = accept(stand.server, "", f"[[script:{name}]] Work.").json()["id"]
    stand.start()

    booked = _ended(stand, _latest_turn(stand, worker_id))
    model, search = ("model", True, _SETTLED_NANO), ("tool", True, _SEARCH_NANO)
    if died == "after its commit":
        # For the next call of the model was reserved, and nobody knows that it was not made.
        unknown = booked[2]
        assert unknown[:2] == ("model", False)
        assert booked == [model, search, unknown, model]
        assert len(engine.seen) == 1
    else:
        assert booked == [model, ("tool", False, _SEARCH_NANO), search, model]
        assert len(engine.seen) == 2


@pytest.mark.parametrize(
    "committed",
    [False, pytest.param(True, marks=_slow)],
    ids=["before its commit", "after its commit"],
)
def test_a_command_is_paid_once(paid_stand: Stand, committed: bool) -> None:
    """It is not run again, as nobody knows what it did."""
    require_sandboxes()
    stand, name = paid_stand, f"command{committed}"
    stand.model.script(
        name, [Step(tool_calls=[_COMMAND], usage=_USAGE), Step(text="Done.", usage=_USAGE)]
    )
    with killed_in(stand, Write("ledger", "INSERT", 2, committed=committed)):
        worker_id = accept(stand.server, "", f"[[script:{name}]] Work.").json()["id"]
    stand.start()

    booked = _ended(stand, _latest_turn(stand, worker_id))
    model = ("model", True, _SETTLED_NANO)
    if committed:
        assert [(kind, settled) for kind, settled, _ in booked] == [
            ("model", True),
            ("sandbox", True),
            ("model", False),
            ("model", True),
        ]
        assert 1_000_000 <= booked[1][2] < _COMMAND_NANO
    else:
        assert booked == [model, ("sandbox", False, _COMMAND_NANO), model]
        last = stand.model.requests(name)[-1].messages[-1]
        assert "outcome is unknown" in str(last["content"])


@pytest.mark.parametrize(
    "committed",
    [False, pytest.param(True, marks=_slow)],
    ids=["before its commit", "after its commit"],
)
def test_a_summary_is_paid_as_often_as_it_was_made(paid_stand: Stand, committed: bool) -> None:
    stand, name = paid_stand, f"summed{committed}"
    full = Usage(prompt_tokens=5000, completion_tokens=10)
    stand.model.script(f"{name}-first", [Step(text="The code word is heron.", usage=full)])
    stand.model.script(name, [Step(text="It is heron.", usage=_USAGE)])
    long = "All of this was said. " * 300
    worker_id = post(stand.server, "", f"[[script:{name}-first]] Note it. {long}").json()["id"]
    with killed_in(stand, Write("ledger", "INSERT", committed=committed)):
        accept(stand.server, f"/{worker_id}", f"[[script:{name}]] Which one?")
    stand.start()

    booked = _ended(stand, _latest_turn(stand, worker_id))
    made = len(stand.model.requests(f"{name}-first")) - 1
    told = [(kind, settled) for kind, settled, _ in booked]
    if committed:
        assert told == [("internal", True), ("model", False), ("model", True)]
        assert made == 1
    else:
        assert told == [("internal", False), ("internal", True), ("model", True)]
        assert made == 2
    worker = stand.get(worker_id).json()
    internal = sum(nano for kind, _, nano in booked if kind == "internal")
    assert round(worker["costs"]["internalCostUsd"] * 1e9) == internal
