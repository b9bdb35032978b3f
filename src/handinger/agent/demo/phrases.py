"""The turns of phrase that the rules look for inside a clause, and what each of them says."""

import re
from collections.abc import Sequence

from handinger.agent.demo import arithmetic, spans, summary
from handinger.agent.demo.desk import Page, Source, Takes, WorkspaceFile


def _phrase(*alternatives: str) -> re.Pattern[str]:
    """Any of the alternatives, as whole words."""
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b", re.IGNORECASE)


SUMMARY = _phrase(
    "summary|summaries|summari[sz]e|sum up|outline|headings|tl;?dr|recap|condense|shorten",
    "(?:key|main|important) (?:ideas|facts)|points|gist|about",
)
SUMMARY_NOUN = _phrase(
    "summary|outline|(?:key|main|important) (?:ideas|facts)|points|headings|tl;?dr|recap"
)
TABLE = _phrase(
    "tables?|csv|columns?|rows|totals?|sums?|add (?:it |them )?up|averages?|means?",
    "maximum|minimum|figures|numbers",
)
PICTURE = _phrase("charts?|plots?|graphs?|diagrams?|drawings?|pictures?|images?|png")
WORD_COUNT = _phrase("how many words|words? count|count (?:the |all )?words")
SCHEDULES = _phrase("schedules?|scheduled|reminders?")
ALL_SCHEDULES = _phrase("all|every|schedules|reminders")
FILES = _phrase("files?|folders?|directory|directories|workspace")
GIVEN = _phrase(
    "this|it|text|below|above|attached|attachments?|following|page|files?|document",
)
CONTENT = _phrase("say|says|mean|means|contain|contains|in (?:it|this|here|the)")
QUESTION_WORD = re.compile(r"(?:what|which|why|how|who|when|where)\b", re.IGNORECASE)
ATTACHED = _phrase("attach|attached|attaching|attachments?|with")
EMPTY = _phrase("empty|blank")
COPY_OF = _phrase("(?:text|contents?) (?:of|from)")
SCHEDULE_ID = re.compile(r"\bsch_\w{1,80}")

# The results so far, or what was handed over, rather than words to be written down.
ITSELF = re.compile(
    r"it|both|everything|what you found"
    r"|(?:this|that|these|those|them|all)(?: (?:of )?(?:it|this|that|text|page|file))?"
    r"|(?:the|this) (?:whole |following |attached )?"
    r"(?:text|page|file|article|document|contents?|rest|lines|following)|the following"
    r"|(?:the |your |all |its )?(?:results?|answers?|output|outcome|findings|numbers?|totals?|table"
    r"|sum|product|average|calculations?)"
    r"|(?:a |the )?(?:short )?report(?: .{0,200})?",
    re.IGNORECASE,
)
# Something that only a language model could make up.
FILE_LIST = _phrase("list of (?:the |all )?files|file list")
README = _phrase("readme")
LAST_FILE = re.compile(r"(?:it|that|the file)(?: back| again)?", re.IGNORECASE)
TO_COMPOSE = re.compile(r"(?:an?|some|my|me|us|the)\b", re.IGNORECASE)
_NO_COMMAND = re.compile(
    r"(?:the|a|an|it|this|that|them|all|my|your|some|following|below)\b", re.IGNORECASE
)

