"""What organizations may spend, and what they are told of it (1.1: 402; `GET /api/usage`)."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import psycopg
import pytest

from handinger import keys
from handinger.budgets import accounts, usage
from handinger.settings import Settings
from handinger.storage.database import Database, open_database
from tests.contract.conftest import Connect, StartServer
from tests.contract.wire import error_in, worker_in
from tests.contract.world import Api, Scripted, Scripts
from tests.support.ledger import CHECKS
from tests.support.model_server import Step, ToolCall, Usage

LIST = ToolCall("list_files", {})
T = TypeVar("T")


@dataclass(frozen=True)
class Office:
    """The operator's side of one server."""

    url: str
    settings: Settings
    connect: Callable[[str], Api]

    def do(self, act: Callable[[Database], Awaitable[T]]) -> T:
        async def acted() -> T:
            async with open_database(self.settings) as database:
                return await act(database)

        return asyncio.run(acted())

    def organization(self, name: str) -> tuple[str, Api]:
        async def make(database: Database) -> tuple[str, str]:
            organization = await keys.create_organization(database, name)
            key = await keys.create_key(database, organization.id, name="test")
            return organization.id, key.secret

        organization_id, secret = self.do(make)
        return organization_id, self.connect(secret)

    def grant(self, organization_id: Any, credits: int) -> None:
        self.do(lambda database: accounts.grant(database, organization_id, credits=credits))

    def a_month_passes(self, organization_id: str) -> None:
        """All that an organization has spent was spent a month ago."""
        # As a replica, for which the triggers do not hold that keep the ledger as it is.
        with psycopg.connect(self.url, options="-c session_replication_role=replica") as mine:
            for table, column in (
                ("accounts", "month"),
                ("ledger", "created_at"),
                ("turns", "held_month"),
            ):
                query = (
                    f"UPDATE {table} SET {column} = {column} - interval '1 month'"
                    " WHERE organization_id = %s"
                )
                mine.execute(query.encode(), [organization_id])

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query.encode(), values).fetchall()


@pytest.fixture(scope="module")
def office(new_server: StartServer, connect: Connect) -> Office:
    """Of a server where a call of 10,000 tokens each way costs 0.02 USD, two credits."""
    server = new_server(
        "office",
        {
            "HANDINGER_PRICES": '{"*": {"input": 1, "output": 1}}',
            "HANDINGER_MAX_OUTPUT_TOKENS": "2000",
        },
    )
    url = server.environment["HANDINGER_DATABASE_URL"]
    configured = Settings.model_validate({"data_dir": server.data_dir, "database_url": url})
    return Office(url, configured, lambda key: connect(server, key))


def _paid(text: str = "done", *, input_tokens: int = 8000, output_tokens: int = 2000) -> Step:
    usage = Usage(prompt_tokens=input_tokens, completion_tokens=output_tokens)
    return Step(text=text, usage=usage)


def test_an_empty_balance_is_402_before_anything_starts(office: Office, scripts: Scripts):
    organization_id, api = office.organization("empty")
    office.grant(organization_id, 1)
    # Ten thousand tokens are one credit.
    instruction = scripts(_paid(input_tokens=8000, output_tokens=2000))
    worker = worker_in(api.create(instruction))
    assert worker["usage"]["credits"] == 1
    untouched = scripts(_paid())
    error_in(api.create(untouched), 402, "out_of_credits")
    error_in(api.go_on(worker["id"], untouched), 402, "out_of_credits")
    assert untouched.requests == []
    assert len(api.turns(worker["id"])) == 1

    office.grant(organization_id, 5)
    assert worker_in(api.go_on(worker["id"], untouched))["error"] is None
    report = api.client.get("/api/usage").json()
    assert report["balanceCredits"] == 4


def test_a_repeated_request_joins_its_turn_although_the_balance_is_empty(
    office: Office, scripts: Scripts
):
    organization_id, api = office.organization("joined")
    office.grant(organization_id, 1)
    body, headers = {"input": scripts(_paid()).input}, {"Idempotency-Key": "once"}
    first = worker_in(api.client.post("/api/workers", json=body, headers=headers))
    again = worker_in(api.client.post("/api/workers", json=body, headers=headers))
    assert again["id"] == first["id"]
    assert again["usage"]["credits"] == 1


