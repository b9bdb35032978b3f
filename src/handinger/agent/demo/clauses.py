"""Cuts an instruction into clauses, each of which begins with a word that says what to do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from handinger.agent.demo import spans

MAX_CLAUSES = 40

_MAX_CHARACTERS = 20_000
_MAX_VERBS = 2_000
_HEAD_CHARACTERS = 4_000
_WINDOW_CHARACTERS = 80
_COUNT = r"(?:\d{1,9}|an?|one|two|three|four|five|six|ten|fifteen|twenty|thirty|half an)"
# The first family whose words fit wins; `rules` has a rule for each.
_FAMILIES = {
    "recall": (
        r"what (?:did|have) i|what was my|what do you (?:know|remember)|who am i|how am i called"
        r"|(?:what|who)(?:'s| is| are) my(?! (?:workspace|files?|schedules?))"
        r"|do you remember|tell me my"
    ),
    "fact": (
        r"my (?:[\w'-]{1,40} ){1,4}?(?:is|are)|call me|i am called|i'm called|remember|note that"
        r"|keep in mind"
    ),
    "help": (
        r"help(?: me)?|what can you do|what do you (?:do|understand)|who are you|what are you"
        r"|(?:tell me )?what you can do|introduce yourself|tell me about yourself|how do you work"
    ),
    "greeting": r"hello|hi|hey|good (?:morning|afternoon|evening|day)|thanks|thank you|cheers",
    "schedule": (
        r"remind(?: me)?|schedule|set up (?:a|an) (?:schedule|reminder)"
        r"|every|each (?=\w{3,6}day|hour|minute|week|month|\d)|hourly|daily|weekly|monthly"
        r"|tomorrow|tonight|on weekdays|at \d{1,2}(?:[:.]\d\d)? ?(?:am|pm)?(?=[ ,])"
        r"|on \d{4}-\d{2}-\d{2}(?:[t ]\d{2}:\d{2}\S{0,9})?"
        r"|(?:on|next) (?:mon|tues|wednes|thurs|fri|satur|sun)days?"
        rf"|(?:in|after) {_COUNT} (?:second|minute|hour|day|week)s?"
    ),
    "summarise": (
        r"summari[sz]e|sum up|(?:a )?(?:short )?summary|(?:an )?outline"
        r"|(?:the )?(?:key|main) points|tl;?dr|recap|condense|shorten"
    ),
    "compute": (
        r"compute|calculate|evaluate|work out|solve|add up|add|subtract|multiply|divide"
        r"|(?:the )?(?:sum|total|totals|average|mean|median|product)"
    ),
    "search": r"search|look up|google|research|find out|find",
    "ask": r"what(?:'s| is| are| does| do)|how much|how many|what files|which|count",
    "write": r"write|save|store|create|make|put|record|draft|produce",
    "fetch": r"fetch|download|visit|browse|load|crawl|retrieve|get",
    "read": r"read|show(?: me)?|open|display|cat|print|view|look at",
    "list": r"list|ls|enumerate",
    "publish": r"publish|share",
    "run": r"run|execute",
    "mail": r"e-?mail|mail|send|reply to",
    "cancel": r"cancel|unschedule|stop|drop",
    "give": r"give(?: me)?|tell(?: me)?|prepare|provide|let me know|state|report",
    "echo": (
        r"say|echo|repeat(?: after me)?|(?:reply|respond|answer) with(?: exactly| only| just)?"
    ),
    "other": (
        r"translate|explain|rewrite|rephrase|paraphrase|compare|draw|paint|generate|design|fix"
        r"|refactor|implement|improve|review|analy[sz]e|recommend|suggest|brainstorm|classify"
        r"|extract|plan|edit|delete|remove|rename|move|copy|upload|install|append|convert|book|buy"
        r"|order|build|deploy|check|monitor|watch|do|why|how|who|when|where"
        r"|(?:can|could|would) you"
    ),
}
_VERB = re.compile(
    r"(?<![\w/.@-])(?=[a-z])(?:"
    + "|".join(f"(?P<{family}>{words})" for family, words in _FAMILIES.items())
    + r")(?=[\s:,]|[.!?;](?:\s|$)|$)",
    re.IGNORECASE,
)
# Words between two clauses that belong to neither.
_LINK = re.compile(
    r"(?:^|(?<=[\s,(:;.!?-]))(?P<word>and|then|also|finally|next|afterwards?|after that|please"
    r"|kindly|now|just|first|firstly|second|secondly|third|lastly|so|ok|okay"
    r"|(?:can|could|would|will) you|you to|like to|want to|need to|let's|to me"
    r"|you (?:can|should|must)|use (?:the )?\S{1,40}(?: tool)? to)[\s,]*$",
    re.IGNORECASE,
)
_THEN = frozenset({"then", "finally", "next", "after that", "afterwards", "afterward"})
_THEN_BY_NUMBER = frozenset({"second", "secondly", "third", "lastly"})
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n")
# What follows one of these is text to hand on, not a request.
_LITERAL = re.compile(
    r"\b(?:with (?:the )?(?:following )?(?:text|contents?|words|message|body)(?! (?:of|from)\b)"
    r"|that (?:says|reads|contains)|saying|containing|which says)\b:?\s*",
    re.IGNORECASE,
)
_LITERAL_AFTER_PATH = re.compile(rf"(?:\.\w{{1,8}}|{spans.MASK}):(?:\s+|$)")
_COLON = re.compile(r":(?:\s+|$)")
_ABOUT_RESULT = re.compile(
    r"(?:publish|share|write|save|mail|send|read|show|run)\w{0,3} (?:it|them|that)\b", re.IGNORECASE
)

Opening = Literal["sentence", "then", "and"]


@dataclass(frozen=True, slots=True)
class Clause:
    """`head` is the request, `literal` the text that it hands on; both stand in `text`.

    `is_question` means that it ends with a question mark.
    """

    family: str
    verb: str
    text: str
    opening: Opening
    start: int
    end: int
    is_question: bool = False

    @property
    def head(self) -> str:
        marker = self._marker()
        return self.text[: marker.start()] if marker else self.text[:_HEAD_CHARACTERS]

    @property
    def literal(self) -> str | None:
        marker = self._marker()
        return self.text[marker.end() :].strip() if marker else None

    @property
    def object(self) -> str:
        """What follows the verb, ahead of handed-on text."""
        return self.head[len(self.verb) :].strip(" :,\n\t")

    @property
    def hands_on(self) -> bool:
        """Whether text is handed on without quotation marks that would say where it ends."""
        if self.family not in ("write", "mail", "fact"):
            return False
        literal = self.literal
        return literal is not None and spans.unquoted(literal) == literal

    def _marker(self) -> re.Match[str] | None:
        masked = spans.mask(self.text[:_HEAD_CHARACTERS])
        marker = _LITERAL.search(masked)
        if marker is None and self.family == "write":
            marker = _LITERAL_AFTER_PATH.search(masked)
            # The head keeps the path that the marker begins in.
            marker = marker and _COLON.search(masked, marker.start())
        return marker


def find(instruction: str) -> list[Clause]:
    """The clauses in order, without what stands between sentences that ask nothing.

    Only the beginning of a very long instruction is searched; its last clause has all the rest.
    """
    masked = spans.mask(instruction[:_MAX_CHARACTERS])
    found: list[tuple[re.Match[str], Opening, int]] = []
    for verb in islice(_VERB.finditer(masked), _MAX_VERBS):
        opening = _opening(masked, verb.start())
        if opening is None or (verb.lastgroup == "greeting" and opening[0] != "sentence"):
            continue
        if found and found[-1][0].start() >= opening[1]:
            found.pop()  # "Can you summarise": the first words only link the second.
        found.append((verb, *opening))
        if len(found) == MAX_CLAUSES:
            break
    ends = [link for _, _, link in found[1:]] + [len(instruction)]
    clauses = [
        Clause(
            family=verb.lastgroup or "other",
            verb=verb.group(),
            text=instruction[verb.start() : end].rstrip(" ,\n\t"),
            opening=opening,
            start=verb.start(),
            end=end,
        )
        for (verb, opening, _), end in zip(found, ends, strict=False)
    ]
    return [_ended(clause) for clause in _joined(clauses, instruction)]


def absorb(clause: Clause, following: Sequence[Clause], instruction: str) -> Clause:
    """The clause with all that belongs to its sentence, up to a `then`."""
    for other in following:
        if other.opening != "and" or "\n" in instruction[clause.end : other.start]:
            break
        clause = replace(clause, text=instruction[clause.start : other.end].rstrip(), end=other.end)
    return _ended(clause)


def _opening(masked: str, start: int) -> tuple[Opening, int] | None:
    """How the word at `start` opens a clause, and where the words that link it begin; or None."""
    begin = max(0, start - _WINDOW_CHARACTERS)
    window = masked[begin:start]
    words: set[str] = set()
    rest = window.rstrip()
    while link := _LINK.search(rest):
        words.add(link["word"].lower())
        rest = rest[: link.start()].rstrip()
    between = window[len(rest) :]
    place = begin + len(rest)
    if words & (_THEN | _THEN_BY_NUMBER):
        return "then", place
    if (not rest and begin == 0) or "\n" in between or rest.endswith((".", "!", "?", ";")):
        return "sentence", place
    if words or rest.endswith((",", ":", "(", "-", "*", "•", ")")):
        return "and", place
    return None


def _joined(clauses: Sequence[Clause], instruction: str) -> list[Clause]:
    """A clause that hands text on takes what follows on its line, up to a `then`."""
    joined: list[Clause] = []
    for clause in clauses:
        last = joined[-1] if joined else None
        if last and last.hands_on and _continues(clause, last, instruction):
            text = instruction[last.start : clause.end].rstrip(" ,\n\t")
            joined[-1] = replace(last, text=text, end=clause.end)
        else:
            joined.append(clause)
    return joined


def _continues(clause: Clause, last: Clause, instruction: str) -> bool:
    if clause.opening == "then" or "\n" in instruction[last.start : clause.start]:
        return False
    # "… saying hello and publish it": the last words speak of the file, not in it.
    speaks_of_it = last.literal and clause.opening == "and" and _ABOUT_RESULT.match(clause.text)
    return not speaks_of_it


def _ended(clause: Clause) -> Clause:
    """Cut at the end of the sentence, or of the line if text is handed on."""
    if clause.hands_on:
        return replace(clause, text=clause.text.partition("\n")[0].rstrip())
    text = clause.text[:_HEAD_CHARACTERS]
    stop = _SENTENCE_END.search(spans.mask(text))
    if stop is None:
        return replace(clause, text=text)
    return replace(clause, text=text[: stop.start()], is_question=stop.group() == "?")
