"""Takes a prompt apart: what is asked, and the texts that were handed over with it.

What stands in a handed-over text is never read as a request.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from handinger.agent.demo import spans

_MAX_LABEL_CHARACTERS = 400
_LABEL = re.compile(
    r"[ \t#>*-]{0,8}(?:file|page|document|attachment)(?:[ \t]{1,4}\d{1,4})?(?:\*\*)?[ \t]{0,4}:"
    r"(?:\*\*)?[ \t]{1,8}(?P<name>\S.*)",
    re.IGNORECASE,
)
_BANNER = re.compile(r"[-=]{3,40}[ \t]{1,4}(?P<name>\S.*?)[ \t]{1,4}[-=]{3,40}[ \t]{0,8}")
_FENCE = re.compile(r"[ \t]{0,3}(?P<mark>`{3,40}|~{3,40}|\"{3}(?=\s*$))[ \t]*(?P<info>[^`]*)")
_RULE = re.compile(r"[ \t]{0,3}(?:-{3,200}|={3,200})[ \t]*")
_ABOUT_TEXT = re.compile(
    r"\b(?:summari[sz]e|summary|sum up|outline|(?:key|main) points|headings|tl;?dr|recap"
    r"|condense)\b",
    re.IGNORECASE,
)
_ABOVE = re.compile(
    r"^\W*(?:please )?(?:summari[sz]e|sum up|outline|recap|condense|list|give|what)\b.{0,80}"
    r"\b(?:this|above|text|it|that)\b",
    re.IGNORECASE,
)
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,3}[.)])\s")
# Commas and semicolons stand in sentences too, so that two lines of them prove nothing.
_LEAST_ROWS = {"|": 2, "\t": 2, ";": 3, ",": 3}
_NUMBER_CELLS = {
    mark: re.compile(
        rf"(?:^|{re.escape(mark)}) ?[$€£]?[-+]?\d[\d.]{{0,30}}%? ?(?:$|{re.escape(mark)})"
    )
    for mark in _LEAST_ROWS
}
_SHORT_FENCE = 3
_INLINE_WORDS = 8
_PARAGRAPH_WORDS = 25
_TAIL_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Document:
    """A text; its name is a path, an address or nothing, its language the word of its fence."""

    name: str
    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    instruction: str
    documents: tuple[Document, ...]


def split(prompt: str) -> Prompt:
    lines = prompt.replace("\r\n", "\n").split("\n")
    names = _labels(lines)
    cuts = [*names, len(lines)]
    instruction, documents = _read_head(lines[: cuts[0]])
    for start, end in pairwise(cuts):
        document, tail = _read_section(names[start], lines[start + 1 : end])
        documents.append(document)
        instruction.extend(tail)
    asked = "\n".join(instruction).strip()
    given = [document for document in documents if document.text.strip()]
    if given and not asked:
        asked, given[-1] = _instruction_at_the_end(given[-1])
    if not given:
        asked, given = _inline(asked)
    return Prompt(instruction=asked, documents=tuple(given))


def _labels(lines: list[str]) -> dict[int, str]:
    """Where texts are labelled, outside of blocks that are surely fenced, and with which names."""
    names: dict[int, str] = {}
    unclosed: set[tuple[str, bool]] = set()
    index = 0
    while index < len(lines):
        if name := _labelled(lines[index]):
            names[index] = name
        elif fence := _FENCE.fullmatch(lines[index]):
            # Below a label a short fence may be one of the file's own; `_read_section` decides.
            kind = (fence["mark"], bool(fence["info"].strip()))
            if kind not in unclosed and (not names or len(fence["mark"]) > _SHORT_FENCE):
                end = _closing_fence(lines, index, fence["mark"])
                index = end if end < len(lines) else index
                unclosed.update({kind} if end == len(lines) else ())
        index += 1
    return names


def _labelled(line: str) -> str | None:
    if len(line) > _MAX_LABEL_CHARACTERS:
        return None
    found = _LABEL.fullmatch(line) or _BANNER.fullmatch(line)
    if found is None:
        return None
    # `README.md (only the beginning)`: the remark is no part of the name.
    name = re.sub(r"(?<=\S) \([^()]{1,200}\)$", "", found["name"].strip())
    return name.strip("`*\"': ") or None


def _read_head(lines: list[str]) -> tuple[list[str], list[Document]]:
    """Ahead of the first label: fenced blocks are texts, and all that follows a rule is one."""
    instruction: list[str] = []
    documents: list[Document] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        if fence := _FENCE.fullmatch(line):
            end = _closing_fence(lines, index, fence["mark"])
            name = _name_above(instruction, fence["info"])
            text = "\n".join(lines[index + 1 : end])
            documents.append(Document(name, text, _language(fence["info"])))
            index = end
        elif _RULE.fullmatch(line) and any(rest.strip() for rest in lines[index + 1 :]):
            documents.append(Document("", _without_edges(lines[index + 1 :])))
            break
        else:
            instruction.append(line)
        index += 1
    return instruction, documents


def _closing_fence(lines: list[str], start: int, mark: str) -> int:
    """Where the block that opens at `start` ends, or the number of lines if it does not.

    Inside a block with a short fence, a short fence with a word opens another block; a longer fence
    was chosen so that nothing inside can be taken for it.
    """
    depth = 1
    nests = len(mark) == _SHORT_FENCE
    for index in range(start + 1, len(lines)):
        fence = _FENCE.fullmatch(lines[index])
        if not fence or fence["mark"][0] != mark[0] or len(fence["mark"]) < len(mark):
            continue
        opens = bool(fence["info"].strip())
        depth += int(nests) if opens else -1
        if depth == 0:
            return index
    return len(lines)


def _read_section(name: str, lines: list[str]) -> tuple[Document, list[str]]:
    """Below a label: the last short fence closes the first, for a file may hold some of its own."""
    first = next((index for index, line in enumerate(lines) if line.strip()), len(lines))
    fence = _FENCE.fullmatch(lines[first]) if first < len(lines) else None
    if fence is None:
        return Document(name, _without_edges(lines)), []
    mark = fence["mark"]
    longer = len(mark) > _SHORT_FENCE
    last = _closing_fence(lines, first, mark) if longer else len(lines) - 1
    for end in range(min(last, len(lines) - 1), first, -1):
        closing = _FENCE.fullmatch(lines[end])
        if closing and closing["mark"].startswith(mark) and not closing["info"].strip():
            text = "\n".join(lines[first + 1 : end])
            tail = [line for line in lines[end + 1 :] if not _RULE.fullmatch(line)]
            return Document(name, text, _language(fence["info"])), tail
    return Document(name, "\n".join(lines[first + 1 :]), _language(fence["info"])), []


def _without_edges(lines: list[str]) -> str:
    """The lines without blank ones, rules and left-over fences around them."""
    kept = list(lines)
    while kept and (not kept[-1].strip() or _RULE.fullmatch(kept[-1])):
        kept.pop()
    fences = sum(1 for line in kept if _FENCE.fullmatch(line))
    if kept and fences % 2 and _FENCE.fullmatch(kept[-1]):
        kept.pop()
    return "\n".join(kept).strip("\n")


def _language(info: str) -> str:
    words = info.split()
    return words[0].lower() if words else ""


def _name_above(instruction: list[str], info: str) -> str:
    """A fenced block is named by its own word, or by a line such as `notes.md:` above it."""
    if spans.is_path(info.strip()):
        return info.strip()
    above = next((line.strip() for line in reversed(instruction) if line.strip()), "")
    name = above.strip("`*#: ")
    return name if above.endswith((":", "`", "*")) and spans.is_path(name) else ""


def _instruction_at_the_end(document: Document) -> tuple[str, Document]:
    """Where all is text, a short piece below its last rule is the request."""
    lines = document.text.split("\n")
    for index in range(len(lines) - 1, -1, -1):
        if _RULE.fullmatch(lines[index]):
            tail = "\n".join(lines[index + 1 :]).strip()
            text = _without_edges(lines[:index])
            if tail and len(tail) <= _TAIL_CHARACTERS and text.strip():
                return tail, Document(document.name, text, document.language)
            break
    return "", document


def _inline(instruction: str) -> tuple[str, list[Document]]:
    """Text that simply follows the request: below it, after a colon, or as rows of a table."""
    if rows := _rows(instruction):
        start, end = rows
        lines = instruction.split("\n")
        asked = "\n".join(lines[:start] + lines[end:]).strip()
        if asked:
            return asked, [Document("", "\n".join(lines[start:end]))]
    above, _, last = instruction.rstrip().rpartition("\n")
    if _ABOVE.search(last[:_TAIL_CHARACTERS]) and _is_prose(above, _PARAGRAPH_WORDS):
        return last, [Document("", above.strip())]
    first, _, rest = instruction.partition("\n")
    if not _ABOUT_TEXT.search(first[:_TAIL_CHARACTERS]):
        return instruction, []
    before, colon, after = first.partition(": ")
    if first.rstrip().endswith(":"):
        before, colon, after = first, ":", ""
    text = f"{after}\n{rest}".strip()
    if colon and _ABOUT_TEXT.search(before) and _is_prose(text, _INLINE_WORDS):
        return before, [Document("", text)]
    if _is_prose(rest, _PARAGRAPH_WORDS):
        return first, [Document("", rest.strip())]
    return instruction, []


def _is_prose(text: str, least_words: int) -> bool:
    return len(text.split()) >= least_words and not _LIST_ITEM.match(text)


def _rows(text: str) -> tuple[int, int] | None:
    """The first run of lines with equally many cells, and a number in each line but the first."""
    lines = text.split("\n")
    for delimiter, least in _LEAST_ROWS.items():
        start = 0
        while start < len(lines):
            count = lines[start].count(delimiter)
            end = start + 1
            while count and end < len(lines) and _is_row(lines[end], delimiter, count):
                end += 1
            if end - start >= least:
                return start, end
            start = end
    return None


def _is_row(line: str, delimiter: str, count: int) -> bool:
    if line.count(delimiter) != count:
        return False
    return bool(_NUMBER_CELLS[delimiter].search(line)) or not line.strip("|-: ")