def test_a_refused_request_may_be_sent_again_when_there_are_credits(
    office: Office, scripts: Scripts
):
    """With the same key: nothing was accepted, so there is nothing to join."""
    organization_id, api = office.organization("refused")
    office.grant(organization_id, 1)
    office.grant(organization_id, -1)
    body, headers = {"input": scripts(_paid()).input}, {"Idempotency-Key": "again"}
    for _ in range(2):
        error_in(api.client.post("/api/workers", json=body, headers=headers), 402, "out_of_credits")
    assert api.client.get("/api/workers").json()["workers"] == []
    office.grant(organization_id, 1)
    first = worker_in(api.client.post("/api/workers", json=body, headers=headers))
    again = worker_in(api.client.post("/api/workers", json=body, headers=headers))
    assert (first["error"], first["usage"]["credits"]) == (None, 1)
    assert again["id"] == first["id"]
    assert api.client.get("/api/usage").json()["balanceCredits"] == 0


@pytest.mark.parametrize("left_nano", [0, 1, 10**9])
def test_a_month_with_a_little_left_is_never_passed(
    office: Office, scripts: Scripts, left_nano: int
):
    """Not by a nano-dollar: no call starts that might."""
    organization_id, api = office.organization(f"nearly {left_nano}")
    spent = worker_in(api.create(scripts(_paid())))["usage"]["costUsd"]
    cap_nano = round(spent * 1e9) + left_nano
    office.do(lambda db: accounts.cap_month(db, organization_id, cap_nano))  # pyright: ignore[reportArgumentType] # An id.
    instruction = scripts(_paid())
    answer = api.create(instruction, budget="unlimited")
    if left_nano == 0:
        error_in(answer, 402, "monthly_cap_reached")
        return
    worker = worker_in(answer)
    if left_nano == 1:
        assert worker["error"]["code"] == "budget_too_small"
        assert "month's cap of this organization" in worker["error"]["message"]
        assert "1e-09 USD are left" in worker["error"]["message"]
        assert instruction.requests == []
    report = api.client.get("/api/usage").json()
    assert report["monthUsd"] <= report["monthlyCapUsd"]
    assert (worker["error"] is None) == (left_nano == 10**9)


def test_a_balance_is_one_more_cap_of_a_turn(office: Office, scripts: Scripts):
    organization_id, api = office.organization("capped")
    office.grant(organization_id, 3)
    step = Step(tool_calls=[LIST], text="on", usage=Usage(prompt_tokens=4000, completion_tokens=10))
    instruction = scripts(
        step,
        after_last="repeat",
        when_tool_choice_none=Step(
            text="In short.", usage=Usage(prompt_tokens=4000, completion_tokens=10)
        ),
    )
    worker = worker_in(api.create(instruction, budget="unlimited"))
    assert worker["incomplete_details"] == {"reason": "budget_exhausted"}
    assert worker["output_text"].endswith("In short.")
    assert worker["usage"]["costUsd"] <= 0.03
    balance = api.client.get("/api/usage").json()["balanceCredits"]
    assert balance == 3 - worker["usage"]["credits"] >= 0


def test_fifty_turns_at_once_never_overdraw_a_balance_for_ten(office: Office, scripts: Scripts):
    organization_id, api = office.organization("crowd")
    office.grant(organization_id, 10)
    instructions = [scripts(_paid()) for _ in range(50)]
    answers = [api.beside(api.create, instruction) for instruction in instructions]
    wait(answers, timeout=60)
    statuses = [answer.result().status_code for answer in answers]
    assert set(statuses) <= {200, 402}
    workers = [answer.result().json() for answer in answers if answer.result().status_code == 200]
    spent = sum(worker["usage"]["credits"] for worker in workers)
    paid = [worker for worker in workers if worker["usage"]["credits"]]
    # A call is made or not; what was made is what was paid.
    called = sum(len(instruction.requests) for instruction in instructions)
    assert len(paid) == called == spent
    assert 1 <= spent <= 10
    for worker in workers:
        assert worker["usage"]["credits"] or worker["error"]["code"] == "budget_too_small"
    ((balance,),) = office.rows(
        "SELECT balance_credits FROM accounts WHERE organization_id = %s", organization_id
    )
    assert balance == 10 - spent
    # What the others held in reserve is free again: the rest can be spent to the last credit.
    while balance:
        assert worker_in(api.create(scripts(_paid())))["error"] is None
        balance -= 1
    error_in(api.create(scripts(_paid())), 402, "out_of_credits")