_OUTLINE = _phrase("outline|headings|structure|table of contents")
_POINTS = _phrase("points|bullets?|ideas|facts")
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNT = re.compile(
    rf"\b(?P<count>\d{{1,3}}|{'|'.join(_COUNTS)}|an?|single)"
    r" (?:short |key |main |most important ){0,2}"
    r"(?:sentences?|bullets?|points?|lines?|ideas|facts)\b",
    re.IGNORECASE,
)
_FOLDER = re.compile(
    r"\b(?:in|under|of|inside|from) (?:the )?(?:folder |directory )?"
    r"[`\"']?(?P<path>[\w.][\w./-]{0,199})[`\"']?(?: folder| directory)?\s*$",
    re.IGNORECASE,
)
_NO_FOLDER = frozenset({"workspace", "it", "here", "this", "my", "your", "the", "worker", "all"})
_TARGET = re.compile(
    r"[\s,]*\b(?:and )?(?:into|to|as) (?:(?:a|the) )?(?:new )?(?:file )?(?:called |named )?"
    r"(?P<path>\S{1,300})\s*$",
    re.IGNORECASE,
)
_ITEMS = re.compile(
    r"(?:an? )?(?:[\w-]{1,30} ){0,3}list (?:with|of|containing)(?: the items)?:? (?P<items>.+)",
    re.IGNORECASE,
)
_BETWEEN_ITEMS = re.compile(r", and |, | and ", re.IGNORECASE)
_BACKTICKS = re.compile(r"`([^`\n]{1,4000})`")
_INTERPRETERS = {"py": "python3", "sh": "sh"}
_TARGET_WORDS = re.compile(
    r"[\s,]*\b(?:into|in|to|as|called|named)?\s?(?:(?:a|an|the) )?(?:new |empty )?"
    r"(?:text )?(?:file )?(?:called |named )?$",
    re.IGNORECASE,
)
_QUOTED_TO_PATH = re.compile(
    r"[`\"“]([^`\"“”\n]{1,4000})[`\"”] (?:to|into|in|as) [`\"]?([^\s`\",;]{1,300})", re.IGNORECASE
)
_ONLY_FILES = re.compile(r"(?:[\s,]|and |(?:new |empty |two |three )?files? )*", re.IGNORECASE)
_BEHIND_TARGET = re.compile(r"(?:with|from|using) (.+)", re.DOTALL)
_TARGET_TAIL_CHARACTERS = 400
_RESULT_KINDS: Sequence[tuple[re.Pattern[str], Takes]] = (
    (_phrase("everything|all|both|report|findings|results"), "all"),
    (_phrase("summary|outline|points"), "summary"),
    (_phrase("totals?|table"), "table"),
    (_phrase("result|answer|sum|average|product|calculation|number"), "calculation"),
    (_phrase("output"), "output"),
    (_phrase("text|page|file|article|document|contents?"), "text"),
)
_SUBJECT = re.compile(
    r"[\s,]*\b(?:with )?(?:the )?subject:? (?:line )?"
    r"(?P<subject>[`\"“'][^`\"”'\n]{1,200}[`\"”']|[^,.;:\n]{1,120}?)"
    r"(?=\s*(?:[,.;:\n]|$| and ))",
    re.IGNORECASE,
)
_SEARCH_LEAD = re.compile(
    r"^(?:(?:on |in )?(?:the )?(?:web|internet|net)|online)?\s*(?:for |about )?", re.IGNORECASE
)
_SEARCH_TAIL = re.compile(r"\s(?:on the (?:web|internet)|online)$", re.IGNORECASE)
_COMMAND_LEAD = re.compile(
    r"^(?:the )?(?:shell )?(?:command|script|program|code)?[:\s]*", re.IGNORECASE
)
_BUDGET = re.compile(
    r"[\s,]*\bwith (?:an? |the )?(low|standard|high|unlimited) budget\b", re.IGNORECASE
)
_SCHEDULE_LEAD = re.compile(
    r"^[\s,]*(?:(?:please|and) )?"
    r"(?:(?P<remind>remind(?: me)?)|schedule|set up (?:a|an) (?:schedule|reminder))?"
    r"(?: (?:yourself|it|(?:a|the|this|another) (?:task|turn|run|job|reminder|schedule)))?"
    r"(?: (?:to|that|for|which))?[\s,:]*",
    re.IGNORECASE,
)


def calculates(text: str) -> bool:
    """Whether there is a calculation in the text, be its result printable or not."""
    try:
        return arithmetic.compute(text) is not None
    except arithmetic.CannotCompute:
        return True


def sources(text: str) -> tuple[Source, ...]:
    """The pages and files that the text names."""
    pages = [Page(url) for url in spans.urls(text)]
    return (*pages, *(WorkspaceFile(path) for path in spans.paths(text)))


