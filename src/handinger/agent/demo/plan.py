"""Turns an instruction into a finite list of actions, by rules that a person could read aloud."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from handinger.agent.demo import arithmetic, clauses, memory, spans, summary, when
from handinger.agent.demo.actions import (
    Action,
    CancelSchedule,
    Compute,
    Fetch,
    ListFiles,
    ListSchedules,
    NotUnderstood,
    Page,
    Publish,
    ReadFile,
    Recall,
    RunCommand,
    Say,
    Schedule,
    Search,
    SendMail,
    Source,
    Summarise,
    Tabulate,
    Takes,
    WorkspaceFile,
    Write,
    python_command,
)
from handinger.agent.demo.clauses import Clause
from handinger.agent.demo.conversation import Conversation
from handinger.agent.demo.prompt import Document, Prompt

MAX_ACTIONS = 20

_SUMMARY = re.compile(
    r"\b(?:summar(?:y|i[sz]e|ies)|sum up|outline|(?:key|main) (?:points|ideas|facts)|headings|tl;?dr|recap|condense"
    r"|shorten|bullet points|gist|about)\b",
    re.IGNORECASE,
)
_SUMMARY_NOUN = re.compile(
    r"\b(?:summary|outline|(?:key|main) points|headings|tl;?dr|recap)\b", re.I
)
_OUTLINE = re.compile(r"\b(?:outline|headings|structure|table of contents)\b", re.IGNORECASE)
_POINTS = re.compile(r"\b(?:points|bullets?|ideas|facts)\b", re.IGNORECASE)
_COUNT = re.compile(
    r"\b(?P<count>\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten|an?|single)"
    r" (?:short |key |main |most important ){0,2}(?:sentences?|bullets?|points?|lines?|ideas|facts)\b",
    re.IGNORECASE,
)
_COUNTS = "zero one two three four five six seven eight nine ten".split()
_TABLE = re.compile(
    r"\b(?:tables?|csv|columns?|rows|totals?|sums?|add (?:it |them )?up|averages?|means?|maximum|minimum|figures|numbers)\b",
    re.IGNORECASE,
)
_SCHEDULES = re.compile(r"\bschedul(?:es?|ed)\b|\breminders?\b", re.IGNORECASE)
_FILES = re.compile(r"\b(?:files?|folders?|director(?:y|ies)|workspace)\b", re.IGNORECASE)
_FOLDER = re.compile(
    r"\b(?:in|under|of|inside|from) (?:the )?(?:folder |directory )?[`\"']?(?P<path>[\w.][\w./-]{0,199})[`\"']?"
    r"(?: folder| directory)?\s*$",
    re.IGNORECASE,
)
_NO_FOLDER = frozenset({"workspace", "it", "here", "this", "my", "your", "the", "worker", "all"})
_TARGET = re.compile(
    r"[\s,]*\b(?:and )?(?:in)?(?:to|as) (?:(?:a|the) )?(?:new )?(?:file )?(?:called |named )?(?P<path>\S{1,300})\s*$",
    re.IGNORECASE,
)
_TARGET_WORDS = re.compile(
    r"[\s,]*\b(?:into|in|to|as|called|named)?\s?(?:(?:a|an|the) )?(?:new |empty )?(?:text )?(?:file )?(?:called |named )?$",
    re.IGNORECASE,
)
_ITSELF = re.compile(
    r"(?:it|this|that|them|these|those|everything|all(?: of (?:it|this|that))?|the (?:whole )?(?:text|page|file|article"
    r"|document|content|contents|rest)|(?:the |your |all )?(?:results?|answers?|output|findings|numbers?|totals?|table"
    r"|sum|product|average|calculation)s?|(?:a |the )?(?:short )?report(?: .{0,200})?|what you found)",
    re.IGNORECASE,
)
_RESULT_KINDS: Sequence[tuple[str, Takes]] = (
    (r"\b(?:everything|all|report|findings|results)\b", "all"),
    (r"\b(?:summary|outline|points)\b", "summary"),
    (r"\b(?:totals?|table)\b", "table"),
    (r"\b(?:result|answer|sum|average|product|calculation|number)\b", "calculation"),
    (r"\boutput\b", "output"),
    (r"\b(?:text|page|file|article|document|contents?)\b", "text"),
)
_INDEFINITE = re.compile(r"(?:an?|some|my|me|us|the)\b", re.IGNORECASE)
_EMPTY = re.compile(r"\b(?:empty|blank)\b", re.IGNORECASE)
_SCHEDULE_LEAD = re.compile(
    r"^[\s,]*(?:(?:please|and) )?(?:(?P<remind>remind(?: me)?)|schedule|set up (?:a|an) (?:schedule|reminder))?"
    r"(?: (?:yourself|it|(?:a|the|this|another) (?:task|turn|run|job|reminder|schedule)))?(?: (?:to|that|for|which))?[\s,:]*",
    re.IGNORECASE,
)
_BUDGET = re.compile(
    r"[\s,]*\bwith (?:an? |the )?(low|standard|high|unlimited) budget\b", re.IGNORECASE
)
_SUBJECT = re.compile(
    r"[\s,]*\b(?:with )?(?:the )?subject:? (?:line )?(?P<subject>[`\"“'][^`\"”'\n]{1,200}[`\"”']|[^,.;:\n]{1,120}?)"
    r"(?=\s*(?:[,.;:\n]|$| and ))",
    re.IGNORECASE,
)
_ATTACHED = re.compile(r"\b(?:attach(?:ed|ing|ment)?|with)\b", re.IGNORECASE)
_SCHEDULE_ID = re.compile(r"\bsch_\w{1,80}")
_SEARCH_LEAD = re.compile(
    r"^(?:(?:on |in )?(?:the )?(?:web|internet|net)|online)?\s*(?:for |about )?", re.IGNORECASE
)
_SEARCH_TAIL = re.compile(r"\s+(?:on the (?:web|internet)|online)$", re.IGNORECASE)
_COMMAND_LEAD = re.compile(
    r"^(?:the )?(?:shell )?(?:command|script|program|code)?[:\s]*", re.IGNORECASE
)
_NO_COMMAND = re.compile(
    r"(?:the|a|an|it|this|that|them|all|my|your|some|following|below)\b", re.IGNORECASE
)
_SHELL_LANGUAGES = frozenset({"", "sh", "bash", "shell", "console", "zsh"})
_PYTHON_LANGUAGES = frozenset({"python", "py", "python3"})
_ABOUT_GIVEN = re.compile(
    r"\b(?:this|it|text|below|above|attached|attachments?|following|page|files?|document)\b",
    re.IGNORECASE,
)
_SCHEDULABLE = frozenset(
    {
        "schedule",
        "summarise",
        "fetch",
        "run",
        "write",
        "read",
        "list",
        "publish",
        "mail",
        "search",
        "give",
        "other",
    }
)


@dataclass(slots=True)
class _Draft:
    """The plan so far, and what the rules may look at."""

    prompt: Prompt
    conversation: Conversation
    actions: list[Action] = field(default_factory=list[Action])

    @property
    def documents(self) -> tuple[Document, ...]:
        return self.prompt.documents

    def has(self, kind: type[Action]) -> bool:
        return any(isinstance(action, kind) for action in self.actions)


def make(prompt: Prompt, conversation: Conversation, tools: frozenset[str]) -> list[Action]:
    """The actions for a prompt. `tools` decides only which examples an explanation gives."""
    draft = _Draft(prompt=prompt, conversation=conversation)
    found = clauses.find(prompt.instruction)
    index = 0
    while index < len(found) and len(draft.actions) < MAX_ACTIONS:
        clause, taken = _schedule_clause(found, index, draft)
        if clause is None:
            draft.actions.extend(_build(found[index], draft))
        index += 1 + taken
    if not found:
        draft.actions.extend(_without_verb(draft))
    actions = draft.actions[:MAX_ACTIONS]
    if len(draft.actions) > MAX_ACTIONS or index < len(found):
        actions.append(Say(f"I stopped after {MAX_ACTIONS} actions; please ask for less at once."))
    return _polished(actions, tools)


def _polished(actions: list[Action], tools: frozenset[str]) -> list[Action]:
    """Greetings step back behind work, reading is quiet where its text is used, nothing is explained."""
    work = [action for action in actions if not isinstance(action, Say | NotUnderstood)]
    if not work and not any(isinstance(action, Say) for action in actions):
        return [*actions[:3], Say(explanation(tools))]
    if work:
        actions = [action for action in actions if action != _GREETING]
    for index, action in enumerate(actions):
        used = any(_uses_material(later) for later in actions[index + 1 :])
        if isinstance(action, ReadFile | Fetch) and used:
            actions[index] = replace(action, quietly=True)
    return actions


def explanation(tools: frozenset[str]) -> str:
    """What the demo model understands, with three examples that work here."""
    examples = [
        "“Summarise the text below and write the summary to notes.md”",
        "“What is 12.5% of 240?”",
    ]
    for tool, example in _EXAMPLES:
        if tool in tools and len(examples) < 3:
            examples.append(example)
    if len(examples) < 3:
        examples.append("“List the key points of this text: …”")
    return (
        "The demo model understands plain requests: summarise, compute, read and write files, list and "
        "publish them, run a command, fetch a page, search, schedule, send mail. For example: "
        f"{', '.join(examples[:-1])}, or {examples[-1]}. For everything else set HANDINGER_MODEL to a real model."
    )


_EXAMPLES = (
    ("run_command", "“Run `ls -la`”"),
    ("web_fetch", "“Fetch https://example.com and summarise it”"),
    ("schedule", "“Every Monday at 9, summarise README.md”"),
    ("list_files", "“List the files”"),
)
_GREETING = Say("Hello! Ask me for something plain, and I will try.")


def _uses_material(action: Action) -> bool:
    match action:
        case (
            Summarise(sources=()) | Tabulate(sources=()) | Write(literal=None) | SendMail(body=None)
        ):
            return True
        case _:
            return False


def _schedule_clause(
    found: Sequence[Clause], index: int, draft: _Draft
) -> tuple[Clause | None, int]:
    """If the clause says when it shall happen: schedule it, with what follows in its sentence."""
    clause = found[index]
    if clause.family not in _SCHEDULABLE:
        return None, 0
    by_time = clause.family == "schedule"
    now = draft.conversation.now.at
    if not when.find(clause.head, now, clock_alone=by_time):
        return None, 0
    clause, taken = clauses.absorb(clause, found[index + 1 :], draft.prompt.instruction)
    timing = when.find(clause.text, now, clock_alone=by_time)
    if timing is None:
        return None, 0
    budget = _BUDGET.search(timing.rest)
    task = _BUDGET.sub("", timing.rest) if budget else timing.rest
    lead = _SCHEDULE_LEAD.match(task)
    if lead:
        task = ("remind me to " if lead["remind"] else "") + task[lead.end() :]
    task = task.strip(" ,;:.")
    if task in ("", "remind me to"):
        draft.actions.append(Say("I know when, but not what to do then."))
    else:
        chosen = budget[1].lower() if budget else None
        draft.actions.append(Schedule(task[0].upper() + task[1:], timing.when, chosen))
    return clause, taken


def _without_verb(draft: _Draft) -> list[Action]:
    """A prompt that names no action: a calculation, an address, a path, or just a text."""
    text = draft.prompt.instruction
    if _calculates(text):
        return [Compute(text)]
    if pages := spans.urls(text):
        return [Summarise((Page(url),)) for url in pages]
    if files := _workspace_paths(text):
        return [ReadFile(path) for path in files]
    if draft.documents:
        return [Summarise()]
    return [NotUnderstood(text)]


def _build(clause: Clause, draft: _Draft) -> list[Action]:
    built = _BUILDERS[clause.family](clause, draft)
    return [NotUnderstood(clause.text)] if built is None else built


def _summarise(clause: Clause, draft: _Draft) -> list[Action]:
    text, target = _target(clause.text)
    sources = _sources(text)
    style: summary.Style = "summary"
    if _OUTLINE.search(text):
        style = "outline"
    elif _POINTS.search(text):
        style = "points"
    actions: list[Action] = [Summarise(sources, style, _count(text))]
    return [*actions, Write(target, takes="summary")] if target else actions


def _compute(clause: Clause, draft: _Draft) -> list[Action] | None:
    text, target = _target(clause.text)
    actions: list[Action] = []
    takes: Takes = "calculation"
    if _calculates(text):
        actions = [Compute(text)]
    elif _TABLE.search(text) and (draft.documents or _sources(text) or not draft.has(Compute)):
        actions, takes = [Tabulate(_sources(text), text)], "table"
    elif _SUMMARY.search(text) and draft.documents:
        actions, takes = [Summarise(_sources(text))], "summary"
    if not actions:
        return None
    return [*actions, Write(target, takes=takes)] if target else actions


def _ask(clause: Clause, draft: _Draft) -> list[Action] | None:
    text, _ = _target(clause.text)
    if _calculates(text):
        return _compute(clause, draft)
    if _SCHEDULES.search(text):
        return [ListSchedules()]
    sources = _sources(text)
    if _TABLE.search(text) and (draft.documents or sources):
        return _compute(clause, draft)
    if _SUMMARY.search(text) and (draft.documents or sources or _ABOUT_GIVEN.search(text)):
        return _summarise(clause, draft)
    if sources:
        return _opened(sources)
    if _FILES.search(text):
        return [ListFiles(_folder(text))]
    if draft.documents and _ABOUT_GIVEN.search(text):
        return _summarise(clause, draft)
    return None


def _write(clause: Clause, draft: _Draft) -> list[Action] | None:
    if clause.literal is None and spans.emails(clause.head):
        return _mail(clause, draft)
    literal = clause.literal
    target = next(reversed(spans.paths(clause.head)), None)
    if target is None and literal is not None:
        # `write a note saying buy milk to note.txt`
        literal, target = _target(literal)
    if literal is not None:
        content = spans.unquoted(literal)
        if not content and draft.documents:
            content = draft.documents[0].text
        return [Write(target or "note.txt", content)]
    body = _body(clause, target)
    if target is None:
        return _written_without_path(clause, body, draft)
    return _write_to(target, body, clause=clause, draft=draft)


def _written_without_path(clause: Clause, body: str, draft: _Draft) -> list[Action] | None:
    if _SUMMARY_NOUN.search(body):
        return _summarise(clause, draft)
    if draft.actions and _ITSELF.fullmatch(body):
        return [Write("result.md", takes=_takes(body))]
    return None


def _write_to(target: str, body: str, *, clause: Clause, draft: _Draft) -> list[Action] | None:
    quoted = spans.quotations(body)
    if _EMPTY.search(clause.head) or (not body and not draft.actions and not draft.documents):
        return [Write(target, "")]
    if quoted and spans.unquoted(body) != body:
        return [Write(target, quoted[0])]
    if _SUMMARY_NOUN.search(body):
        sources = tuple(source for source in _sources(body) if source != WorkspaceFile(target))
        if draft.has(Summarise) and not sources:
            return [Write(target, takes="summary")]
        summarised = _summarise(replace(clause, text=body), draft)
        return [*summarised, Write(target, takes="summary")]
    if _calculates(body):
        return [Compute(body), Write(target, takes="calculation")]
    if draft.documents and _TABLE.search(body) and not draft.actions:
        return [Tabulate((), body), Write(target, takes="table")]
    if not body or _ITSELF.fullmatch(body):
        if draft.documents and not draft.actions:
            return _given_to(target, body, draft)
        return [Write(target, takes=_takes(body))]
    if _INDEFINITE.match(body):
        return None
    return [Write(target, body)]


def _given_to(target: str, body: str, draft: _Draft) -> list[Action]:
    """What was handed over, as it is; a report of it is its summary."""
    if "report" in body.lower():
        return [Summarise(), Write(target, takes="summary")]
    return [Write(target, "\n\n".join(document.text for document in draft.documents))]


def _fetch(clause: Clause, draft: _Draft) -> list[Action] | None:
    text, target = _target(clause.text)
    pages = spans.urls(text) or [f"https://{domain}" for domain in spans.domains(text)]
    actions: list[Action] = [Fetch(url) for url in pages]
    if not actions and clause.verb.lower() in ("get", "load", "retrieve"):
        actions = [ReadFile(path) for path in _workspace_paths(text)]
    if not actions:
        return None
    return [*actions, Write(target, takes="text")] if target else actions


def _read(clause: Clause, draft: _Draft) -> list[Action] | None:
    if _SCHEDULES.search(clause.text) and not _sources(clause.text):
        return [ListSchedules()]
    if sources := _sources(clause.text):
        return _opened(sources)
    if _SUMMARY_NOUN.search(clause.text):
        return _summarise(clause, draft)
    if _FILES.search(clause.text) and not draft.documents:
        return [ListFiles(_folder(clause.text))]
    if draft.documents:
        return [] if draft.actions else [Summarise()]
    return None


def _list(clause: Clause, draft: _Draft) -> list[Action] | None:
    if _SCHEDULES.search(clause.text):
        return [ListSchedules()]
    if _SUMMARY.search(clause.text):
        return _summarise(clause, draft)
    if _FILES.search(clause.text) or not clause.object or _folder(clause.text) != ".":
        return [ListFiles(_folder(clause.text))]
    return None


def _publish(clause: Clause, draft: _Draft) -> list[Action]:
    found = _workspace_paths(clause.text)
    return [Publish(path) for path in found] or [Publish(None)]


def _run(clause: Clause, draft: _Draft) -> list[Action] | None:
    quoted = spans.quotations(clause.text)
    if quoted:
        return [RunCommand(command) for command in quoted]
    command = _COMMAND_LEAD.sub("", clause.object)
    if command and not _NO_COMMAND.match(command):
        return [RunCommand(command)]
    for document in draft.documents:
        if document.language in _PYTHON_LANGUAGES:
            return [RunCommand(python_command(document.text))]
        if document.language in _SHELL_LANGUAGES and not document.name:
            return [RunCommand(document.text.strip())]
    return [Say("Put the command into backticks, for example: run `ls -la`.")]


def _search(clause: Clause, draft: _Draft) -> list[Action] | None:
    if _calculates(clause.text):
        return [Compute(clause.text)]
    if _SUMMARY_NOUN.search(clause.text) and (draft.documents or _sources(clause.text)):
        return _summarise(clause, draft)
    text, target = _target(clause.object)
    query = _SEARCH_TAIL.sub("", _SEARCH_LEAD.sub("", text)).strip(" ,?")
    if not query or (clause.verb.lower() in ("find", "find out") and draft.documents):
        return None
    actions: list[Action] = [Search(spans.unquoted(query))]
    return [*actions, Write(target, takes="text")] if target else actions


def _mail(clause: Clause, draft: _Draft) -> list[Action] | None:
    recipients = tuple(dict.fromkeys(spans.emails(clause.head)))
    if not recipients:
        if clause.verb.lower() in ("mail", "email", "e-mail"):
            return [
                Say(
                    "I need an address to write to, for example: mail bob@example.com saying hello."
                )
            ]
        return _give(clause, draft)
    subject = _SUBJECT.search(clause.head)
    head = _SUBJECT.sub("", clause.head) if subject else clause.head
    attachments = tuple(_workspace_paths(head)) if _ATTACHED.search(head) else ()
    body, before = _message(clause, head, draft)
    mail = SendMail(
        to=recipients,
        subject=spans.unquoted(subject["subject"]) if subject else None,
        body=body,
        attachments=attachments,
        takes=_takes(head),
    )
    return [*before, mail]


def _message(clause: Clause, head: str, draft: _Draft) -> tuple[str | None, list[Action]]:
    """The text of a mail, or None for the results, with the actions that make them first."""
    if clause.literal is not None:
        text = spans.unquoted(clause.literal)
        return (text or (draft.documents[0].text if draft.documents else None)), []
    if quoted := spans.quotations(head):
        return quoted[0], []
    _, colon, after = clause.text[len(clause.verb) :].partition(": ")
    if colon and after.strip() and not spans.emails(after):
        return after.strip(), []
    if _SUMMARY_NOUN.search(head) and not draft.has(Summarise):
        return None, _summarise(replace(clause, text=head), draft)
    return None, []


def _cancel(clause: Clause, draft: _Draft) -> list[Action] | None:
    if ids := _SCHEDULE_ID.findall(clause.text):
        return [CancelSchedule(schedule_id) for schedule_id in dict.fromkeys(ids)]
    if _SCHEDULES.search(clause.text):
        every = re.search(r"\b(?:all|every|schedules|reminders)\b", clause.text, re.IGNORECASE)
        return [CancelSchedule(None, every=bool(every))]
    return None


def _give(clause: Clause, draft: _Draft) -> list[Action] | None:
    if memory.is_question(clause.text):
        return [Recall(clause.text)]
    if _SUMMARY_NOUN.search(clause.text):
        return _summarise(clause, draft)
    if _calculates(clause.text):
        return _compute(clause, draft)
    if draft.actions and (not clause.object or _ITSELF.fullmatch(clause.object)):
        return []  # "…and tell me the result": every result is told anyway.
    return _ask(clause, draft)


def _schedule(clause: Clause, draft: _Draft) -> list[Action] | None:
    """A clause of this family in which no time could be read."""
    if clause.verb.lower().startswith(("remind", "schedule", "set up")):
        return [
            Say(
                "I did not find out when: say for example “every Monday at 9”, “in 10 minutes” or "
                "“tomorrow at 8”."
            )
        ]
    return []


def _fact(clause: Clause, draft: _Draft) -> list[Action] | None:
    told = memory.acknowledgement(clause.text)
    return [Say(told)] if told else None


def _recall(clause: Clause, draft: _Draft) -> list[Action] | None:
    if _calculates(clause.text):
        return [Compute(clause.text)]
    return [Recall(clause.text)] if memory.is_question(clause.text) else _ask(clause, draft)


def _greeting(clause: Clause, draft: _Draft) -> list[Action]:
    return [] if draft.has(Say) else [_GREETING]


def _help(clause: Clause, draft: _Draft) -> list[Action]:
    return [NotUnderstood("")]


def _other(clause: Clause, draft: _Draft) -> list[Action] | None:
    return [Compute(clause.text)] if _calculates(clause.text) else None


_BUILDERS: dict[str, Callable[[Clause, _Draft], list[Action] | None]] = {
    "recall": _recall,
    "fact": _fact,
    "help": _help,
    "greeting": _greeting,
    "schedule": _schedule,
    "summarise": _summarise,
    "compute": _compute,
    "search": _search,
    "ask": _ask,
    "write": _write,
    "fetch": _fetch,
    "read": _read,
    "list": _list,
    "publish": _publish,
    "run": _run,
    "mail": _mail,
    "cancel": _cancel,
    "give": _give,
    "other": _other,
}


def _calculates(text: str) -> bool:
    try:
        return arithmetic.compute(text) is not None
    except arithmetic.CannotCompute:
        return True


def _sources(text: str) -> tuple[Source, ...]:
    pages = [Page(url) for url in spans.urls(text)]
    return (*pages, *(WorkspaceFile(path) for path in _workspace_paths(text)))


def _workspace_paths(text: str) -> list[str]:
    return [path for path in spans.paths(text) if "://" not in path]


def _opened(sources: Sequence[Source]) -> list[Action]:
    return [
        Fetch(source.url) if isinstance(source, Page) else ReadFile(source.path)
        for source in sources
    ]


def _target(text: str) -> tuple[str, str | None]:
    """The text without a trailing `to notes.md`, and that path."""
    found = _TARGET.search(text[-400:])
    if not found:
        return text, None
    path = found["path"].strip("`\"'“”.,;:!?")
    if not spans.is_path(path):
        return text, None
    return text[: len(text) - len(text[-400:]) + found.start()], path


def _body(clause: Clause, target: str | None) -> str:
    """What is to be written: the words between the verb and the path, or those behind it."""
    text = clause.object
    if target is None:
        return text
    before, _, after = text.partition(target)
    body = _TARGET_WORDS.sub("", before.rstrip(" `\"'“")).strip(" ,:")
    behind = after.strip(" `\"'”,.:!?")
    if not body and (match := re.fullmatch(r"(?:with|from|using) (.+)", behind, re.DOTALL)):
        body = match[1].strip()
    return re.sub(r"^(?:down|out|up)\b\s*", "", body)


def _takes(text: str) -> Takes:
    for pattern, kind in _RESULT_KINDS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    return "last"


def _count(text: str) -> int | None:
    found = _COUNT.search(text)
    if not found:
        return None
    word = found["count"].lower()
    if word in _COUNTS:
        return max(_COUNTS.index(word), 1)
    return min(max(int(word), 1), summary.MOST_SENTENCES) if word.isdigit() else 1


def _folder(text: str) -> str:
    found = _FOLDER.search(text[-300:].rstrip(" .?!"))
    if not found or found["path"].lower() in _NO_FOLDER:
        return "."
    return found["path"]