def test_a_months_cap_is_402_and_counts_what_was_spent_before(office: Office, scripts: Scripts):
    organization_id, api = office.organization("month")
    assert worker_in(api.create(scripts(_paid())))["error"] is None
    report = api.client.get("/api/usage").json()
    assert (report["monthlyCapUsd"], report["monthUsd"]) == (None, None)

    office.do(lambda db: accounts.cap_month(db, organization_id, 10_000_000))  # pyright: ignore[reportArgumentType] # An id.
    assert api.client.get("/api/usage").json()["monthUsd"] == 0.01
    error_in(api.create(scripts(_paid())), 402, "monthly_cap_reached")

    office.do(lambda db: accounts.cap_month(db, organization_id, 90_000_000))  # pyright: ignore[reportArgumentType] # An id.
    assert worker_in(api.create(scripts(_paid())))["error"] is None
    assert api.client.get("/api/usage").json()["monthUsd"] == 0.02

    # A month later, it begins anew.
    office.a_month_passes(organization_id)
    assert api.client.get("/api/usage").json()["monthUsd"] == 0
    assert worker_in(api.create(scripts(_paid())))["error"] is None
    assert api.client.get("/api/usage").json()["monthUsd"] == 0.01

    # A clock that has gone back over a month's end does not begin it anew.
    office.rows(
        "UPDATE accounts SET month = month + interval '1 month', month_nano = 0"
        " WHERE organization_id = %s RETURNING 1",
        organization_id,
    )
    assert worker_in(api.create(scripts(_paid())))["error"] is None
    assert api.client.get("/api/usage").json()["monthUsd"] == 0.02

    office.do(lambda db: accounts.cap_month(db, organization_id, None))  # pyright: ignore[reportArgumentType] # An id.
    assert worker_in(api.create(scripts(_paid())))["error"] is None
    assert office.rows("SELECT 1 FROM accounts WHERE organization_id = %s", organization_id) == []


def test_a_turn_that_runs_over_the_end_of_a_month_is_paid_in_both(office: Office, scripts: Scripts):
    """A call in the month in which it ends, and what it held in the month before is free there."""
    organization_id, api = office.organization("new year")
    office.do(lambda db: accounts.cap_month(db, organization_id, 10**9))  # pyright: ignore[reportArgumentType] # An id.
    instruction = scripts.new()
    gate, usage = instruction.gate("held"), Usage(prompt_tokens=8000, completion_tokens=2000)
    steps = [Step(tool_calls=[LIST], usage=usage), Step(tool_calls=[LIST], usage=usage, gate=gate)]
    instruction.model.script(instruction.name, [*steps, _paid()])
    worker_id = api.start(instruction, budget="high")["id"]
    instruction.wait_for(2)
    assert api.client.get("/api/usage").json()["monthUsd"] > 0.01
    office.a_month_passes(organization_id)
    assert api.client.get("/api/usage").json()["monthUsd"] == 0
    instruction.open("held")
    worker = api.wait_until_idle(worker_id)
    assert worker["usage"]["costUsd"] == 0.03
    report = api.client.get("/api/usage").json()
    assert (report["monthUsd"], report["total"]["usage"]["costUsd"]) == (0.02, 0.02)


