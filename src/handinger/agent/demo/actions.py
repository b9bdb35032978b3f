"""What the demo model can do: each action tells its result and asks for the tool calls it needs.

An action never fails: what went wrong becomes a sentence of the answer.
"""

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from pydantic import JsonValue

from handinger.agent.demo import arithmetic, memory, spans, summary, table, when
from handinger.agent.demo.conversation import Conversation, Outcome
from handinger.agent.demo.desk import (
    Desk,
    Page,
    Product,
    Source,
    Steps,
    Takes,
    ToolUse,
    WorkspaceFile,
    obtain_all,
)
from handinger.agent.demo.prompt import split as split_prompt

_SHOWN_CHARACTERS = 4_000
_MAX_CANCELLED = 20


class Action(Protocol):
    def perform(self, desk: Desk) -> Steps | None:
        """Tell the result on the desk, by way of tool calls where they are needed."""
        ...


@dataclass(frozen=True, slots=True)
class Summarise:
    sources: tuple[Source, ...] = ()
    style: summary.Style = "summary"
    sentences: int | None = None

    def perform(self, desk: Desk) -> Steps:
        documents = yield from obtain_all(desk, self.sources)
        if not documents and desk.material is None:
            desk.tell(
                "There is no text here that I could summarise: put it into the request, or name a "
                "file or a page."
            )
        for document in documents:
            text = summary.summarise(document, style=self.style, sentences=self.sentences)
            desk.tell_product("summary", text)


@dataclass(frozen=True, slots=True)
class Compute:
    text: str

    def perform(self, desk: Desk) -> None:
        try:
            calculation = arithmetic.compute(self.text)
        except arithmetic.CannotCompute as error:
            asked = spans.shortened(self.text.replace("`", ""), 120)
            desk.tell(f"I cannot compute `{asked}`: {error}.")
            return
        if calculation:
            desk.tell_product("calculation", str(calculation))


@dataclass(frozen=True, slots=True)
class Tabulate:
    sources: tuple[Source, ...] = ()
    wanted: str = ""

    def perform(self, desk: Desk) -> Steps:
        documents = yield from obtain_all(desk, self.sources)
        for document in documents:
            found = table.find(document.text)
            if found is None:
                name = f" in {document.name}" if document.name else ""
                desk.tell(f"I found no table with a column of numbers{name}.")
                continue
            desk.tell_product("table", table.totals(found, self.wanted))
        if not documents and desk.material is None:
            desk.tell("There is no table here: put it into the request, or name a file.")


@dataclass(frozen=True, slots=True)
class CountWords:
    sources: tuple[Source, ...] = ()

    def perform(self, desk: Desk) -> Steps:
        documents = yield from obtain_all(desk, self.sources)
        for document in documents:
            count = summary.word_count(document.text)
            desk.tell_product("calculation", f"{document.name or 'The text'} has {count:,} words.")