def target(text: str) -> tuple[str, str | None]:
    """The text without a trailing `to notes.md`, and that path."""
    tail = text[-_TARGET_TAIL_CHARACTERS:]
    found = _TARGET.search(tail)
    path = found["path"].strip("`\"'“”.,;:!?") if found else ""
    if not found or not spans.is_path(path):
        return text, None
    return text[: len(text) - len(tail) + found.start()], path


def body(text: str, path: str) -> str:
    """What is to be written: the words ahead of the path, or those behind it."""
    before, _, after = text.partition(path)
    ahead = _TARGET_WORDS.sub("", before.rstrip(" `\"'“") + " ").strip(" ,:")
    behind = after.strip(" `\"'”,.:!?")
    if not ahead and (found := _BEHIND_TARGET.fullmatch(behind)):
        ahead = found[1].strip()
    return re.sub(r"^(?:down|out|up)\b\s*", "", ahead)


def written_files(text: str) -> list[tuple[str, str]]:
    """Several paths with their contents: `"a" to a.txt, "b" to b.txt`, or just empty files."""
    paths = spans.paths(text)
    if len(paths) < 2:
        return []
    pairs = [(path.rstrip(".,;:!?"), content) for content, path in _QUOTED_TO_PATH.findall(text)]
    if [path for path, _ in pairs] == paths:
        return pairs
    rest = text
    for path in paths:
        rest = rest.replace(path, " ", 1)
    return [(path, "") for path in paths] if _ONLY_FILES.fullmatch(rest + " ") else []


def takes(text: str) -> Takes:
    """Which of the results the text speaks of."""
    for pattern, kind in _RESULT_KINDS:
        if pattern.search(text):
            return kind
    return "last"


def style(text: str) -> summary.Style:
    if _OUTLINE.search(text):
        return "outline"
    return "points" if _POINTS.search(text) else "summary"


def sentence_count(text: str) -> int | None:
    """How many sentences or points are wanted."""
    found = _COUNT.search(text)
    if not found:
        return None
    word = found["count"].lower()
    number = int(word) if word.isdigit() else _COUNTS.index(word) if word in _COUNTS else 1
    return min(max(number, 1), summary.MOST_SENTENCES)


def folder(text: str) -> str:
    found = _FOLDER.search(text[-300:].rstrip(" .?!"))
    if not found or found["path"].lower() in _NO_FOLDER:
        return "."
    return found["path"]


def subject(text: str) -> tuple[str, str | None]:
    """The text without its words about a subject, and the subject."""
    found = _SUBJECT.search(text)
    if not found:
        return text, None
    return text[: found.start()] + text[found.end() :], spans.unquoted(found["subject"])


def query(text: str) -> str:
    """What is searched for."""
    return spans.unquoted(_SEARCH_TAIL.sub("", _SEARCH_LEAD.sub("", text)).strip(" ,?"))


def commands(text: str) -> list[str]:
    """What stands in backticks, else all of the text if it can be a command."""
    if quoted := _BACKTICKS.findall(text):
        return quoted
    command = spans.unquoted(_COMMAND_LEAD.sub("", text))
    if not command or _NO_COMMAND.match(command):
        return []
    return [run_file(command) or command]


def run_file(path: str) -> str | None:
    """The command that runs a script by its name."""
    interpreter = _INTERPRETERS.get(path.rpartition(".")[2])
    return f"{interpreter} {path}" if interpreter and spans.is_path(path) else None


def items(text: str) -> str | None:
    """`a shopping list with milk, eggs and bread` as the lines of a list."""
    found = _ITEMS.fullmatch(text)
    if not found:
        return None
    return "\n".join(f"- {item.strip()}" for item in _BETWEEN_ITEMS.split(found["items"]))


def task(text: str) -> tuple[str, str | None]:
    """What shall be done at another time, as an instruction of its own, and its budget."""
    budget = _BUDGET.search(text)
    if budget:
        text = text[: budget.start()] + text[budget.end() :]
    lead = _SCHEDULE_LEAD.match(text)
    if lead:
        text = text[lead.end() :]
    text = text.strip(" ,;:.")
    if text and lead and lead["remind"]:
        text = f"remind me to {text}"
    return text[:1].upper() + text[1:], budget[1].lower() if budget else None