@pytest.mark.parametrize("is_capped", [False, True], ids=["first limit", "second limit"])
def test_a_balance_that_is_granted_while_a_turn_runs_pays_for_what_it_goes_on_to_spend(
    office: Office, scripts: Scripts, is_capped: bool
):
    organization_id, api = office.organization(f"meanwhile {is_capped}")
    if is_capped:
        office.do(lambda db: accounts.cap_month(db, organization_id, 10**9))  # pyright: ignore[reportArgumentType] # An id.
    instruction = scripts.new()
    usage = Usage(prompt_tokens=8000, completion_tokens=2000)
    first, second = instruction.gate("first"), instruction.gate("second")
    steps = [
        Step(tool_calls=[LIST], usage=usage, gate=first),
        Step(tool_calls=[LIST], usage=usage, gate=second),
        _paid(),
    ]
    instruction.model.script(instruction.name, steps)
    worker_id = api.start(instruction, budget="unlimited")["id"]
    instruction.wait_for(1)
    instruction.model.open_gate(first)
    instruction.wait_for(2)
    office.grant(organization_id, 20)
    instruction.model.open_gate(second)
    worker = api.wait_until_idle(worker_id)
    assert (worker["output_text"], worker["usage"]["credits"]) == ("done", 3)
    # One credit was spent before there was a balance.
    assert api.client.get("/api/usage").json()["balanceCredits"] == 18
    office.do(lambda db: accounts.lift(db, organization_id))  # pyright: ignore[reportArgumentType] # An id.


def test_limits_may_change_at_any_moment_while_turns_run(office: Office, scripts: Scripts):
    """Nothing waits for ever, fails or is counted wrongly; and of no other organization either."""
    organization_id, api = office.organization("restless")
    _, other = office.organization("calm")
    step = Step(tool_calls=[LIST], usage=Usage(prompt_tokens=100, completion_tokens=10))

    def instruction() -> Scripted:
        return scripts(*[step] * 6, _paid())

    running = [api.beside(api.create, instruction(), budget="high") for _ in range(8)]
    running += [other.beside(other.create, instruction(), budget="high") for _ in range(4)]

    async def change(db: Database) -> None:
        for number in range(12):
            await accounts.grant(db, organization_id, credits=1000)  # pyright: ignore[reportArgumentType] # An id.
            await accounts.cap_month(db, organization_id, 10**10 + number)  # pyright: ignore[reportArgumentType] # An id.
            await accounts.lift(db, organization_id)  # pyright: ignore[reportArgumentType] # An id.
            await accounts.cap_month(db, organization_id, None)  # pyright: ignore[reportArgumentType] # An id.

    office.do(change)
    for answer in running:
        worker = worker_in(answer.result(timeout=60))
        assert (worker["output_text"], worker["error"]) == ("done", None)
    assert office.rows("SELECT 1 FROM accounts WHERE organization_id = %s", organization_id) == []
    office.grant(organization_id, 5)
    assert worker_in(api.create(scripts(_paid())))["error"] is None
    assert api.client.get("/api/usage").json()["balanceCredits"] == 4
    office.do(lambda db: accounts.lift(db, organization_id))  # pyright: ignore[reportArgumentType] # An id.


def test_a_balance_that_is_taken_away_ends_a_turn_and_is_not_overdrawn(
    office: Office, scripts: Scripts
):
    organization_id, api = office.organization("revoked")
    office.grant(organization_id, 50)
    instruction = scripts.new()
    gate = instruction.gate("held")
    usage = Usage(prompt_tokens=8000, completion_tokens=2000)
    instruction.model.script(
        instruction.name, [Step(text="One.", tool_calls=[LIST], usage=usage, gate=gate), _paid()]
    )
    worker_id = api.start(instruction, budget="high")["id"]
    instruction.wait_for(1)
    office.grant(organization_id, -50)
    instruction.model.open_gate(gate)
    worker = api.wait_until_idle(worker_id)
    assert worker["incomplete_details"] == {"reason": "budget_exhausted"}
    assert (worker["error"], worker["usage"]["credits"]) == (None, 1)
    assert len(instruction.requests) == 1
    # The call that was under way is paid for; it could not be called back.
    assert api.client.get("/api/usage").json()["balanceCredits"] == -1
    error_in(api.create(scripts(_paid())), 402, "out_of_credits")


