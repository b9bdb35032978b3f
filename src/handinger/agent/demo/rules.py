"""One rule for each family of clauses: which actions it means, or None if it means none of them."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from handinger.agent.demo import memory, phrases, spans
from handinger.agent.demo.actions import (
    Action,
    CancelSchedule,
    Compute,
    CountWords,
    Fetch,
    ListFiles,
    ListSchedules,
    NotUnderstood,
    Publish,
    ReadFile,
    Recall,
    RunCommand,
    Say,
    Search,
    SendMail,
    Summarise,
    Tabulate,
    Write,
)
from handinger.agent.demo.clauses import Clause
from handinger.agent.demo.conversation import Conversation
from handinger.agent.demo.desk import Page, Source, Takes, WorkspaceFile
from handinger.agent.demo.prompt import Document, Prompt

HELLO = Say("Hello! Ask me for something plain, and I will try.")
WELCOME = Say("You are welcome.")

_NO_ADDRESS = Say("I need an address to write to, for example: mail bob@example.com saying hello.")
_NO_COMMAND = Say("Put the command into backticks, for example: run `ls -la`.")
_NO_PICTURE = Say("I cannot draw, so there is no picture; that takes a real model.")
_NO_TIME = Say(
    "I did not find out when: say for example “every Monday at 9”, “in 10 minutes” or "
    "“tomorrow at 8”."
)
_SHELL_LANGUAGES = frozenset({"", "sh", "bash", "shell", "console", "zsh"})
_PYTHON_LANGUAGES = frozenset({"python", "py", "python3"})


@dataclass(slots=True)
class Draft:
    """The plan so far, and what the rules may look at."""

    prompt: Prompt
    conversation: Conversation
    actions: list[Action] = field(default_factory=list[Action])

    @property
    def documents(self) -> tuple[Document, ...]:
        return self.prompt.documents

    def has(self, kind: type[Action]) -> bool:
        return any(isinstance(action, kind) for action in self.actions)


Rule = Callable[[Clause, Draft], list[Action] | None]


def apply(clause: Clause, draft: Draft) -> list[Action]:
    """The actions that the clause means; what no rule understands is said to be so."""
    actions = _RULES[clause.family](clause, draft)
    if actions is not None:
        return actions
    # "What follows is the file." asks nothing, though it begins as a question does.
    remark = phrases.QUESTION_WORD.match(clause.text) and not clause.is_question
    return [] if remark and draft.actions else [NotUnderstood(clause.text)]


def _with_target(actions: list[Action], target: str | None, takes: Takes) -> list[Action]:
    """`… to notes.md` behind any request keeps its result."""
    return [*actions, Write(target, takes=takes)] if target else actions


def _sources(text: str, draft: Draft) -> tuple[Source, ...]:
    """What the text names; "the README" is a file unless it was handed over."""
    sources = phrases.sources(text)
    if not sources and not draft.documents and phrases.README.search(text):
        return (WorkspaceFile("README.md"),)
    return sources


def _summarise(clause: Clause, draft: Draft) -> list[Action]:
    text, target = phrases.target(clause.text)
    count = phrases.sentence_count(text)
    action = Summarise(_sources(text, draft), phrases.style(text), count)
    return _with_target([action], target, "summary")


def _compute(clause: Clause, draft: Draft) -> list[Action] | None:
    text, target = phrases.target(clause.text)
    sources = phrases.sources(text)
    if phrases.calculates(text):
        return _with_target([Compute(text)], target, "calculation")
    if phrases.TABLE.search(text) and (draft.documents or sources or not draft.has(Compute)):
        return _with_target([Tabulate(sources, text)], target, "table")
    if phrases.SUMMARY.search(text) and draft.documents:
        return _with_target([Summarise(sources)], target, "summary")
    return None


def _ask(clause: Clause, draft: Draft) -> list[Action] | None:
    text, _ = phrases.target(clause.text)
    sources = _sources(text, draft)
    has_text = bool(draft.documents or sources)
    if phrases.calculates(text) or (phrases.TABLE.search(text) and has_text):
        return _compute(clause, draft)
    if phrases.SCHEDULES.search(text):
        return [ListSchedules()]
    if phrases.SUMMARY.search(text) and (has_text or phrases.GIVEN.search(text)):
        return _summarise(clause, draft)
    if phrases.WORD_COUNT.search(text) and (has_text or draft.actions):
        return [CountWords(sources)]
    if sources:
        return _opened(sources)
    if phrases.FILES.search(text):
        return [ListFiles(phrases.folder(text))]
    if draft.documents and phrases.CONTENT.search(text):
        return _summarise(clause, draft)
    return None


def _write(clause: Clause, draft: Draft) -> list[Action] | None:
    written = _written(clause, draft)
    if written and clause.literal is None and phrases.PICTURE.search(clause.object):
        return [*written, _NO_PICTURE]
    return written


def _written(clause: Clause, draft: Draft) -> list[Action] | None:
    literal = clause.literal
    if literal is None and spans.emails(clause.head):
        return _mail(clause, draft)
    target = next(reversed(spans.paths(clause.head)), None)
    if several := phrases.written_files(clause.object):
        return [Write(path, content) for path, content in several]
    if literal is not None:
        if target is None:  # `write a note saying buy milk to note.txt`
            literal, target = phrases.target(literal)
        content = spans.unquoted(literal)
        if not content and draft.documents:
            content = draft.documents[0].text
        return [Write(target or "note.txt", content)]
    if target is None:
        return _written_without_path(clause, draft)
    return _written_to(target, phrases.body(clause.object, target), clause=clause, draft=draft)


def _written_without_path(clause: Clause, draft: Draft) -> list[Action] | None:
    if phrases.SUMMARY_NOUN.search(clause.object):
        return _summarise(clause, draft)
    if draft.actions and phrases.ITSELF.fullmatch(clause.object):
        return [Write("result.md", takes=phrases.takes(clause.object))]
    return None


def _written_to(target: str, body: str, *, clause: Clause, draft: Draft) -> list[Action] | None:
    if phrases.EMPTY.search(clause.head) or not (body or draft.actions or draft.documents):
        return [Write(target, "")]
    if spans.quotations(body) and spans.unquoted(body) != body:
        return [Write(target, spans.unquoted(body))]
    sources = tuple(source for source in phrases.sources(body) if source != WorkspaceFile(target))
    if phrases.SUMMARY_NOUN.search(body):
        known = draft.has(Summarise) and not sources
        actions = [] if known else _summarise(replace(clause, text=body), draft)
        return [*actions, Write(target, takes="summary")]
    if phrases.FILE_LIST.search(body):
        return [ListFiles(), Write(target, takes="output")]
    if phrases.COPY_OF.search(body) and sources:
        return [*_opened(sources), Write(target, takes="text")]
    if phrases.calculates(body):
        return [Compute(body), Write(target, takes="calculation")]
    if phrases.TABLE.search(body) and draft.documents and not draft.actions:
        return [Tabulate((), body), Write(target, takes="table")]
    if not body or phrases.ITSELF.fullmatch(body):
        if draft.documents and not draft.actions:
            return _given_to(target, body, draft)
        return [Write(target, takes=phrases.takes(body))]
    if listed := phrases.items(body):
        return [Write(target, listed)]
    return None if sources or phrases.TO_COMPOSE.match(body) else [Write(target, body)]


def _given_to(target: str, body: str, draft: Draft) -> list[Action]:
    """What was handed over, as it is; a report of it is its summary."""
    if "report" in body.lower():
        return [Summarise(), Write(target, takes="summary")]
    return [Write(target, "\n\n".join(document.text for document in draft.documents))]


def _fetch(clause: Clause, draft: Draft) -> list[Action] | None:
    text, target = phrases.target(clause.text)
    pages = spans.urls(text) or [f"https://{domain}" for domain in spans.domains(text)]
    actions: list[Action] = [Fetch(url) for url in pages]
    if not actions and clause.verb.lower() in ("get", "load", "retrieve"):
        actions = [ReadFile(path) for path in spans.paths(text)]
    return _with_target(actions, target, "text") if actions else None


def _read(clause: Clause, draft: Draft) -> list[Action] | None:
    if phrases.SUMMARY_NOUN.search(clause.text):
        return _summarise(clause, draft)
    if sources := _sources(clause.text, draft):
        return _opened(sources)
    if phrases.SCHEDULES.search(clause.text):
        return [ListSchedules()]
    if phrases.LAST_FILE.fullmatch(clause.object) and not draft.documents:
        return [ReadFile(None)]
    if draft.documents:
        return [] if draft.actions else [Summarise()]
    if phrases.FILES.search(clause.text):
        return [ListFiles(phrases.folder(clause.text))]
    return None


def _list(clause: Clause, draft: Draft) -> list[Action] | None:
    if phrases.SCHEDULES.search(clause.text):
        return [ListSchedules()]
    if phrases.SUMMARY.search(clause.text):
        return _summarise(clause, draft)
    folder = phrases.folder(clause.text)
    if phrases.FILES.search(clause.text) or not clause.object or folder != ".":
        return [ListFiles(folder)]
    return None


def _publish(clause: Clause, draft: Draft) -> list[Action]:
    return [Publish(path) for path in spans.paths(clause.text)] or [Publish(None)]


def _run(clause: Clause, draft: Draft) -> list[Action]:
    if commands := phrases.commands(clause.object):
        return [RunCommand(command) for command in commands]
    for action in reversed(draft.actions):
        if isinstance(action, Write) and (command := phrases.run_file(action.path)):
            return [RunCommand(command)]
    for document in draft.documents:
        if document.language in _PYTHON_LANGUAGES:
            return [RunCommand(f"python3 -c {shlex.quote(document.text)}")]
        if document.language in _SHELL_LANGUAGES and not document.name:
            return [RunCommand(document.text.strip())]
    return [_NO_COMMAND]


def _search(clause: Clause, draft: Draft) -> list[Action] | None:
    if phrases.calculates(clause.text):
        return _compute(clause, draft)
    has_text = bool(draft.documents or phrases.sources(clause.text))
    if phrases.SUMMARY_NOUN.search(clause.text) and has_text:
        return _summarise(clause, draft)
    text, target = phrases.target(clause.object)
    query = phrases.query(text)
    if not query or (clause.verb.lower() in ("find", "find out") and draft.documents):
        return None
    return _with_target([Search(query)], target, "text")


def _mail(clause: Clause, draft: Draft) -> list[Action] | None:
    recipients = tuple(dict.fromkeys(spans.emails(clause.head)))
    if not recipients:
        is_mail = clause.verb.lower() in ("mail", "email", "e-mail")
        return [_NO_ADDRESS] if is_mail else _give(clause, draft)
    head, subject = phrases.subject(clause.head)
    body, before = _message(clause, head, draft)
    mail = SendMail(
        to=recipients,
        subject=subject,
        body=body,
        attachments=tuple(spans.paths(head)) if phrases.ATTACHED.search(head) else (),
        takes=phrases.takes(head),
    )
    return [*before, mail]


def _message(clause: Clause, head: str, draft: Draft) -> tuple[str | None, list[Action]]:
    """The text of a mail, or None for the results, with the actions that make them first."""
    if clause.literal is not None:
        given = draft.documents[0].text if draft.documents else None
        return spans.unquoted(clause.literal) or given, []
    if quoted := spans.quotations(head):
        return quoted[0], []
    _, _, after = clause.text.partition(": ")
    if after.strip() and not spans.emails(after):
        return after.strip(), []
    if phrases.SUMMARY_NOUN.search(head) and not draft.has(Summarise):
        return None, _summarise(replace(clause, text=head), draft)
    return None, [Compute(head)] if phrases.calculates(head) else []


def _cancel(clause: Clause, draft: Draft) -> list[Action] | None:
    if ids := phrases.SCHEDULE_ID.findall(clause.text):
        return [CancelSchedule(schedule_id) for schedule_id in dict.fromkeys(ids)]
    if phrases.SCHEDULES.search(clause.text):
        return [CancelSchedule(None, every=bool(phrases.ALL_SCHEDULES.search(clause.text)))]
    return None


def _give(clause: Clause, draft: Draft) -> list[Action] | None:
    if memory.is_question(clause.text):
        return [Recall(clause.text)]
    if phrases.SUMMARY_NOUN.search(clause.text):
        return _summarise(clause, draft)
    if draft.actions and (not clause.object or phrases.ITSELF.fullmatch(clause.object)):
        return []  # "… and tell me the result": every result is told anyway.
    return _ask(clause, draft)


def _echo(clause: Clause, draft: Draft) -> list[Action] | None:
    asked = _ask(clause, draft)
    text = spans.unquoted(clause.object)
    return asked or ([Say(text)] if text else None)


def _schedule(clause: Clause, draft: Draft) -> list[Action]:
    """A clause of this family in which no time could be read."""
    asks = clause.verb.lower().startswith(("remind", "schedule", "set up"))
    return [_NO_TIME] if asks else []


def _fact(clause: Clause, draft: Draft) -> list[Action] | None:
    told = memory.acknowledgement(clause.text)
    return [Say(told)] if told else None


def _recall(clause: Clause, draft: Draft) -> list[Action] | None:
    return [Recall(clause.text)] if memory.is_question(clause.text) else _ask(clause, draft)


def _greeting(clause: Clause, draft: Draft) -> list[Action]:
    return [WELCOME if clause.verb.lower().startswith(("thank", "cheers")) else HELLO]


def _help(clause: Clause, draft: Draft) -> list[Action]:
    return [NotUnderstood("")]


def _other(clause: Clause, draft: Draft) -> list[Action] | None:
    if phrases.TABLE.search(clause.text) and (draft.has(Fetch) or draft.has(ReadFile)):
        return [Tabulate((), clause.text)]
    return _compute(clause, draft) if phrases.calculates(clause.text) else None


def _opened(sources: Sequence[Source]) -> list[Action]:
    return [
        Fetch(source.url) if isinstance(source, Page) else ReadFile(source.path)
        for source in sources
    ]


_RULES: dict[str, Rule] = {
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
    "echo": _echo,
    "other": _other,
}
