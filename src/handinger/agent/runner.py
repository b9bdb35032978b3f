"""Drains a worker: carries out its waiting turns, one after the other, in this process."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_ai import Agent, RunContext, Tool
from pydantic_ai.models import Model
from pydantic_ai.toolsets import AbstractToolset

from handinger import metrics, prices
from handinger.agent import model as models
from handinger.agent.conversation import Conversations
from handinger.agent.counting import Counter
from handinger.agent.hooks import Hooks, StepContext
from handinger.agent.loop import TurnRun
from handinger.agent.mcp import McpServers
from handinger.agent.metering import Metering
from handinger.agent.opening import Opening
from handinger.agent.tools import commands, email, schedules, web, workspace
from handinger.agent.tools.context import ToolContext
from handinger.errors import Superseded
from handinger.ids import WorkerId
from handinger.live import Hub
from handinger.sandbox.sandbox import Sandboxes
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database, is_connection_error
from handinger.story import Take
from handinger.turns import reading, stories
from handinger.turns.claiming import ClaimedTurn, Claims
from handinger.web.reading import Reader

logger = logging.getLogger(__name__)

# How often a model may call a tool wrongly is for the budget to limit.
_TOOL_RETRIES = 1_000_000
_EMPTY_ANSWERS = 2


@dataclass(frozen=True, slots=True)
class Runner:
    """Everything that executing turns needs, once per process."""

    database: Database
    blobs: Blobs
    settings: Settings
    hub: Hub
    agent: Agent[StepContext, str]
    model: Model
    stopping: asyncio.Event
    conversations: Conversations
    metering: Metering
    claims: Claims
    sandboxes: Sandboxes | None = None  # None: this host has none
    mcp: McpServers | None = None

    async def drain(self, lock: str) -> None:
        """Carry out a worker's turns, oldest first, until none is left or the server stops."""
        worker_id = WorkerId(lock)
        try:
            while not self.stopping.is_set():
                opening = Opening(self)
                turn = await self.claims.claim(worker_id, opening=opening)
                # One that is accepted after the end of the last has its own job.
                if turn is None or not await self._execute(turn, opening):
                    return
            await self.claims.give_back(worker_id)
        except Superseded as error:
            # Whoever took it over drains the worker; claiming it back would go on without end.
            logger.warning("%s", error)

    async def _execute(self, turn: ClaimedTurn, opening: Opening) -> bool:
        """Carry out one turn; whether more may wait. Raises Superseded."""
        self.claims.lost.discard(turn.id)
        metrics.attempts.labels("first" if turn.attempt == 1 else "again").inc()
        try:
            return await self._attempt(turn, opening)
        except Exception as error:
            if is_connection_error(error):
                self.claims.lost.add(turn.id)
            raise  # The job is tried again, and goes on from the journal.

    async def _attempt(self, turn: ClaimedTurn, opening: Opening) -> bool:
        story = stories.new_story(
            turn.id,
            turn.worker_id,
            input=turn.input,
            source=turn.source,
            created_at=turn.created_at,
            attached=turn.attachments,
            email=turn.email,
        )
        if turn.attempt > 1:
            first = len(story.entries)
            for row in await reading.load_entries(self.database, turn.id, first=first):
                story.store(row.number, row.entry())
        story.begin(Take(turn.attempt, 0))
        run = TurnRun(self, turn, story, opening)
        with self.hub.executing(story, on_cancel=run.cancel) as live:
            try:
                await run.carry_out(live)
            except Superseded:
                raise
            except Exception as error:
                if is_connection_error(error):
                    raise
                logger.exception("Turn %s failed", turn.id)
                await run.fail()
            finally:
                if self.mcp is not None:
                    await self.mcp.end(turn.id)
        return run.others_wait


def all_tools(
    settings: Settings, reader: Reader, *, with_commands: bool
) -> list[Tool[ToolContext]]:
    """Every tool of the agent; pages are read by `reader`."""
    return [
        *workspace.tools(),
        *schedules.tools(),
        *web.tools(settings, reader),
        *(email.tools() if settings.smtp_url is not None else ()),
        *(commands.tools() if with_commands else ()),
    ]


def make_metering(
    model: Model, settings: Settings, *, tools: Sequence[Tool[ToolContext]]
) -> Metering:
    """What the calls of this process's agent cost."""
    return Metering(
        settings,
        price=prices.of(settings),
        output_limit=models.output_limit(model),
        counter=Counter.of(settings),
        tools={tool.name: tool.tool_def for tool in tools},
    )


def make_agent(
    model: Model,
    settings: Settings,
    *,
    tools: Sequence[Tool[ToolContext]],
    toolsets: Sequence[AbstractToolset[StepContext]] = (),
) -> Agent[StepContext, str]:
    """The agent that carries out every turn of this process."""
    return Agent(
        model,
        deps_type=StepContext,
        tools=tools,
        toolsets=toolsets,
        instructions=_instructions,
        capabilities=[Hooks()],
        model_settings=models.request_settings(settings, model),
        retries={"tools": _TOOL_RETRIES, "output": _EMPTY_ANSWERS},
        name="worker",
    )


async def _instructions(ctx: RunContext[StepContext]) -> str:
    """Asynchronous, because others are called in a thread."""
    return ctx.deps.instructions