def test_turns_of_other_organizations_do_not_wait_for_an_account(office: Office, scripts: Scripts):
    held_id, held = office.organization("held")
    free_id, free = office.organization("free")
    for organization_id in (held_id, free_id):
        office.grant(organization_id, 10)
    with psycopg.connect(office.url) as mine:
        mine.execute("SELECT 1 FROM accounts WHERE organization_id = %s FOR UPDATE", [held_id])
        waiting = held.beside(held.create, scripts(_paid()))
        for _ in range(3):
            assert worker_in(free.create(scripts(_paid())))["error"] is None
        assert not waiting.done()
        mine.rollback()
    assert worker_in(waiting.result(timeout=60))["error"] is None


def test_budgets_of_an_organization_are_its_own(office: Office, scripts: Scripts):
    organization_id, api = office.organization("own")
    office.do(
        lambda db: accounts.set_budget(db, organization_id, "low", {"modelCalls": 2})  # pyright: ignore[reportArgumentType] # An id.
    )
    instruction = scripts(Step(tool_calls=[LIST]), after_last="repeat")
    worker = worker_in(api.create(instruction, budget="low"))
    assert worker["incomplete_details"] == {"reason": "budget_exhausted"}
    assert worker["usage"]["steps"] == 2
    (low, *_) = api.client.get("/api/budgets").json()["budgets"]
    assert (low["name"], low["modelCalls"]) == ("low", 2)
    _, other = office.organization("not own")
    assert other.client.get("/api/budgets").json()["budgets"][0]["modelCalls"] == 4
    instruction = scripts(Step(tool_calls=[LIST]), after_last="repeat")
    assert worker_in(other.create(instruction, budget="low"))["usage"]["steps"] == 4
    # Without its own it has the server's again.
    office.do(lambda db: accounts.set_budget(db, organization_id, "low", {}))  # pyright: ignore[reportArgumentType] # An id.
    instruction = scripts(Step(tool_calls=[LIST]), after_last="repeat")
    assert worker_in(api.create(instruction, budget="low"))["usage"]["steps"] == 4


def test_a_budget_that_changes_holds_from_the_next_turn_on(office: Office, scripts: Scripts):
    organization_id, api = office.organization("changing")

    def calls(input: Scripted, worker_id: str | None = None) -> tuple[int, str]:
        answer = (
            api.create(input, budget="low")
            if worker_id is None
            else api.go_on(worker_id, input, budget="low")
        )
        worker = worker_in(answer)
        return len(input.requests), worker["id"]

    def endless() -> Scripted:
        return scripts(Step(tool_calls=[LIST]), after_last="repeat")

    made, worker_id = calls(endless())
    assert made == 4
    # A turn that runs keeps the caps that it began with.
    held = scripts.new()
    gate = held.gate("first")
    held.model.script(
        held.name,
        [Step(tool_calls=[LIST], gate=gate), Step(tool_calls=[LIST])],
        after_last="repeat",
    )
    running = api.queue(worker_id, held, budget="low")
    held.wait_for(1)
    office.do(
        lambda db: accounts.set_budget(db, organization_id, "low", {"modelCalls": 2})  # pyright: ignore[reportArgumentType] # An id.
    )
    held.model.open_gate(gate)
    api.wait_until_idle(worker_id)
    assert api.turn(worker_id, running)["usage"]["steps"] == 4
    assert calls(endless(), worker_id)[0] == 2


