"""A server for turns in a test's own process, with a model that says and claims what it is told."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_ai import Agent, RunContext, Tool
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from handinger import ids, keys, prices, settings
from handinger.agent.conversation import Conversations
from handinger.agent.counting import Counter
from handinger.agent.hooks import Hooks, StepContext
from handinger.agent.metering import Metering
from handinger.agent.runner import Runner
from handinger.agent.sizes import content_bytes
from handinger.agent.tools.context import ToolContext
from handinger.budgets import accounts
from handinger.ids import WorkerId
from handinger.live import Hub
from handinger.sandbox.sandbox import Sandboxes
from handinger.settings import BudgetName, Settings
from handinger.storage.blobs import open_blobs
from handinger.storage.database import Database, open_database
from handinger.storage.embedded import EmbeddedPostgres
from handinger.turns import accept, reading
from handinger.turns.accept import Instruction, NewTurn, Source
from handinger.turns.claiming import Claims
from tests.support.ledger import CHECKS

NANO = 1_000_000_000
INPUT_NANO, OUTPUT_NANO = 3000, 15_000  # a token


@dataclass(slots=True)
class Answer:
    """One answer of the model: what it says, and what it claims to have used."""

    text: str = ""
    calls: Sequence[tuple[str, dict[str, Any]]] = ()
    input_tokens: float | None = None  # None: an honest count
    output_tokens: float | None = None  # None: as many as it may
    more: dict[str, float] = field(default_factory=dict[str, float])
    is_measured: bool = True
    hangs: bool = False
    fails: Exception | None = None  # that is raised in its place


@dataclass(slots=True)
class Call:
    """One request that the model got."""

    bytes_sent: int
    max_tokens: int | None
    concluding: bool
    reserved_input: int | None  # tokens; None: nothing was


@dataclass(slots=True)
class Stage:
    """A worker's server in this process, with a model that says what a test wants."""

    database: Database
    configured: Settings
    answers: Callable[[int], Answer]
    price: prices.Price | None
    tools: Sequence[Tool[ToolContext]] = ()
    unmetered: Sequence[Tool[ToolContext]] = ()  # tools that no process knows ahead, as of MCP
    counter: Counter | None = None
    sandboxes: Sandboxes | None = None
    model: Model | None = None  # in the place of what `answers` says
    during: Callable[[Answer], Awaitable[None]] | None = None  # before the model answers
    calls: list[Call] = field(default_factory=list[Call])

    async def answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        given = info.model_settings or {}
        sent = sum(content_bytes(message) for message in messages)
        concluding = given.get("tool_choice") == "none"
        limit = given.get("max_tokens")
        self.calls.append(Call(sent, limit, concluding, await self._reserved_input()))
        answer = self.answers(len(self.calls))
        if self.during is not None:
            await self.during(answer)
        if answer.hangs:
            await asyncio.Event().wait()
        if answer.fails is not None:
            raise answer.fails
        parts: list[TextPart | ToolCallPart] = [TextPart(answer.text)] if answer.text else []
        if not concluding:
            parts += [ToolCallPart(name, args) for name, args in answer.calls]
        if not parts:
            parts.append(TextPart("Here is what I have."))
        if not answer.is_measured:
            return ModelResponse(parts=parts, usage=RequestUsage(unmeasured_requests=1))
        usage = RequestUsage(
            **{
                "input_tokens": sent // 4 + 300
                if answer.input_tokens is None
                else answer.input_tokens,
                "output_tokens": (limit or 50)
                if answer.output_tokens is None
                else answer.output_tokens,
                **answer.more,
            },  # pyright: ignore[reportArgumentType] # Counts only, if not always whole ones.
        )
        return ModelResponse(parts=parts, usage=usage)

    async def _reserved_input(self) -> int | None:
        async with self.database.system().statements() as sql:
            return await sql.value(
                "SELECT (reservations -> 0 ->> 'input_tokens')::bigint FROM turns"
                " WHERE status = 'running'"
            )

    async def run(
        self,
        budget: BudgetName = "low",
        *,
        input: str = "Work.",
        worker: WorkerId | None = None,
        source: Source = "api",
    ) -> dict[str, Any]:
        """One turn, from its acceptance to its end; its row."""
        turn = await self.accept(budget, input=input, worker=worker, source=source)
        return await self.carry_out(turn)

    async def accept(
        self,
        budget: BudgetName = "low",
        *,
        input: str = "Work.",
        worker: WorkerId | None = None,
        source: Source = "api",
    ) -> NewTurn:
        """A turn that waits."""
        organization = await keys.first_organization(self.database)
        instruction = Instruction(input=input, budget=budget, source=source)
        turn = NewTurn.of(worker or WorkerId(ids.new("wrk")), instruction)
        if worker is None:
            await accept.create_worker(
                self.database, self.configured, organization.id, turn, metadata={}
            )
        else:
            await accept.continue_worker(self.database, self.configured, organization.id, turn)
        return turn

    async def carry_out(self, turn: NewTurn) -> dict[str, Any]:
        """A turn to its end, by a server of its own; its row."""
        async with asyncio.timeout(60):
            await self.runner().drain(turn.worker_id)
        await self.check()
        return await self.row(turn)

    async def row(self, turn: NewTurn) -> dict[str, Any]:
        """A turn as it stands."""
        async with self.database.system().statements() as sql:
            row = await sql.value("SELECT to_json(t) FROM turns t WHERE id = %(id)s", id=turn.id)
        row["cost_nano"] = sum(
            row[f"{kind}_cost_nano"] for kind in ("model", "tool", "sandbox", "internal")
        )
        return row

    def runner(self) -> Runner:
        model = self.model or FunctionModel(self.answer)
        agent = Agent(
            model,
            deps_type=StepContext,
            tools=[*self.tools, *self.unmetered],
            capabilities=[Hooks()],
        )
        return Runner(
            database=self.database,
            blobs=open_blobs(self.configured),
            settings=self.configured,
            hub=Hub(
                self.database,
                functools.partial(reading.refresh, self.database),
                functools.partial(reading.moved, self.database),
            ),
            agent=agent,
            model=model,
            stopping=asyncio.Event(),
            conversations=Conversations(),
            sandboxes=self.sandboxes,
            claims=Claims(self.database, self.configured, node="node"),
            metering=Metering(
                self.configured,
                price=self.price,
                output_limit=None,
                tools={tool.name: tool.tool_def for tool in self.tools},
                counter=self.counter,
            ),
        )

    async def check(self) -> None:
        """All that must hold of money does."""
        async with self.database.system().statements() as sql:
            for what, query in CHECKS.items():
                cursor = await sql.connection.execute(query.encode())
                assert await cursor.fetchall() == [], what

    async def ledger(self, turn: dict[str, Any]) -> list[dict[str, Any]]:
        async with self.database.system().statements() as sql:
            rows = await sql.value(
                "SELECT coalesce(json_agg(to_json(l) ORDER BY id), '[]') FROM ledger l"
                " WHERE turn_id = %(id)s",
                id=turn["id"],
            )
        return rows


