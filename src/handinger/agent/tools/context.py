"""What every tool gets of its turn, and what a call may do besides answering."""

from collections import defaultdict
from dataclasses import dataclass, field

from pydantic_ai import RunContext, ToolFailed

from handinger.budgets import Spending
from handinger.files import Change, Workspace
from handinger.settings import Settings
from handinger.storage.database import Database
from handinger.turns.execution import ClaimedTurn, Write

# Marks a tool that may run again when it is not known whether it finished.
IDEMPOTENT = {"idempotent": True}


@dataclass(slots=True)
class Effects:
    """What one call does besides answering, stored in one transaction with its result.

    Files and writes are those of a call that succeeds; what it cost is booked in any case.
    """

    files: list[Change] = field(default_factory=list[Change])
    writes: list[Write] = field(default_factory=list[Write])
    spending: Spending = field(default_factory=Spending)


@dataclass(slots=True)
class ToolContext:
    """What a tool may use of its turn."""

    turn: ClaimedTurn
    database: Database
    settings: Settings
    workspace: Workspace
    # By the id of the call. Calls of one step have different ids.
    effects: defaultdict[str, Effects] = field(default_factory=lambda: defaultdict(Effects))


def effects(ctx: RunContext[ToolContext]) -> Effects:
    """The effects of the call that is running; a tool adds to them."""
    if ctx.tool_call_id is None:
        raise ToolFailed("This call has no id, so its result cannot be stored.")
    return ctx.deps.effects[ctx.tool_call_id]
