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
_IMAGE = re.compile(r"!\[[^\[\]\n]{0,300}\]\([^()\n]{0,600}\)")
_LINK = re.compile(r"\[([^\[\]\n]{0,300})\]\([^()\n]{0,600}\)")
_TAG = re.compile(r"<[/!a-zA-Z][^<>\n]{0,300}>")
_EMPHASIS = re.compile(r"\*\*|__|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]{0,2} (?=[^a-z\s])|(?<=[。！？])(?!$)")
_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|dr|mr|mrs|ms|prof|st|no|fig|approx|[A-Z]))\.$", re.IGNORECASE
)
_COMMON = frozenset(
    "a about after all also an and any are as at be because been before being but by can could did do "
    "does each for from had has have he her his how i if in into is it its just like may me more most "
    "my no not of on one only or other our out over own same she should so some such than that the "
    "their them then there these they this those through to too under until up use used using very "
    "was we were what when where which while who why will with would you your".split()
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
    """Markdown: the title, the counts, the headings and the key sentences in the text's own order."""
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


def _read(text: str) -> _Outline:
    """Headings and sentences of a Markdown or plain text, without code, images and table rows."""
    headings: list[_Heading] = []
    sentences: list[_Sentence] = []
    paragraph: list[str] = []
    in_code = False

    def close(*, is_item: bool = False) -> None:
        for told in _sentences(" ".join(paragraph)):
            opens = not sentences or sentences[-1].section != len(headings)
            sentences.append(_Sentence(told, len(headings), opens, is_item))
        paragraph.clear()

    for line in text.split("\n"):
        if len(sentences) >= _MAX_SENTENCES_READ:
            break
        if _FENCE.match(line):
            close()
            in_code = not in_code
        elif in_code:
            continue
        elif heading := _HEADING.fullmatch(line):
            close()
            told = _plain(heading["text"].rstrip("# \t"))
            if told:
                headings.append(_Heading(len(heading["marks"]), told))
        elif _UNDERLINE.fullmatch(line):
            if len(paragraph) == 1 and (told := _plain(paragraph[0])):
                headings.append(_Heading(1 if "=" in line else 2, told))
                paragraph.clear()
            close()
        elif item := _ITEM.match(line):
            close()
            paragraph.append(line[item.end() :])
            close(is_item=True)
        elif not line.strip() or line.lstrip().startswith("|"):
            close()
        else:
            paragraph.append(line.strip())
    close()
    return _Outline(headings=tuple(headings), sentences=tuple(sentences))


def _plain(text: str) -> str:
    """The text without Markdown's and HTML's marks."""
    bare = _LINK.sub(r"\1", _IMAGE.sub("", text))
    return " ".join(_EMPHASIS.sub("", _TAG.sub("", bare)).split())


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
        weight *= 1.6
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