async def look(ctx: RunContext[ToolContext], size: int = 10) -> str:
    """Look at something."""
    return "x" * size


LOOK = Tool(look)
AGAIN = Answer(calls=[("look", {})], output_tokens=50)


@asynccontextmanager
async def limited(here: Stage) -> AsyncGenerator[None]:
    """The organization of all turns here has an account meanwhile, with more than enough."""
    organization = await keys.first_organization(here.database)
    await accounts.cap_month(here.database, organization.id, 10**18)
    try:
        yield
    finally:
        await accounts.cap_month(here.database, organization.id, None)


@asynccontextmanager
async def stage(
    postgres: EmbeddedPostgres,
    folder: Path,
    answers: Callable[[int], Answer],
    *,
    tools: Sequence[Tool[ToolContext]] = (LOOK,),
    model: str = "a:b",
    **overrides: Any,
) -> AsyncGenerator[Stage]:
    overrides.setdefault("prices", {"a:b": {"input": 3, "output": 15}})
    configured = settings.load(data_dir=folder, database_url=postgres.url, model=model, **overrides)
    async with open_database(configured) as database:
        yield Stage(database, configured, answers, prices.of(configured), tools)


# Without a cap on calls, so that money is what ends a turn.
CAPS_USD = {"low": 0.05, "standard": 0.5, "high": 5.0}
ONLY_MONEY = {
    name: {"modelCalls": None, "usd": CAPS_USD.get(name), "seconds": None}
    for name in (*CAPS_USD, "unlimited")
}
