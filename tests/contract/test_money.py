"""Costs over HTTP: exact, capped, and the same in every answer (1.1, 1.3)."""

import socket
from typing import LiteralString

import psycopg
import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripts
from tests.support.ledger import CHECKS
from tests.support.model_server import (
    HangUp,
    HangUpAfterChunks,
    HttpError,
    Stall,
    Step,
    ToolCall,
    Usage,
)
from tests.support.server import HandingerServer

LIST = ToolCall("list_files", {})
PRICES = '{"*": {"input": 3, "output": 15, "cacheRead": 0.3}}'
NANO = 10**9


@pytest.fixture(scope="module")
def paid_server(new_server: StartServer) -> HandingerServer:
    """Whose model has a price."""
    return new_server(
        "paid",
        {
            "HANDINGER_PRICES": PRICES,
            "HANDINGER_BUDGETS": '{"standard": {"modelCalls": null}, "low": {"usd": 0.1}}',
        },
    )


@pytest.fixture(scope="module")
def paid_api(paid_server: HandingerServer, connect: Connect) -> Api:
    return connect(paid_server, paid_server.key)


def _usage(prompt: int, answer: int, *, cached: int = 0, reasoning: int = 0) -> Usage:
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
    )


def test_costs_are_exact_and_the_same_everywhere(paid_api: Api, scripts: Scripts):
    instruction = scripts(
        Step(text="Looking.", tool_calls=[LIST], usage=_usage(1001, 7)),
        Step(text="Done.", usage=_usage(1203, 211, cached=1001, reasoning=100)),
    )
    worker = worker_in(paid_api.create(instruction))
    expected_nano = 1001 * 3000 + 7 * 15_000 + 202 * 3000 + 1001 * 300 + 211 * 15_000
    assert round(worker["costs"]["modelCostUsd"] * NANO) == expected_nano
    assert worker["usage"]["costUsd"] == worker["costs"]["modelCostUsd"]
    assert worker["usage"]["credits"] == 1
    assert worker["usage"]["reasoningTokens"] == 100
    assert worker["usage"]["cacheReadTokens"] == 1001
    (turn,) = paid_api.turns(worker["id"])
    assert turn["costs"] == worker["costs"]
    assert turn["usage"] == worker["usage"]
    assert worker["messages"][1]["metadata"]["costs"] == worker["costs"]

    again = worker_in(paid_api.go_on(worker["id"], scripts(Step(text="x", usage=_usage(10, 10)))))
    assert round(again["usage"]["costUsd"] * NANO) == expected_nano + 180_000
    # Rounded up for each turn.
    assert again["usage"]["credits"] == 2


