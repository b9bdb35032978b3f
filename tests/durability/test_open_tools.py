"""A tool that was started and not finished when its process died: run again, or "unknown"."""

import asyncio
import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import psycopg
import pytest
from pydantic_ai import Agent, Tool, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from handinger import ids, keys, prices, settings
from handinger.agent.conversation import Conversations
from handinger.agent.hooks import Hooks, StepContext
from handinger.agent.metering import Metering
from handinger.agent.runner import Runner
from handinger.agent.tools.context import IDEMPOTENT
from handinger.ids import WorkerId
from handinger.live import Hub
from handinger.storage.blobs import open_blobs
from handinger.storage.database import Database, open_database
from handinger.storage.embedded import EmbeddedPostgres
from handinger.turns import accept, reading
from handinger.turns.accept import Instruction, NewTurn
from handinger.turns.claiming import Claims

pytestmark = pytest.mark.anyio

WAIT_S = 15


@dataclass(slots=True)
class Depot:
    """Where the tools act; a call may be held before it acts, as if it took long."""

    held: set[str] = field(default_factory=set[str])
    started: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[str] = field(default_factory=list[str])

    async def send_parcel(self, to: str) -> str:
        """Send a parcel; sending it twice sends two."""
        return await self._act(f"sent to {to}")

    async def weigh_parcel(self, number: int) -> str:
        """Weigh a parcel; it weighs the same each time."""
        return await self._act(f"weighed {number}")

    async def lose_parcel(self, number: int) -> str:
        """Look for a parcel."""
        await self._act(f"lost {number}")
        raise ToolFailed(f"Nobody has seen parcel {number}.")

    async def burn_parcel(self, number: int) -> str:
        """Fail as no tool should."""
        raise RuntimeError(f"parcel {number} at host=10.0.0.1 user=secret")

    async def count_parcels(self) -> str:
        """Ask a database that is away the first time."""
        await self._act("counted")
        if len(self.calls) == 1:
            raise psycopg.OperationalError("connection failed: host=10.0.0.1 user=secret")
        return "7 parcels"

    async def _act(self, what: str) -> str:
        self.calls.append(what)
        if what in self.held:
            self.held.remove(what)
            self.started.set()
            await self.released.wait()
        return what

    def agent(self, calls: list[ToolCallPart]) -> Agent[StepContext, str]:
        """Makes these calls at once, then says what came of them."""

        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            results = results_in(messages)
            if not results:
                return ModelResponse(parts=list(calls))
            return ModelResponse(parts=[TextPart(" | ".join(results))])

        return Agent(
            FunctionModel(answer),
            deps_type=StepContext,
            tools=[
                Tool(self.send_parcel),
                Tool(self.weigh_parcel, metadata=IDEMPOTENT),
                Tool(self.lose_parcel, metadata=IDEMPOTENT),
                Tool(self.burn_parcel, metadata=IDEMPOTENT),
                Tool(self.count_parcels, metadata=IDEMPOTENT),
            ],
            capabilities=[Hooks()],
        )


