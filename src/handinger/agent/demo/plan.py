"""Turns a prompt into a finite list of actions."""

from collections.abc import Sequence, Set
from dataclasses import replace

from handinger.agent.demo import clauses, phrases, rules, spans, when
from handinger.agent.demo.actions import (
    Action,
    Compute,
    CountWords,
    Fetch,
    NotUnderstood,
    ReadFile,
    Say,
    Schedule,
    SendMail,
    Summarise,
    Tabulate,
    Write,
)
from handinger.agent.demo.clauses import Clause
from handinger.agent.demo.conversation import Conversation
from handinger.agent.demo.desk import Page
from handinger.agent.demo.prompt import Prompt
from handinger.agent.demo.rules import Draft

MAX_ACTIONS = 20

# A path or an address alone is a request to open it; in a longer text it is not.
_MAX_BARE_CHARACTERS = 1_000
# Families whose clauses may say when they shall happen; elsewhere a time is just a word.
_SCHEDULABLE = frozenset(
    {"schedule", "summarise", "fetch", "run", "write", "read", "list", "publish", "mail", "search"}
    | {"give", "other"}
)
_EXAMPLES = (
    ("run_command", "“Run `ls -la`”"),
    ("web_fetch", "“Fetch https://example.com and summarise it”"),
    ("schedule", "“Every Monday at 9, summarise README.md”"),
    ("list_files", "“List the files”"),
)


def make(prompt: Prompt, conversation: Conversation, tools: Set[str]) -> list[Action]:
    """The actions for a prompt. `tools` decides only which examples an explanation gives."""
    draft = Draft(prompt=prompt, conversation=conversation)
    found = clauses.find(prompt.instruction)
    index = 0
    while index < len(found) and len(draft.actions) < MAX_ACTIONS:
        clause, scheduled = _scheduled(found, index, draft)
        draft.actions.extend([scheduled] if scheduled else rules.apply(clause, draft))
        index += 1 + sum(clause.start < other.start < clause.end for other in found[index + 1 :])
    if not found:
        draft.actions.extend(_without_verb(draft))
    actions = draft.actions[:MAX_ACTIONS]
    if len(draft.actions) > MAX_ACTIONS or index < len(found):
        actions.append(Say(f"I stopped after {MAX_ACTIONS} actions; please ask for less at once."))
    return _polished(actions, tools)


def explanation(tools: Set[str]) -> str:
    """What the demo model understands, with three examples that work here."""
    examples = [
        "“Summarise the text below and write the summary to notes.md”",
        "“What is 12.5% of 240?”",
        *(example for tool, example in _EXAMPLES if tool in tools),
        "“List the key points of this text: …”",
    ]
    return (
        "The demo model understands plain requests: summarise, compute, read and write files, "
        "list and publish them, run a command, fetch a page, search, schedule, send mail. "
        f"For example: {examples[0]}, {examples[1]}, or {examples[2]}. "
        "For everything else set HANDINGER_MODEL to a real model."
    )


def _scheduled(found: Sequence[Clause], index: int, draft: Draft) -> tuple[Clause, Action | None]:
    """If the clause says when it shall happen: its schedule, with what follows in its sentence."""
    clause = found[index]
    now = draft.conversation.now.at
    by_time = clause.family == "schedule"
    if clause.family not in _SCHEDULABLE or not when.find(clause.head, now, clock_alone=by_time):
        return clause, None
    whole = clauses.absorb(clause, found[index + 1 :], draft.prompt.instruction)
    timing = when.find(whole.text, now, clock_alone=by_time)
    if timing is None:
        return clause, None
    task, budget = phrases.task(timing.rest)
    if not task:
        return whole, Say("I know when, but not what to do then.")
    return whole, Schedule(task, timing.when, budget)


def _without_verb(draft: Draft) -> list[Action]:
    """A prompt that names no action: a calculation, an address, a path, or just a text."""
    text = draft.prompt.instruction
    if len(text) > _MAX_BARE_CHARACTERS:
        return [NotUnderstood(text)]
    if phrases.calculates(text):
        return [Compute(text)]
    if pages := spans.urls(text):
        return [Summarise((Page(url),)) for url in pages]
    if files := spans.paths(text):
        return [ReadFile(path) for path in files]
    return [Summarise()] if draft.documents else [NotUnderstood(text)]


def _polished(actions: list[Action], tools: Set[str]) -> list[Action]:
    """Without work an explanation; with work no greeting, and quiet reading of what is used."""
    if not any(not isinstance(action, Say | NotUnderstood) for action in actions):
        understood = any(isinstance(action, Say) for action in actions)
        return actions if understood else [*actions[:3], Say(explanation(tools))]
    actions = [action for action in actions if action not in (rules.HELLO, rules.WELCOME)]
    for index, action in enumerate(actions):
        used = any(_uses_material(later) for later in actions[index + 1 :])
        if isinstance(action, ReadFile | Fetch) and used:
            actions[index] = replace(action, quietly=True)
    return actions


def _uses_material(action: Action) -> bool:
    match action:
        case Summarise(sources=()) | Tabulate(sources=()) | CountWords(sources=()):
            return True
        case Write(literal=None) | SendMail(body=None):
            return True
        case _:
            return False
