"""What money adds to a step: reserving and settling, an account, and who waits for whose."""

import asyncio
import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from tests.support.model_server import Step, ToolCall

from benchmarks import stage as stages
from benchmarks.aside import Aside
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Serving, Stage
from benchmarks.turn import Turn
from handinger import keys
from handinger.budgets import accounts
from handinger.settings import Settings
from handinger.storage.database import open_database
from handinger.storage.embedded import EmbeddedPostgres

STEPS = 15
_LOOK = Step(tool_calls=[ToolCall("list_files", {})])
_FREE = '{"*": {"input": 0, "output": 0}}'
# Dear enough that all is reserved and booked, and cheap enough that no turn has to conclude.
_PRICED = '{"*": {"input": 0.01, "output": 0.01}}'
_CREDITS = 10**9


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization with a key of its own, and the client that loads its turns."""

    id: str
    client: Aside

    def turns(self, script: str, count: int, concurrency: int = 1) -> list[Turn]:
        return self.client.call(
            "turns",
            list[Turn],
            prompt=stages.prompt(script),
            expected="done",
            count=count,
            concurrency=concurrency,
            budget="high",
        )


def run(stage: Stage) -> Part:
    """A server whose model is free and one whose model has a price take turns."""
    part = Part("money", f"what it adds to each of {STEPS} steps, and who waits for an account")
    for name in ("warm", "free", "priced", "limited", "many"):
        stage.model.script(name, [*[_LOOK] * (STEPS - 1), Step(text="done")])
    with (
        stage.fresh_server({"HANDINGER_PRICES": _FREE}) as free,
        stage.fresh_server({"HANDINGER_PRICES": _PRICED}) as priced,
        _tenants(free, limits=[False]) as (plain,),
        _tenants(priced, limits=[False, False, True, True]) as (paying, other, limited, second),
    ):
        for tenant in (plain, paying, other, limited, second):
            tenant.turns("warm", 2)
        part.rows += _steps(stage, {"free": plain, "priced": paying, "limited": limited})
        part.rows += _beside_each_other(stage, (paying, other), (limited, second))
        part.rows += _beside_a_held_account(stage, priced, limited, second)
    part.notes.append(
        "The floor is the same server whose model is free: nothing is bounded, reserved or priced "
        "there. Rows are added to the ledger in both, in the statement that stores the step."
    )
    return part


def _steps(stage: Stage, tenants: Mapping[str, Tenant]) -> Sequence[Row]:
    count = stage.count(6, quick=3)
    turns = {name: list[Turn]() for name in tenants}
    for _ in range(stage.rounds):
        for name, tenant in tenants.items():
            turns[name] += tenant.turns(name, count)
    took = {name: _step_ms(stage, name, told) for name, told in turns.items()}
    stages.require_right([turn for told in turns.values() for turn in told])
    free = took["free"]
    above = stages.differences(took["priced"], free)
    return [
        Row("floor: a step of a free model, beside the model", "ms", free),
        Row("the same with a price and a cap", "ms", took["priced"], free),
        Row("reserving and settling, above the floor", "ms", above, bound=Bound(at_most=3)),
        Row("the same of an organization with a balance", "ms", took["limited"], free),
        Row(
            "its account, above no account",
            "ms",
            stages.differences(took["limited"], took["priced"]),
        ),
    ]


def _step_ms(stage: Stage, name: str, turns: Sequence[Turn]) -> list[float]:
    calls = stage.model_times(name)
    assert len(calls) == STEPS * len(turns), (name, len(calls))
    of_turn = [calls[at : at + STEPS] for at in range(0, len(calls), STEPS)]
    return [
        (turn.took_ms - sum(call.took_ms for call in called)) / STEPS
        for turn, called in zip(turns, of_turn, strict=True)
    ]


def _beside_each_other(
    stage: Stage, without: tuple[Tenant, Tenant], limited: tuple[Tenant, Tenant]
) -> Sequence[Row]:
    """Two organizations at once, turns of each beside each other."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    count = stage.count(16, quick=8)
    for _ in range(max(2, stage.rounds // 2)):
        for has_account, pair in ((False, without), (True, limited)):
            rates[has_account].append(asyncio.run(_rate(pair, count)))
    return [
        Row(
            "turns/s of two organizations without limits, 8 of each at a time", "1/s", rates[False]
        ),
        Row("the same with a balance each", "1/s", rates[True], rates[False]),
    ]


async def _rate(pair: tuple[Tenant, Tenant], count: int) -> float:
    told = await asyncio.gather(
        *(asyncio.to_thread(tenant.turns, "many", count, 8) for tenant in pair)
    )
    turns = [turn for each in told for turn in each]
    stages.require_right(turns)
    return len(turns) / (max(t.ended_at for t in turns) - min(t.sent_at for t in turns))


def _beside_a_held_account(
    stage: Stage, serving: Serving, held: Tenant, tenant: Tenant
) -> Sequence[Row]:
    """One organization's account is locked; turns of another go on."""
    count = stage.count(16, quick=8)
    free, beside = list[float](), list[float]()
    postgres = EmbeddedPostgres.join(serving.server.data_dir)
    try:
        for _ in range(max(2, stage.rounds // 2)):
            free += [turn.took_ms for turn in tenant.turns("many", count)]
            with psycopg.connect(postgres.url) as database:
                database.execute(
                    "SELECT 1 FROM accounts WHERE organization_id = %s FOR UPDATE", [held.id]
                )
                beside += [turn.took_ms for turn in tenant.turns("many", count)]
    finally:
        postgres.leave()
    return [
        Row("a turn while another organization's account is locked", "ms", beside, free),
    ]


@contextlib.contextmanager
def _tenants(serving: Serving, *, limits: Sequence[bool]) -> Generator[tuple[Tenant, ...]]:
    """New organizations, some with a balance."""
    postgres = EmbeddedPostgres.join(serving.server.data_dir)
    configured = Settings.model_validate(
        {"data_dir": serving.server.data_dir, "database_url": postgres.url}
    )

    async def make() -> list[tuple[str, str]]:
        made: list[tuple[str, str]] = []
        async with open_database(configured) as database:
            for number, has_balance in enumerate(limits):
                organization = await keys.create_organization(database, f"tenant {number}")
                key = await keys.create_key(database, organization.id, name="benchmark")
                if has_balance:
                    await accounts.grant(database, organization.id, credits=_CREDITS)
                made.append((organization.id, key.secret))
        return made

    with contextlib.ExitStack() as stack:
        stack.callback(postgres.leave)
        tenants: list[Tenant] = []
        for organization_id, secret in asyncio.run(make()):
            client = stack.enter_context(Aside("benchmarks.client"))
            client.call("connect", type(None), url=serving.server.base_url, key=secret)
            tenants.append(Tenant(organization_id, client))
        yield tuple(tenants)