@pytest.mark.parametrize(
    ("budget", "cap_usd", "prompt"),
    [("low", 0.1, 6000), ("standard", 0.5, 6000), ("high", 5.0, 60_000)],
)
def test_an_endless_loop_stops_before_its_cap_and_answers(
    paid_api: Api, scripts: Scripts, budget: str, cap_usd: float, prompt: int
):
    step = Step(text="again", tool_calls=[LIST], usage=_usage(prompt, 20))
    instruction = scripts(
        step,
        after_last="repeat",
        when_tool_choice_none=Step(text="This is what I have.", usage=_usage(prompt, 20)),
    )
    # About as long as it is said to be: no provider counts more tokens than there are bytes.
    asked = instruction.input + " Look." * ((prompt - 6000) // 6)
    worker = worker_in(paid_api.create(asked, budget=budget))
    assert worker["incomplete_details"] == {"reason": "budget_exhausted"}
    assert worker["error"] is None
    assert worker["output_text"].endswith("This is what I have.")
    assert cap_usd / 2 < worker["usage"]["costUsd"] <= cap_usd
    requests = instruction.requests
    assert requests[-1].tool_choice == "none"
    assert requests[-1].tool_names == requests[0].tool_names
    limits = [(request.body or {}).get("max_completion_tokens") for request in requests]
    assert all(isinstance(limit, int) and limit > 0 for limit in limits)


def test_a_failed_call_that_was_refused_costs_nothing(paid_api: Api, scripts: Scripts):
    instruction = scripts(
        Step(text="Done.", attempts=[HttpError(429), HttpError(500)], usage=_usage(100, 10))
    )
    worker = worker_in(paid_api.create(instruction))
    assert round(worker["usage"]["costUsd"] * NANO) == 100 * 3000 + 10 * 15_000
    assert worker["usage"]["steps"] == 1


def _booked(server: HandingerServer, worker_id: str) -> list[tuple[bool, int]]:
    """Each charge for a worker, whether it is settled, and its nano-dollars."""
    with psycopg.connect(server.environment["HANDINGER_DATABASE_URL"], autocommit=True) as mine:
        return mine.execute(
            "SELECT settled, cost_nano FROM ledger WHERE worker_id = %s ORDER BY id", [worker_id]
        ).fetchall()


def test_a_call_that_was_never_sent_costs_nothing(
    new_server: StartServer, connect: Connect, scripts: Scripts
):
    """Nobody listens there; so nothing of the budget is lost to the attempts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    server = new_server(
        "unreachable",
        {
            "HANDINGER_PRICES": PRICES,
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "HANDINGER_MODEL_RETRIES": "1",
        },
    )
    worker = worker_in(connect(server, server.key).create("Work."))
    assert worker["error"]["code"] == "model_error"
    assert (worker["usage"]["costUsd"], worker["usage"]["steps"]) == (0, 0)
    assert _booked(server, worker["id"]) == []


def test_a_call_that_was_read_and_never_answered_is_paid_each_time(
    paid_api: Api, paid_server: HandingerServer, scripts: Scripts
):
    instruction = scripts(Step(text="Done.", attempts=[HangUp()], usage=_usage(100, 10)))
    worker = worker_in(paid_api.create(instruction, budget="high"))
    assert len(instruction.requests) == 2
    unanswered, answered = _booked(paid_server, worker["id"])
    assert answered == (True, 100 * 3000 + 10 * 15_000)
    assert unanswered[0] is False
    assert unanswered[1] > answered[1]
    assert worker["usage"]["steps"] == 1


def test_a_call_that_broke_off_is_paid_in_full_and_once(paid_api: Api, scripts: Scripts):
    """Nobody knows what it used, so its worst case is booked; then it is made again."""
    step = Step(
        text="Done.", attempts=[HangUpAfterChunks(1)], usage=_usage(100, 10), chunks=3, paced=True
    )
    worker = worker_in(paid_api.create(scripts(step)))
    assert worker["output_text"].startswith("Done.")
    settled_usd = (100 * 3000 + 10 * 15_000) / NANO
    assert settled_usd < worker["usage"]["costUsd"] <= 0.5
    assert worker["usage"]["steps"] == 1


def test_a_call_that_is_cancelled_is_paid_in_full(paid_api: Api, scripts: Scripts):
    instruction = scripts(Step(fail_always=Stall()))
    worker_id = paid_api.start(instruction)["id"]
    instruction.wait_for(1)
    paid_api.client.post(f"/api/workers/{worker_id}/cancel")
    worker = paid_api.wait_until_idle(worker_id)
    assert worker["incomplete_details"] == {"reason": "cancelled"}
    assert 0 < worker["usage"]["costUsd"] <= 0.5


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET cost_nano = 0 WHERE id = (SELECT max(id) FROM ledger)",
        "UPDATE ledger SET turn_id = NULL, worker_id = NULL, cost_nano = 0",
        "UPDATE ledger SET turn_id = 'trn_other' WHERE id = (SELECT max(id) FROM ledger)",
        "DELETE FROM ledger WHERE id = (SELECT max(id) FROM ledger)",
        "TRUNCATE ledger",
    ],
)
def test_what_was_booked_stays(
    paid_api: Api, paid_server: HandingerServer, scripts: Scripts, statement: LiteralString
):
    """Whoever asks the database for it."""
    worker_in(paid_api.create(scripts(Step(text="x", usage=_usage(10, 10)))))
    url = paid_server.environment["HANDINGER_DATABASE_URL"]
    refused = pytest.raises(psycopg.errors.RaiseException, match="added, never changed")
    with psycopg.connect(url) as mine, refused:
        mine.execute(statement)


def test_all_sums_agree_with_the_ledger(
    paid_api: Api, paid_server: HandingerServer, scripts: Scripts
):
    """Of everything that the tests here have done."""
    worker_in(paid_api.create(scripts(Step(text="x", usage=_usage(10, 10)))))
    url = paid_server.environment["HANDINGER_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as mine:
        assert mine.execute("SELECT 1 FROM ledger WHERE cost_nano = 180000").fetchone()
        for what, query in CHECKS.items():
            assert mine.execute(query.encode()).fetchall() == [], what