def test_usage_is_grouped_and_sums_up(office: Office, scripts: Scripts):
    organization_id, api = office.organization("groups")
    first = worker_in(api.create(scripts(_paid(), _paid())))
    second = worker_in(api.create(scripts(_paid(input_tokens=1, output_tokens=2))))
    by_worker = api.client.get("/api/usage", params={"groupBy": "worker"}).json()
    sums = {group["key"]: group["usage"] for group in by_worker["groups"]}
    assert set(sums) == {first["id"], second["id"]}
    assert sums[second["id"]]["totalTokens"] == 3
    assert sums[first["id"]]["costUsd"] == first["usage"]["costUsd"]
    assert by_worker["total"]["costs"]["modelCostUsd"] == 0.010003

    by_model = api.client.get("/api/usage", params={"groupBy": "model"}).json()
    assert [group["key"] for group in by_model["groups"]] == ["openai-chat:scripted"]
    by_day = api.client.get("/api/usage").json()
    assert [group["key"] for group in by_day["groups"]] == [datetime.now(UTC).date().isoformat()]
    assert by_day["total"] == by_model["total"] == by_worker["total"]

    # Where there are too many groups the dearest are told, and the total is of all.
    now = datetime.now(UTC)
    span = {"since": now - timedelta(days=2), "before": now + timedelta(days=2)}
    report = office.do(
        lambda db: usage.of_organization(db, organization_id, **span, group_by="worker", limit=1)  # pyright: ignore[reportArgumentType] # An id.
    )
    assert [group.key for group in report.groups] == [first["id"]]
    assert usage.spent_json(report.total) == by_worker["total"]

    # What was spent stays spent when a worker is gone, and says nothing of it.
    assert api.client.delete(f"/api/workers/{first['id']}").status_code == 200
    after = api.client.get("/api/usage", params={"groupBy": "worker"}).json()
    assert {group["key"] for group in after["groups"]} == {"(deleted)", second["id"]}
    assert after["total"] == by_worker["total"]


def test_usage_is_of_a_span_of_time_and_of_one_organization(office: Office, scripts: Scripts):
    _, api = office.organization("span")
    worker_in(api.create(scripts(_paid())))
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    for params, steps in (
        ({"to": "2020-01-01", "from": "2019-01-01"}, 0),
        ({"from": "2020-01-01", "to": tomorrow}, 1),
        ({"from": tomorrow, "to": tomorrow}, 0),
        ({"from": "2020-01-01T00:00:00+02:00", "to": f"{tomorrow}T00:00:00Z"}, 1),
    ):
        report = api.client.get("/api/usage", params=params)
        assert report.status_code == 200, report.text
        assert report.json()["total"]["usage"]["steps"] == steps, params
    _, other = office.organization("nobody's")
    assert other.client.get("/api/usage").json()["groups"] == []


@pytest.mark.parametrize(
    "params",
    [
        {"from": "yesterday"},
        {"to": "2026-13-01"},
        {"from": "2026-01-02", "to": "2026-01-01"},
        {"groupBy": "key"},
        {"from": ""},
        {"from": "9999-12-31"},  # and to now
        {"from": "2026-12-31T23:59:60Z"},
        {"from": "0001-01-01T00:00:00+14:00"},
    ],
)
def test_a_span_that_is_none_is_422(office: Office, params: dict[str, str]):
    _, api = office.organization("spans")
    error = error_in(api.client.get("/api/usage", params=params), 422, "invalid_input")
    [detail] = error["details"]
    assert detail["path"][0] in params


def test_a_capped_budget_without_a_price_is_422_and_says_which_setting(
    new_server: StartServer, connect: Connect, scripts: Scripts
):
    server = new_server("priceless", {"OPENAI_BASE_URL": "https://models.example.com/v1"})
    api = connect(server, server.key)
    untouched = scripts(_paid())
    error = error_in(api.create(untouched, budget="low"), 422, "price_unknown")
    assert "HANDINGER_PRICES=" in error["error"]
    assert "HANDINGER_PRICES=" in server.log()


def test_everything_agrees_with_the_ledger(office: Office):
    """Of all that the tests here have done; where nothing was spent before there was a balance."""
    for what, query in CHECKS.items():
        assert office.rows(query) == [], what
    assert (
        office.rows(
            "SELECT a.organization_id FROM accounts a JOIN credit_grants g USING (organization_id)"
            " GROUP BY 1, a.balance_credits HAVING a.balance_credits <> sum(g.credits)"
            " - (SELECT coalesce(sum(credits), 0) FROM turns t"
            " WHERE t.organization_id = a.organization_id)"
        )
        == []
    )
