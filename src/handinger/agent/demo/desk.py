"""What lies open while a plan is carried out: texts, results so far, paragraphs of the answer."""

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from handinger.agent.demo import spans
from handinger.agent.demo.conversation import Conversation, Outcome
from handinger.agent.demo.prompt import Document
from handinger.agent.demo.prompt import split as split_prompt

ProductKind = Literal["summary", "calculation", "table", "output", "text"]
# What a file or mail takes of the results so far: those of one kind, the last one, or all.
Takes = ProductKind | Literal["last", "all"]

INTRODUCTION = "I am the demo model, a small stand-in without a language model behind it."

_SHOWN_FAILURE_CHARACTERS = 300
# How `read_file` says that a file goes on; a file is read in a few pieces at most.
_MORE = re.compile(r"\n\[[^\[\]\n]{1,150}\boffset=(?P<offset>\d{1,9})\]\s{0,2}$")
_MORE_CHARACTERS = 200
_MOST_PIECES = 4


@dataclass(frozen=True, slots=True)
class ToolUse:
    tool: str
    arguments: Mapping[str, JsonValue]


Steps = Generator[ToolUse, Outcome, None]


@dataclass(frozen=True, slots=True)
class Product:
    kind: ProductKind
    text: str


@dataclass(slots=True)
class Desk:
    """What lies open while a plan is carried out. `material` is what `it` means.

    `material` is None until something was read, and empty once reading failed.
    """

    instruction: str
    documents: Sequence[Document]
    conversation: Conversation
    mail_takes_list: bool = False
    material: list[Document] | None = None
    products: list[Product] = field(default_factory=list[Product])
    paragraphs: list[str] = field(default_factory=list[str])
    last_path: str | None = None
    read: dict[str, Document] = field(default_factory=dict[str, Document])

    @property
    def now(self) -> datetime:
        return self.conversation.now.at

    def tell(self, paragraph: str) -> None:
        if paragraph and paragraph not in self.paragraphs:
            self.paragraphs.append(paragraph)

    def tell_product(self, kind: ProductKind, text: str) -> None:
        self.products.append(Product(kind, text))
        self.tell(text)

    def tell_failure(self, use: ToolUse, outcome: Outcome) -> None:
        if outcome.refused:
            self.tell(outcome.text)
            return
        reason = spans.shortened(outcome.text, _SHOWN_FAILURE_CHARACTERS) or "it gave no reason"
        about = next((value for value in use.arguments.values() if isinstance(value, str)), "")
        named = f" for `{spans.shortened(about, 80).replace('`', '')}`" if about else ""
        self.tell(f"`{use.tool}` failed{named}: {reason}")

    def note_written(self, path: str) -> None:
        """A file was written: what was read of it, or handed over by that name, is no longer so."""
        self.last_path = path
        self.read.pop(path, None)
        self.documents = [document for document in self.documents if document.name != path]

    def given(self) -> list[Document]:
        """The texts that `it` or nothing at all refers to, the nearest ones first."""
        if self.material is not None:
            return self.material
        return list(self.documents) or self._earlier_documents()

    def taken(self, takes: Takes) -> str | None:
        """The results that are to be handed on, or None if there are none."""
        wanted = [product.text for product in self.products if takes in ("all", product.kind)]
        if takes == "last" or not wanted:
            wanted = [product.text for product in self.products[-1:]]
        if wanted:
            return "\n\n".join(wanted)
        if self.material is not None:
            return "\n\n".join(document.text for document in self.material) or None
        if self.paragraphs:  # Something went wrong on the way; older results are not meant.
            return None
        said = [turn.said[-1] for turn in self.conversation.earlier if turn.said]
        return said[-1].removeprefix(INTRODUCTION).strip() if said else None

    def _earlier_documents(self) -> list[Document]:
        """What was handed over, read or fetched in the latest turn that had any text."""
        for turn in reversed(self.conversation.earlier):
            documents = list(split_prompt(turn.prompt).documents)
            for call in turn.calls:
                if call.outcome.ok and call.tool in ("read_file", "web_fetch"):
                    name = call.arguments.get("path") or call.arguments.get("url")
                    documents.append(Document(str(name or ""), call.outcome.body))
            if documents:
                return documents
        return []


@dataclass(frozen=True, slots=True)
class Page:
    url: str


@dataclass(frozen=True, slots=True)
class WorkspaceFile:
    path: str


Source = Page | WorkspaceFile


def obtain(desk: Desk, source: Source) -> Generator[ToolUse, Outcome, Document | None]:
    """The text of a source: handed over, already read in this turn, or read now."""
    name = source.url if isinstance(source, Page) else source.path
    for document in desk.documents:
        if document.name == name or document.name.rpartition("/")[2] == name:
            return document
    if name in desk.read:
        return desk.read[name]
    if isinstance(source, Page):
        use = ToolUse("web_fetch", {"url": name})
    else:
        use = ToolUse("read_file", {"path": name})
    outcome = yield use
    if not outcome.ok:
        desk.tell_failure(use, outcome)
        return None
    text = outcome.body
    if isinstance(source, WorkspaceFile):
        text = yield from _read_on(desk, name, text)
    title = spans.shortened(outcome.title, 200)
    document = Document(f"{title}, {name}" if title else name, text)
    desk.read[name] = document
    return document


def _read_on(desk: Desk, path: str, text: str) -> Generator[ToolUse, Outcome, str]:
    """The whole text of a file of which a first piece was read, or as many pieces as are read."""
    for _ in range(_MOST_PIECES - 1):
        more = _MORE.search(text, max(0, len(text) - _MORE_CHARACTERS))
        if more is None:
            return text
        text = text[: more.start()]
        use = ToolUse("read_file", {"path": path, "offset": int(more["offset"])})
        outcome = yield use
        if not outcome.ok:
            desk.tell_failure(use, outcome)
            desk.tell(f"I read only the first {len(text):,} characters of `{path}`.")
            return text
        text += outcome.body
    if more := _MORE.search(text, max(0, len(text) - _MORE_CHARACTERS)):
        text = text[: more.start()]
        desk.tell(f"I read only the first {len(text):,} characters of `{path}`.")
    return text


def obtain_all(
    desk: Desk, sources: Sequence[Source]
) -> Generator[ToolUse, Outcome, list[Document]]:
    """All the texts that could be had, which are what `it` means from now on."""
    if not sources:
        return desk.given()
    documents: list[Document] = []
    for source in sources:
        document = yield from obtain(desk, source)
        if document:
            documents.append(document)
    desk.material = documents
    return documents
