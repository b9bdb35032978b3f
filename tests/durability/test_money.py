"""kill -9 between reserve and settle: nothing charged twice, nothing lost, nothing left over."""

from collections.abc import Iterator

import pytest

from tests.durability.observing import wait_for
from tests.durability.stand import Stand, accept
from tests.support.ledger import CHECKS
from tests.support.model_server import ModelServer, Step, ToolCall, Usage

_USAGE = Usage(prompt_tokens=100, completion_tokens=10)
_SETTLED_NANO = 100 * 3000 + 10 * 15_000
_LIST = ToolCall("list_files", {})


@pytest.fixture(scope="module")
def paid_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A server whose model has a price."""
    with ModelServer() as model:
        stand = Stand(
            tmp_path_factory.mktemp("paid"),
            model,
            environment={"HANDINGER_PRICES": '{"*": {"input": 3, "output": 15}}'},
        )
        yield stand
        stand.close()


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

    def ended() -> bool:
        rows = stand.observer.rows(
            "SELECT 1 FROM turns WHERE id = %s AND status = 'completed'", turn_id
        )
        return bool(rows)

    wait_for(ended, "the turn to end", timeout_s=60)
    booked = stand.observer.rows(
        "SELECT settled, cost_nano FROM ledger WHERE turn_id = %s ORDER BY cost_nano", turn_id
    )
    assert booked == [(True, _SETTLED_NANO), (True, _SETTLED_NANO), (False, reserved)]
    worker = stand.get(worker_id).json()
    assert round(worker["usage"]["costUsd"] * 1e9) == reserved + 2 * _SETTLED_NANO
    assert worker["usage"]["steps"] == 2
    for what, query in CHECKS.items():
        assert stand.observer.rows(query) == [], what  # pyright: ignore[reportArgumentType] # Ours.
