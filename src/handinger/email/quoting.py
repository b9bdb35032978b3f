"""What the sender wrote this time: a reply without the history that it quotes and the signature."""

import re
from dataclasses import dataclass
from typing import Any

from mailparser_reply import (  # pyright: ignore[reportMissingTypeStubs]
    EmailMessage,
    EmailReply,
)
from mailparser_reply.constants import (  # pyright: ignore[reportMissingTypeStubs]
    MAIL_LANGUAGES,
)

_LANGUAGES = tuple(MAIL_LANGUAGES)
_MAX_SIGNATURE_LINES = 12
# The library's patterns take more than linear time, and nobody quotes or signs in such long lines.
_MAX_LINE = 300
_MAX_CHARACTERS = 30_000
# Of languages and programs that the library does not know.
_ATTRIBUTION = re.compile(r".{0,250}(?:\d{4}|@).{0,250}:\s*")
_FORWARD_SUBJECT = re.compile(
    r"\s*(\[[^\]]*\]\s*)?(fwd?|wg|tr|rv|enc|i|vs|vl|doorst|pd)\s*:", re.IGNORECASE
)
_FORWARD_LINE = re.compile(
    r"^[ \t]*(-{5,}\s*(forwarded message|weitergeleitete nachricht|message transf\S+"
    r"|mensaje reenviado|messaggio inoltrato|doorgestuurd bericht)\s*-{5,}"
    r"|begin forwarded message:|anfang der weitergeleiteten nachricht:)",
    re.IGNORECASE | re.MULTILINE,
)
# Programs that do not mark what they quote put it below such a line, or below a header.
_ORIGINAL_LINE = re.compile(
    r"\s*-{3,}\s*(original message|ursprüngliche nachricht|message d'origine|message original"
    r"|mensaje original|mensagem original|messaggio originale|oorspronkelijk bericht"
    r"|ursprungligt meddelande|oprindelig meddelelse|alkuperäinen viesti|wiadomość oryginalna"
    r")\s*-{3,}\s*",
    re.IGNORECASE,
)
_UNMARKED_HEADER = re.compile(r"[\s*]*(-|[^\W\d_]+\s?:)")
_RULES = re.compile(r"[\s_=*-]*")


@dataclass(frozen=True, slots=True)
class Latest:
    """What a mail says this time."""

    text: str
    # Whether only its sender's words are in it, as far as can be told.
    is_own: bool


def is_forward(subject: str, text: str) -> bool:
    """Whether what looks like history is what the sender wants to show."""
    return bool(_FORWARD_SUBJECT.match(subject) or _FORWARD_LINE.search(text))


def latest(text: str, *, is_forward: bool) -> Latest:
    """The text above and between what it quotes; all of it if that leaves nothing.

    So is what is forwarded, and in both cases it is not the sender's own.
    """
    text = text.strip()
    if is_forward or not text:
        return Latest(text, is_own=not is_forward)
    lines = _before_original(text.split("\n"))
    beginning = _beginning(lines)
    kept = _kept_lines(beginning)
    # Where nobody has looked for history.
    unread = lines[len(beginning) :] if len(kept) == len(beginning) else []
    own = "\n".join(_without_quotes([*kept, *unread])).strip()
    if _RULES.fullmatch(own):
        return Latest(text, is_own=False)
    return Latest(own, is_own=not unread)


def _before_original(lines: list[str]) -> list[str]:
    found = (n for n, line in enumerate(lines) if _ORIGINAL_LINE.fullmatch(line[:_MAX_LINE]))
    return lines[: next(found, len(lines))]


def _without_quotes(lines: list[str]) -> list[str]:
    """The lines that are not quoted, without those that only say whose words were."""
    own: list[str] = []
    for line in lines:
        if not line.lstrip().startswith(">"):
            own.append(line)
            continue
        while own and not own[-1].strip():
            own.pop()
        if own and _ATTRIBUTION.fullmatch(own[-1]):
            own.pop()
        own.append("")
    return own


def _beginning(lines: list[str]) -> list[str]:
    size = 0
    for number, line in enumerate(lines):
        size += min(len(line), _MAX_LINE) + 20  # Short lines take their time, too.
        if size > _MAX_CHARACTERS:
            return lines[:number]
    return lines


def _kept_lines(lines: list[str]) -> list[str]:
    """The lines that are the latest reply's own, with their indentation."""
    plain = [line.strip() if len(line) <= _MAX_LINE else f"\x01{i}" for i, line in enumerate(lines)]
    message = EmailMessage(text="\n".join(plain), languages=list(_LANGUAGES)).read()
    kept: list[str] = []
    position = 0
    for wanted in _own_part(message.replies).split("\n"):
        found = _find(plain, wanted.strip(), position)
        if found is None:
            continue  # The library cut it in the middle.
        kept.append(lines[found])
        position = found + 1
    return kept[: _signature_start(kept)]


def _own_part(replies: list[EmailReply]) -> str:
    """Where the sender's own words stand: above all history, or between lines that are marked."""
    first = next((reply for reply in replies if reply.full_body or reply.headers), None)
    if first is None:
        return ""
    if not first.headers:
        return first.full_body
    if _UNMARKED_HEADER.match(first.headers) or not first.full_body.startswith(">"):
        return ""
    parts = [first.full_body]
    for reply in replies[replies.index(first) + 1 :]:
        if not (reply.headers or "").startswith(">"):
            break
        parts.append(reply.full_body)
    return "\n".join(parts)


def _find(lines: list[str], wanted: str, start: int) -> int | None:
    try:
        return lines.index(wanted, start)
    except ValueError:
        return None


def _phrases(kind: str) -> str:
    found: list[str] = []
    for language in MAIL_LANGUAGES.values():
        phrases: Any = language.get(kind, "")
        found.extend([phrases] if isinstance(phrases, str) else phrases)
    return "|".join(phrase for phrase in found if phrase)


# The library cuts from any line that begins like a closing ("Thanks, and now compute ..."). A
# closing that is left in does no harm, but half an instruction does, so ours must be a whole line.
_CLOSING = re.compile(rf"\s*(?:{_phrases('signatures')})[\s,.!]*", re.IGNORECASE)
_SENT_FROM = re.compile(rf"\s*(?:{_phrases('sent_from')})[^\n]{{0,60}}", re.IGNORECASE)
_SEPARATOR = re.compile(r"(--|__|\u2014) ?")


def _signature_start(lines: list[str]) -> int:
    """Where the signature begins; the number of lines if there is none."""
    for number, line in enumerate(lines):
        if _SEPARATOR.fullmatch(line):
            return number
        rest = len(lines) - number
        may_begin = number > 0 and rest <= _MAX_SIGNATURE_LINES and len(line) <= _MAX_LINE
        if may_begin and (_CLOSING.fullmatch(line) or _SENT_FROM.fullmatch(line)):
            return number
    return len(lines)
