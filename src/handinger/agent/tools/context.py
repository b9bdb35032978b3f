"""What every tool gets of its turn, and what a call may do besides answering."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic_ai import RunContext, ToolFailed

from handinger import sources
from handinger.agent.shell import Shell
from handinger.agent.tools.pages import Pages
from handinger.agent.tools.showing import Showing
from handinger.agent.ui_events import clean
from handinger.budgets import Kind, Reservation, Spending
from handinger.files import Change, Workspace
from handinger.settings import Settings
from handinger.sources import Source
from handinger.storage.database import Database
from handinger.turns.claiming import ClaimedTurn
from handinger.turns.journal import Write
from handinger.turns.taint import UntrustedText

# Marks a tool that may run again when it is not known whether it finished.
IDEMPOTENT = {"idempotent": True}


@dataclass(frozen=True, slots=True)
class ToolPrice:
    """That a tool costs money: `Tool(..., metadata={"price": ToolPrice(...)})`.

    The worst case of a call is reserved before it runs. A call that does not fit is not made,
    unless the tool makes do with less (`is_divisible`); `reserved_nano` tells it how much it got.
    What it really cost it adds to its effects. If it is cut off and has added nothing, all that was
    reserved is booked; unless it `is_metered`, so that nothing added is nothing spent.
    """

    kind: Kind
    most_nano: Callable[[Settings, Mapping[str, Any]], int]  # by the arguments of the call
    is_divisible: bool = False
    is_metered: bool = False


@dataclass(slots=True)
class Effects:
    """What one call does besides answering, stored in one transaction with its result.

    Files, sources and writes are those of a call that succeeds. What it cost, and what untrusted
    text it let in, is stored in any case: a failure may repeat what a stranger wrote.
    """

    files: list[Change] = field(default_factory=list[Change])
    sources: list[Source] = field(default_factory=list[Source])
    writes: list[Write] = field(default_factory=list[Write])
    untrusted: list[UntrustedText] = field(default_factory=list[UntrustedText])
    spending: Spending = field(default_factory=Spending)


@dataclass(slots=True)
class ToolContext:
    """What a tool may use of its turn."""

    turn: ClaimedTurn
    database: Database
    settings: Settings
    workspace: Workspace
    shell: Shell | None = None  # None where there are no sandboxes
    tools_end_at: datetime | None = None  # when calls are cut off, so that the turn can conclude
    step: int = 0  # the number of the model call, from 1
    pages: Pages = field(default_factory=Pages)
    pictures: Showing = field(default_factory=Showing)
    # The worker's, by URL; None until one is needed.
    sources: dict[str, Source] | None = None
    # By the id of the call. Calls of one step have different ids.
    effects: defaultdict[str, Effects] = field(default_factory=lambda: defaultdict(Effects))
    # By the id of the call: what is reserved for calls that have a price; and whose money it is
    # that limits that, in words.
    granted: Mapping[str, Reservation] = field(default_factory=dict[str, Reservation])
    purse: str = "the budget of this turn"


def effects(ctx: RunContext[ToolContext]) -> Effects:
    """The effects of the call that is running; a tool adds to them."""
    if ctx.tool_call_id is None:
        raise ToolFailed("This call has no id, so its result cannot be stored.")
    return ctx.deps.effects[ctx.tool_call_id]


async def cite(ctx: RunContext[ToolContext], pages: Sequence[tuple[str, str | None]]) -> None:
    """The call that is running used these pages, each a URL and a title: sources of the worker."""
    deps = ctx.deps
    if deps.sources is None:
        async with deps.database.tenant(deps.turn.organization_id).statements() as sql:
            stored = await sources.of_worker(sql, deps.turn.worker_id)
        if deps.sources is None:  # Calls of one step may all have looked.
            deps.sources = {source.url: source for source in stored}
    for url, title in pages:
        storable = clean(title) if title else None
        known = deps.sources.get(url) or Source.new(url, storable)
        source = replace(known, title=known.title or storable)
        deps.sources[url] = source
        effects(ctx).sources.append(source)


def mark(ctx: RunContext[ToolContext]) -> str:
    """What tells the files of the call that is running from those of every other call."""
    named = f"{ctx.deps.turn.id} {ctx.deps.step} {ctx.tool_call_id}"
    return hashlib.sha256(named.encode()).hexdigest()[:12]


def reserved_nano(ctx: RunContext[ToolContext]) -> int | None:
    """What the call that is running may cost at most, in nano-dollars; None if it has no price."""
    held = ctx.deps.granted.get(ctx.tool_call_id or "")
    return None if held is None else held.cost_nano
