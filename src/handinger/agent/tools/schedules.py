"""The schedule tools: an agent gives its own worker instructions for later."""

import functools
from typing import Any

from pydantic_ai import RunContext, Tool, ToolFailed

from handinger import ids
from handinger.agent.tools.context import IDEMPOTENT, ToolContext, effects
from handinger.errors import RequestError
from handinger.ids import ScheduleId
from handinger.schedules import changing, records
from handinger.schedules.changing import NewSchedule
from handinger.schedules.clock import database_clock
from handinger.schedules.when import When
from handinger.settings import BudgetName
from handinger.turns import accept


async def schedule(
    ctx: RunContext[ToolContext], input: str, when: When, budget: BudgetName = "standard"
) -> dict[str, Any]:
    """Give yourself an instruction for later, or again and again: a reminder, a regular task.

    At that time a new turn starts in this conversation, with `input` as its instruction. Nobody is
    there then to explain it, so say in it all that is to be done. For "every Monday at 9 in
    Madrid" when is {"type": "cron", "cron": "0 9 * * MON", "timezone": "Europe/Madrid"}.
    """
    turn = ctx.deps.turn
    try:
        text = accept.trimmed_input(input)
    except ValueError as error:
        raise ToolFailed(f"The input {error}.") from error
    new = NewSchedule(
        worker_id=turn.worker_id,
        input=text,
        budget=budget,
        when=when,
        created_by="agent",
        made_in=turn.source,
    )
    try:
        async with ctx.deps.database.tenant(turn.organization_id).statements() as sql:
            made = await changing.prepare(sql, ctx.deps.settings, database_clock, new)
    except RequestError as error:
        raise ToolFailed(error.message) from error
    effects(ctx).writes.append(functools.partial(changing.insert, schedule=made))
    return made.wire(made.created_at)


async def list_schedules(ctx: RunContext[ToolContext]) -> list[dict[str, Any]]:
    """List your schedules that have something to do yet, soonest first, whoever made them."""
    turn = ctx.deps.turn
    async with ctx.deps.database.tenant(turn.organization_id).statements() as sql:
        return await records.told(sql, database_clock, turn.worker_id)


async def cancel_schedule(ctx: RunContext[ToolContext], schedule_id: str) -> dict[str, bool]:
    """Cancel one of your schedules; it does not fire again."""
    turn = ctx.deps.turn
    known: set[str] = set()
    if ids.is_valid("sch", schedule_id):
        known = {one["id"] for one in await list_schedules(ctx)}
    if schedule_id not in known:
        raise ToolFailed(
            f"You have no schedule {schedule_id[:80]!r}; list_schedules tells which there are."
        )
    effects(ctx).writes.append(
        functools.partial(
            changing.cancel_in,
            clock=database_clock,
            worker_id=turn.worker_id,
            schedule_id=ScheduleId(schedule_id),
        )
    )
    return {"cancelled": True}


def tools() -> list[Tool[ToolContext]]:
    """What they do is stored with their result, so a call that is interrupted has done nothing.

    One at a time: each looks at what the one before it may have made.
    """
    return [
        Tool(schedule, metadata=IDEMPOTENT, sequential=True),
        Tool(list_schedules, metadata=IDEMPOTENT, sequential=True),
        Tool(cancel_schedule, metadata=IDEMPOTENT, sequential=True),
    ]