def results_in(messages: list[ModelMessage]) -> list[str]:
    return [
        part.model_response_str(wrap_if_error=False)
        for message in messages
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    ]


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn whose first process hangs in a tool, and what two processes make of it."""

    database: Database
    worker_id: WorkerId
    first: Runner
    second: Runner

    async def output(self) -> str:
        async with self.database.system().statements() as sql:
            return await sql.value(
                "SELECT output->0->'content'->0->>'text' FROM turns WHERE worker_id = %(id)s",
                id=self.worker_id,
            )

    async def stored_results(self) -> int:
        async with self.database.system().statements() as sql:
            return await sql.value(
                "SELECT count(*) FROM tool_calls JOIN turns ON turns.id = turn_id"
                " WHERE worker_id = %(id)s AND result IS NOT NULL",
                id=self.worker_id,
            )

    async def rows(self) -> str:
        """Everything that the turn has stored, with the transactions that wrote it."""
        async with self.database.system().statements() as sql:
            return await sql.value(
                "SELECT json_build_array("
                "(SELECT json_agg(json_build_array(to_json(t), t.xmin)) FROM turns t"
                " WHERE worker_id = %(id)s),"
                "(SELECT json_agg(json_build_array(to_json(m), m.xmin) ORDER BY id)"
                " FROM messages m WHERE worker_id = %(id)s),"
                "(SELECT json_agg(json_build_array(to_json(e), e.xmin) ORDER BY number)"
                " FROM entries e JOIN turns t ON t.id = turn_id WHERE worker_id = %(id)s),"
                "(SELECT json_agg(json_build_array(to_json(c), c.xmin) ORDER BY tool_call_id)"
                " FROM tool_calls c JOIN turns t ON t.id = turn_id WHERE worker_id = %(id)s)"
                ")::text",
                id=self.worker_id,
            )


@pytest.fixture
async def configured(postgres: EmbeddedPostgres, tmp_path) -> settings.Settings:
    return settings.load(data_dir=tmp_path, database_url=postgres.url, model="test")


@pytest.fixture
async def database(configured: settings.Settings) -> AsyncIterator[Database]:
    async with open_database(configured) as database:
        yield database


async def begin(
    database: Database, configured: settings.Settings, agent: Agent[StepContext, str]
) -> Turn:
    """Accept a turn, which two processes may execute."""
    organization = await keys.first_organization(database)
    instruction = Instruction(input="Deal with the parcels.", budget="unlimited", source="api")
    turn = NewTurn.of(WorkerId(ids.new("wrk")), instruction)
    await accept.create_worker(database, configured, organization.id, turn, metadata={})

    async def refresh(story) -> None:
        await reading.refresh(database, story)

    def process() -> Runner:
        hub = Hub(database, refresh, functools.partial(reading.moved, database))
        return Runner(
            database=database,
            blobs=open_blobs(configured),
            settings=configured,
            hub=hub,
            agent=agent,
            model=TestModel(),
            stopping=asyncio.Event(),
            conversations=Conversations(),
            metering=Metering(
                configured, price=prices.of(settings.load(model="demo")), output_limit=None
            ),
            claims=Claims(database, configured, node=hub.node),
        )

    return Turn(database, turn.worker_id, process(), process())


async def hang_then_take_over(turn: Turn, depot: Depot, *, stored: int = 0) -> asyncio.Task[None]:
    """The first process stays in the held tool for good, as far as the second one can tell.

    So many other results were stored by then.
    """
    hanging = asyncio.create_task(turn.first.drain(turn.worker_id))
    async with asyncio.timeout(WAIT_S):
        await depot.started.wait()
        while await turn.stored_results() < stored:  # noqa: ASYNC110 # The database rings no bell.
            await asyncio.sleep(0.01)
        await turn.second.drain(turn.worker_id)
    return hanging


async def wake(turn: Turn, depot: Depot, hanging: asyncio.Task[None]) -> None:
    """The first process goes on after all; it must not write anything any more."""
    stored = await turn.rows()
    depot.released.set()
    async with asyncio.timeout(WAIT_S):
        await hanging
    assert await turn.rows() == stored


async def test_a_tool_of_unknown_outcome_is_not_run_again_and_the_model_is_told(
    database: Database, configured: settings.Settings
) -> None:
    depot = Depot(held={"sent to Ada"})
    turn = await begin(
        database, configured, depot.agent([ToolCallPart("send_parcel", {"to": "Ada"}, "c1")])
    )
    hanging = await hang_then_take_over(turn, depot)

    assert depot.calls == ["sent to Ada"]
    assert "outcome is unknown" in await turn.output()
    await wake(turn, depot, hanging)


async def test_an_idempotent_tool_is_run_again(
    database: Database, configured: settings.Settings
) -> None:
    depot = Depot(held={"weighed 7"})
    turn = await begin(
        database, configured, depot.agent([ToolCallPart("weigh_parcel", {"number": 7}, "c1")])
    )
    hanging = await hang_then_take_over(turn, depot)

    assert depot.calls == ["weighed 7", "weighed 7"]
    assert await turn.output() == "weighed 7"
    await wake(turn, depot, hanging)


async def test_of_parallel_tools_only_the_open_ones_are_dealt_with(
    database: Database, configured: settings.Settings
) -> None:
    depot = Depot(held={"sent to Bob"})
    calls = [
        ToolCallPart("send_parcel", {"to": "Ada"}, "c1"),
        ToolCallPart("weigh_parcel", {"number": 7}, "c2"),
        ToolCallPart("send_parcel", {"to": "Bob"}, "c3"),
    ]
    turn = await begin(database, configured, depot.agent(calls))
    hanging = await hang_then_take_over(turn, depot, stored=2)

    assert sorted(depot.calls) == ["sent to Ada", "sent to Bob", "weighed 7"]
    told = (await turn.output()).split(" | ")
    assert told[:2] == ["sent to Ada", "weighed 7"]
    assert "outcome is unknown" in told[2]
    await wake(turn, depot, hanging)


async def test_a_tool_that_failed_has_ended_and_is_not_run_again(
    database: Database, configured: settings.Settings
) -> None:
    depot = Depot(held={"sent to Bob"})
    calls = [
        ToolCallPart("lose_parcel", {"number": 7}, "c1"),
        ToolCallPart("send_parcel", {"to": "Bob"}, "c2"),
    ]
    turn = await begin(database, configured, depot.agent(calls))
    hanging = await hang_then_take_over(turn, depot, stored=1)

    assert sorted(depot.calls) == ["lost 7", "sent to Bob"]
    assert "Nobody has seen parcel 7." in (await turn.output()).split(" | ")[0]
    await wake(turn, depot, hanging)


async def test_a_failure_inside_the_server_is_told_without_its_details(
    database: Database, configured: settings.Settings
) -> None:
    calls = [ToolCallPart("burn_parcel", {"number": 7}, "c1")]
    turn = await begin(database, configured, Depot().agent(calls))
    await turn.first.drain(turn.worker_id)
    told = await turn.output()
    assert "failed inside the server (RuntimeError)" in told
    assert "secret" not in await turn.rows()


async def test_a_tool_that_finds_the_database_away_is_run_again_and_has_not_failed(
    database: Database, configured: settings.Settings
) -> None:
    depot = Depot()
    turn = await begin(database, configured, depot.agent([ToolCallPart("count_parcels", {}, "c1")]))
    with pytest.raises(psycopg.OperationalError):
        await turn.first.drain(turn.worker_id)
    await turn.second.drain(turn.worker_id)
    assert await turn.output() == "7 parcels"
    assert "secret" not in await turn.rows()
