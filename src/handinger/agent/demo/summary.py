"""Shortens a text without a language model: counts, headings, and the sentences that carry most.

A sentence weighs what its words weigh (how often the text uses them, whether a heading does), more
where it opens the text or a section. The sentences are quoted, never rewritten.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from handinger.agent.demo import spans, table
from handinger.agent.demo.prompt import Document

Style = Literal["summary", "points", "outline"]

# What is read of one text; a longer one is cut, and the summary says so.
MAX_CHARACTERS = 200_000
DEFAULT_SENTENCES = 4
MOST_SENTENCES = 10

_MAX_SENTENCES_READ = 5_000
_MAX_HEADINGS_SHOWN = 12
_FENCE = re.compile(r" {0,3}(?:`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(?P<marks>#{1,6})[ \t]+(?P<text>\S.*)")
_UNDERLINE = re.compile(r" {0,3}(?:={3,}|-{3,})[ \t]*")
_ITEM = re.compile(r"[ \t]{0,12}(?:[-*+•]|\d{1,3}[.)])[ \t]+(?=\S)")
_MARK = re.compile(r"[*_\[<]")
_IMAGE = re.compile(r"!\[[^\[\]\n]{0,300}\]\([^()\n]{0,600}\)")
# Code stays as it is, tags and emphasis around it go.
_CODE_OR_DECORATION = re.compile(
    r"(`[^`\n]{1,300}`)|<[/!a-zA-Z][^<>\n]{0,300}>|\*\*|__|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)"
)
_LINK = re.compile(r"\[([^\[\]\n]{0,300})\]\([^()\n]{0,600}\)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]{0,2} (?=[^a-z\s])|(?<=[\u3002\uff01\uff1f])(?!$)")
_WORD = re.compile(r"[^\W\d_][\w'\u2019-]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|dr|mr|mrs|ms|prof|st|no|fig|approx|[A-Z]))\.$", re.IGNORECASE
)
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a about after all also an and any are as at be because been before being but by "
        "can could did do does each for from had has have he her his how i if in into is it "
        "its just like may me more most my no not of on one only or other our out over own "
        "same she should so some such than that the their them then there these they this "
        "those through to too under until up use used using very was we were what when "
        "where which while who why will with would you your",
    )
)


@dataclass(frozen=True, slots=True)
class _Heading:
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    section: int
    opens_section: bool
    is_item: bool


@dataclass(frozen=True, slots=True)
class _Outline:
    headings: tuple[_Heading, ...]
    sentences: tuple[_Sentence, ...]


def summarise(document: Document, *, style: Style = "summary", sentences: int | None = None) -> str:
    """Markdown: title, counts, headings, and the key sentences in the order of the text."""
    text = document.text[:MAX_CHARACTERS]
    outline = _read(text)
    found = table.find(text)
    lines = [f"**{_title(document, outline)}**", "", _counts(document, outline)]
    if found and found.covers >= 0.7:
        lines += ["", f"A table of {found.rows} rows with the columns {', '.join(found.names)}."]
        return "\n".join([*lines, "", table.totals(found)])
    if style == "outline":
        return "\n".join([*lines, "", *_outlined(outline)])
    if outline.headings and style == "summary":
        lines += ["", f"Headings: {_listed(heading.text for heading in outline.headings)}"]
    chosen = _key_sentences(outline, min(sentences or DEFAULT_SENTENCES, MOST_SENTENCES))
    if not chosen:
        opening = [spans.shortened(line, 160) for line in text.split("\n") if line.strip()][:3]
        chosen = opening or ["The text is empty."]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in chosen)])


def word_count(text: str) -> int:
    return len(text.split())


def _title(document: Document, outline: _Outline) -> str:
    heading = outline.headings[0].text if outline.headings else ""
    name = spans.shortened(document.name, 120)
    if heading and name and heading != name:
        return f"{heading} ({name})"
    first = outline.sentences[0].text if outline.sentences else "A text"
    return heading or name or spans.shortened(first, 60)


def _counts(document: Document, outline: _Outline) -> str:
    counts = [f"{word_count(document.text):,} words"]
    if outline.headings:
        counts.append(f"{len(outline.headings)} heading{'s' if len(outline.headings) > 1 else ''}")
    line = ", ".join(counts)
    if len(document.text) > MAX_CHARACTERS:
        line += f" (only the first {MAX_CHARACTERS:,} characters were read)"
    return line + "."


def _listed(texts: Iterable[str]) -> str:
    shown = [spans.shortened(text, 80) for text in texts]
    more = len(shown) - _MAX_HEADINGS_SHOWN
    return "; ".join(shown[:_MAX_HEADINGS_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _outlined(outline: _Outline) -> list[str]:
    """Headings by level, each with the sentence that opens its section."""
    opening = {item.section: item.text for item in reversed(outline.sentences)}
    if not outline.headings:
        return [f"- {sentence}" for sentence in _key_sentences(outline, 5)] or ["- (no headings)"]
    top = min(heading.level for heading in outline.headings)
    lines: list[str] = []
    for section, heading in enumerate(outline.headings, start=1):
        told = opening.get(section)
        line = f"{'  ' * (heading.level - top)}- {spans.shortened(heading.text, 120)}"
        lines.append(f"{line}: {spans.shortened(told, 160)}" if told else line)
    return lines


class _Reader:
    """Collects headings and sentences line by line, leaving out code, images and table rows."""

    def __init__(self) -> None:
        self.headings: list[_Heading] = []
        self.sentences: list[_Sentence] = []
        self._paragraph: list[str] = []
        self._is_item = False
        self._in_code = False

    def read(self, line: str) -> None:
        if _FENCE.match(line):
            self.close()
            self._in_code = not self._in_code
        elif self._in_code:
            return
        elif heading := _HEADING.fullmatch(line):
            self.close()
            self._add_heading(heading["text"].rstrip("# \t"), len(heading["marks"]))
        elif _UNDERLINE.fullmatch(line):
            if len(self._paragraph) == 1 and not self._is_item:
                self._add_heading(self._paragraph.pop(), 1 if "=" in line else 2)
            self.close()
        elif item := _ITEM.match(line):
            self.close()
            self._paragraph.append(line[item.end() :])
            self._is_item = True
        elif not line.strip() or line.lstrip().startswith("|"):
            self.close()
        else:
            self._paragraph.append(line.strip())

    def close(self) -> None:
        """End the paragraph that is open."""
        section = len(self.headings)
        for told in _sentences(" ".join(self._paragraph)):
            opens = not self.sentences or self.sentences[-1].section != section
            self.sentences.append(_Sentence(told, section, opens, self._is_item))
        self._paragraph.clear()
        self._is_item = False

    def _add_heading(self, text: str, level: int) -> None:
        if told := _plain(text):
            self.headings.append(_Heading(level, told))


def _read(text: str) -> _Outline:
    reader = _Reader()
    for line in text.split("\n"):
        if len(reader.sentences) >= _MAX_SENTENCES_READ:
            break
        reader.read(line)
    reader.close()
    return _Outline(headings=tuple(reader.headings), sentences=tuple(reader.sentences))


def _plain(text: str) -> str:
    """The text without Markdown's and HTML's marks."""
    if _MARK.search(text):
        bare = _LINK.sub(r"\1", _IMAGE.sub("", text))
        text = _CODE_OR_DECORATION.sub(r"\1", bare)
    return " ".join(text.split())


def _sentences(paragraph: str) -> list[str]:
    text = _plain(paragraph)
    told: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text, max(start, end.start() - 12), end.start()):
            told.append(text[start : end.end()].strip())
            start = end.end()
    return [*told, text[start:]] if text[start:] else told


def _key_sentences(outline: _Outline, count: int) -> list[str]:
    """The weightiest sentences that do not repeat one another, in the order of the text."""
    word_sets = [frozenset(_telling(sentence.text)) for sentence in outline.sentences]
    frequency = Counter(word for words in word_sets for word in words)
    titles = frozenset(word for heading in outline.headings for word in _telling(heading.text))
    weights = [
        _weight(sentence, words, index=index, frequency=frequency, titles=titles)
        for index, (sentence, words) in enumerate(zip(outline.sentences, word_sets, strict=True))
    ]
    ranked = sorted(range(len(weights)), key=lambda index: (-weights[index], index))
    chosen: list[int] = []
    for index in ranked:
        if len(chosen) == count:
            break
        if weights[index] > 0 and not any(_alike(word_sets[index], word_sets[k]) for k in chosen):
            chosen.append(index)
    return [spans.shortened(outline.sentences[index].text, 400) for index in sorted(chosen)]


def _weight(
    sentence: _Sentence,
    words: frozenset[str],
    *,
    index: int,
    frequency: Counter[str],
    titles: frozenset[str],
) -> float:
    if not words:
        return 0.0
    weight = sum(frequency[word] + (1 if word in titles else 0) for word in words)
    weight /= (len(words) + 4) ** 0.7
    if index == 0:
        weight *= 3
    elif sentence.opens_section:
        weight *= 1.25
    length = len(sentence.text.split())
    if length < 5:
        weight *= 0.3
    elif length > 45:
        weight *= 0.5
    return weight * (0.7 if sentence.is_item else 1.0)


def _telling(text: str) -> list[str]:
    """The words that say what a text is about, without plural endings."""
    words = (found.lower() for found in _WORD.findall(text))
    return [word.removesuffix("s") for word in words if len(word) > 2 and word not in _COMMON]


def _alike(words: frozenset[str], others: frozenset[str]) -> bool:
    smaller: Sequence[str] = tuple(words if len(words) <= len(others) else others)
    return bool(smaller) and len(words & others) > 0.7 * len(smaller)
