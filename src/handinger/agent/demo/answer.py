"""Carries a plan out by replay: results of past tool calls are fed in again, in order, until a call
is missing (which is then made) or the plan is at its end (then the answer stands).

A plan is finite and each call is made at most twice, so a turn always ends.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from handinger.agent.demo.actions import Action
from handinger.agent.demo.conversation import Call, Conversation, Outcome
from handinger.agent.demo.desk import INTRODUCTION, Desk, Steps, ToolUse

MAX_CALLS = 60
_TOO_MANY = f"This request has already made {MAX_CALLS} tool calls"

# Reading is safe to repeat; what acts on the world is not.
_REPEATABLE = frozenset({"web_fetch", "web_search"})
_PASSING = re.compile(
    r"time(?:d )?out|temporar|try again|connection|unavailable|\b(?:429|502|503|504)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of this server (`known`) and those that may be called now."""

    known: Set[str]
    callable: Set[str]
    conclude_because: str = "I was told to conclude"

    def refusal(self, use: ToolUse) -> Outcome | None:
        """Why a call cannot be made, or None if it can."""
        if use.tool in self.callable:
            return None
        if use.tool in self.known:
            reason = f"{self.conclude_because}, so I did not call `{use.tool}`."
        else:
            reason = f"I would need the tool {use.tool} for that, which this server does not offer."
        return Outcome(ok=False, text=reason, refused=True)


class _Past:
    """The calls that this turn has made, each of which answers one call of the plan."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = list(calls)

    def take(self, use: ToolUse) -> Outcome | None:
        for index, call in enumerate(self._calls):
            if call.tool == use.tool and call.arguments == use.arguments:
                del self._calls[index]
                return call.outcome
        return None


def next_step(plan: Sequence[Action], desk: Desk, offer: Offer) -> ToolUse | str:
    """The next tool call, or the answer when none is left to make."""
    past = _Past(desk.conversation.now.calls)
    if len(desk.conversation.now.calls) >= MAX_CALLS:
        offer = replace(offer, callable=frozenset[str](), conclude_because=_TOO_MANY)
    for action in plan:
        steps = action.perform(desk)
        if steps is None:
            continue
        missing = _replay(steps, past, offer)
        if missing:
            return missing
    return written(desk.paragraphs, desk.conversation)


def written(paragraphs: Sequence[str], conversation: Conversation) -> str:
    """The answer; the first one of a conversation says who answers."""
    introduction = [] if conversation.has_answered else [INTRODUCTION]
    return "\n\n".join([*introduction, *paragraphs]) or "There is nothing to do."


def _replay(steps: Steps, past: _Past, offer: Offer) -> ToolUse | None:
    """Feed known outcomes in until the steps end (None) or a call is to be made."""
    try:
        use = next(steps)
        while True:
            outcome = past.take(use)
            if outcome and _may_pass(use, outcome):
                outcome = past.take(use) or (None if use.tool in offer.callable else outcome)
            outcome = outcome or offer.refusal(use)
            if outcome is None:
                return use
            use = steps.send(outcome)
    except StopIteration:
        return None


def _may_pass(use: ToolUse, outcome: Outcome) -> bool:
    """Whether a failure looks as if the same call could succeed a moment later."""
    return (
        not outcome.ok and use.tool in _REPEATABLE and bool(_PASSING.search(outcome.text[:2_000]))
    )