@dataclass(frozen=True, slots=True)
class Write:
    """`literal` is the content itself; without it the content is taken from the results."""

    path: str
    literal: str | None = None
    takes: Takes = "last"

    def perform(self, desk: Desk) -> Steps:
        content = desk.taken(self.takes) if self.literal is None else self.literal
        if content is None:
            desk.tell(f"I did not write `{self.path}`, because there is nothing to write into it.")
            return
        if content and not content.endswith("\n"):
            content += "\n"
        use = ToolUse("write_file", {"path": self.path, "content": content})
        outcome = yield use
        if not outcome.ok:
            desk.tell_failure(use, outcome)
            return
        desk.note_written(self.path)
        size = f"{len(content):,} characters" if content else "empty"
        desk.tell(f"I wrote `{self.path}` ({size}).")


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Without a path: the file that was written last."""

    path: str | None
    quietly: bool = False

    def perform(self, desk: Desk) -> Steps:
        path = self.path or desk.last_path or _last_written(desk.conversation)
        if path is None:
            desk.tell("I read nothing, because I do not know which file you mean.")
            return
        documents = yield from obtain_all(desk, (WorkspaceFile(path),))
        for document in documents:
            desk.products.append(Product("text", document.text))
            words = f"{summary.word_count(document.text):,} words"
            told = f"I read `{path}` ({words})"
            desk.tell(f"{told}." if self.quietly else f"{told}:\n\n{_fenced(document.text)}")


@dataclass(frozen=True, slots=True)
class Fetch:
    url: str
    quietly: bool = False

    def perform(self, desk: Desk) -> Steps:
        documents = yield from obtain_all(desk, (Page(self.url),))
        for document in documents:
            words = f"{summary.word_count(document.text):,} words"
            desk.products.append(Product("text", document.text))
            desk.tell(f"I fetched <{self.url}> ({words}).")
            if not self.quietly:
                desk.tell_product("summary", summary.summarise(document))


@dataclass(frozen=True, slots=True)
class ListFiles:
    path: str = "."

    def perform(self, desk: Desk) -> Steps:
        use = ToolUse("list_files", {"path": self.path})
        outcome = yield use
        if not outcome.ok:
            desk.tell_failure(use, outcome)
            return
        listed = "\n".join(_names(outcome.data)) or outcome.body.strip()
        desk.products.append(Product("output", listed))
        where = "the workspace" if self.path == "." else f"`{self.path}`"
        desk.tell(
            f"The files in {where}:\n\n{_fenced(listed)}" if listed else f"No files in {where}."
        )


@dataclass(frozen=True, slots=True)
class Publish:
    """Without a path: the file that was written last."""

    path: str | None

    def perform(self, desk: Desk) -> Steps:
        path = self.path or desk.last_path or _last_written(desk.conversation)
        if path is None:
            desk.tell("I published nothing, because I do not know which file you mean.")
            return
        use = ToolUse("publish_file", {"path": path})
        outcome = yield use
        if outcome.ok:
            desk.last_path = path
            desk.tell(f"I published `{path}`.")
        else:
            desk.tell_failure(use, outcome)


@dataclass(frozen=True, slots=True)
class RunCommand:
    command: str

    def perform(self, desk: Desk) -> Steps:
        use = ToolUse("run_command", {"command": self.command})
        outcome = yield use
        if not outcome.ok:
            desk.tell_failure(use, outcome)
            return
        desk.read.clear()  # The command may have changed any file.
        code = outcome.data.get("exit_code") if isinstance(outcome.data, dict) else None
        ended = f" It ended with exit code {code}." if isinstance(code, int) else ""
        printed = _printed(outcome)
        desk.products.append(Product("output", printed))
        told = f"I ran `{spans.shortened(self.command, 200)}`.{ended}"
        desk.tell(f"{told}\n\n{_fenced(printed)}" if printed else f"{told} It printed nothing.")


@dataclass(frozen=True, slots=True)
class Search:
    query: str

    def perform(self, desk: Desk) -> Steps:
        use = ToolUse("web_search", {"query": self.query})
        outcome = yield use
        if not outcome.ok:
            desk.tell_failure(use, outcome)
            return
        found = _hits(outcome)
        told = f"The web search for “{spans.shortened(self.query, 120)}” found"
        if found:
            desk.products.append(Product("text", found))
        desk.tell(f"{told}:\n\n{found}" if found else f"{told} nothing.")


@dataclass(frozen=True, slots=True)
class Schedule:
    input: str
    when: Mapping[str, str | int]
    budget: str | None = None

    def perform(self, desk: Desk) -> Steps:
        arguments: dict[str, JsonValue] = {"input": self.input, "when": {**self.when}}
        if self.budget:
            arguments["budget"] = self.budget
        use = ToolUse("schedule", arguments)
        outcome = yield use
        if not outcome.ok:
            desk.tell_failure(use, outcome)
            return
        task = spans.shortened(self.input, 200)
        desk.tell(f"I scheduled this {when.described(self.when)}: “{task}”")


@dataclass(frozen=True, slots=True)
class ListSchedules:
    def perform(self, desk: Desk) -> Steps:
        use = ToolUse("list_schedules", {})
        outcome = yield use
        if not outcome.ok:
            desk.tell_failure(use, outcome)
        else:
            listed = "\n".join(_names(outcome.data)) or outcome.text.strip()
            desk.tell(
                f"The schedules:\n\n{_fenced(listed)}" if listed else "There are no schedules."
            )


@dataclass(frozen=True, slots=True)
class CancelSchedule:
    """Without an id: the only schedule that there is, or with `every` all of them."""

    schedule_id: str | None
    every: bool = False

    def perform(self, desk: Desk) -> Steps:
        ids = [self.schedule_id] if self.schedule_id else (yield from self._found(desk))
        for schedule_id in ids:
            use = ToolUse("cancel_schedule", {"schedule_id": schedule_id})
            outcome = yield use
            if outcome.ok:
                desk.tell(f"I cancelled the schedule `{schedule_id}`.")
            else:
                desk.tell_failure(use, outcome)

    def _found(self, desk: Desk) -> Generator[ToolUse, Outcome, list[str]]:
        use = ToolUse("list_schedules", {})
        outcome = yield use
        if not outcome.ok:
            desk.tell_failure(use, outcome)
            return []
        ids = list(dict.fromkeys(re.findall(r"\bsch_\w{1,80}", outcome.text)))
        if not ids:
            desk.tell("There is no schedule to cancel.")
        elif len(ids) > 1 and not self.every:
            listed = ", ".join(f"`{schedule_id}`" for schedule_id in ids)
            desk.tell(f"Which schedule shall I cancel? There are {listed}.")
            return []
        return ids[:_MAX_CANCELLED]


@dataclass(frozen=True, slots=True)
class SendMail:
    """`body` None: the results so far."""

    to: tuple[str, ...]
    subject: str | None
    body: str | None
    attachments: tuple[str, ...] = ()
    takes: Takes = "last"

    def perform(self, desk: Desk) -> Steps:
        body = desk.taken(self.takes) if self.body is None else self.body
        if body is None:
            if not self.attachments:
                desk.tell(f"I did not write to {', '.join(self.to)}, because there is no message.")
                return
            body = f"Attached: {', '.join(self.attachments)}"
        subject = self.subject or spans.shortened(_first_line(body), 70)
        for group in [self.to] if desk.mail_takes_list else [(address,) for address in self.to]:
            to: JsonValue = [*group] if desk.mail_takes_list else group[0]
            arguments: dict[str, JsonValue] = {"to": to, "subject": subject, "body": body}
            if self.attachments:
                arguments["attachments"] = [*self.attachments]
            use = ToolUse("send_email", arguments)
            outcome = yield use
            named = ", ".join(group)
            if outcome.ok:
                desk.tell(f"I handed a message to {named} over to `send_email` (“{subject}”).")
            else:
                desk.tell_failure(use, outcome)


@dataclass(frozen=True, slots=True)
class Say:
    text: str

    def perform(self, desk: Desk) -> None:
        desk.tell(self.text)


@dataclass(frozen=True, slots=True)
class Recall:
    question: str

    def perform(self, desk: Desk) -> None:
        earlier = [split_prompt(turn.prompt).instruction for turn in desk.conversation.earlier]
        instructions = [*earlier, desk.instruction]
        desk.tell(memory.answer(self.question, instructions=instructions, earlier=earlier))


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    text: str

    def perform(self, desk: Desk) -> None:
        text = spans.shortened(self.text, 200).rstrip(":")
        desk.tell(f"I cannot do this, it takes a real model: “{text}”" if text else "")


def _fenced(text: str) -> str:
    """A code block that the text cannot end, cut where it grows too long to read."""
    shown = text[:_SHOWN_CHARACTERS].rstrip("\n")
    longest = max((len(run) for run in re.findall(r"`{3,}", shown)), default=2)
    fence = "`" * (longest + 1)
    more = len(text) - _SHOWN_CHARACTERS
    cut = f"\n\n({more:,} more characters are not shown.)" if more > 0 else ""
    return f"{fence}\n{shown}\n{fence}{cut}"


def _first_line(text: str) -> str:
    lines = (line.strip("*#`- ").strip() for line in text.split("\n"))
    return next((line for line in lines if line), "A message")


def _last_written(conversation: Conversation) -> str | None:
    calls = chain.from_iterable(turn.calls for turn in reversed(conversation.earlier))
    paths = (call.arguments.get("path") for call in calls if call.tool == "write_file")
    return next((path for path in paths if isinstance(path, str)), None)


def _names(data: JsonValue) -> list[str]:
    """One line for each entry of a structured list, whatever wraps it."""
    if isinstance(data, dict):
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if not isinstance(data, list):
        return []
    return [_entry(entry) for entry in data]


def _entry(entry: JsonValue) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    for name in ("path", "name", "filename"):
        if isinstance(entry.get(name), str):
            size = entry.get("size")
            return f"{entry[name]} ({size} bytes)" if isinstance(size, int) else str(entry[name])
    return ", ".join(f"{name}: {value}" for name, value in entry.items())


def _printed(outcome: Outcome) -> str:
    if not isinstance(outcome.data, dict):
        return outcome.text.strip("\n")
    streams = [outcome.data.get(name) for name in ("stdout", "output", "stderr")]
    return "\n".join(stream.strip("\n") for stream in streams if isinstance(stream, str) and stream)


def _hits(outcome: Outcome) -> str:
    data = outcome.data
    if isinstance(data, dict):
        data = next((value for value in data.values() if isinstance(value, list)), None)
    if not isinstance(data, list):
        return outcome.text.strip()[:_SHOWN_CHARACTERS]
    lines: list[str] = []
    for hit in data:
        if isinstance(hit, dict):
            url = hit.get("url") or hit.get("href") or ""
            snippet = spans.shortened(str(hit.get("snippet") or hit.get("body") or ""), 240)
            title = spans.shortened(str(hit.get("title") or url), 120)
            lines.append(f"- [{title}]({url})" + (f": {snippet}" if snippet else ""))
    return "\n".join(lines)
