"""What was said earlier in this conversation: facts that the person told, and what was asked."""

import re
from collections.abc import Sequence

from handinger.agent.demo import spans

_MAX_CHARACTERS = 20_000
_NOTE = "note: "
_ATTRIBUTE = r"(?:[\w'-]{1,40} ){0,3}[\w'-]{1,40}"
_TOLD = re.compile(
    rf"(?:^|[.!?,;:\n]\s{{0,4}}|\b(?:and|that|hi|hello|hey|remember|note) )my "
    rf"(?P<what>{_ATTRIBUTE}) (?:is|are) (?P<value>(?:(?! and my )[^\n.!?;]){{1,300}})"
    r"|\b(?:i am called|i'm called|call me) (?P<name>[^\n.!?,;]{1,100})"
    r"|\b(?:remember|note|keep in mind)(?: that)?:? (?!my |to |me |what )(?P<note>[^\n.!?]{1,500})",
    re.IGNORECASE,
)
_ASKED_ABOUT = re.compile(
    r"\b(?:what(?:'s| is| are| was)|who is|tell me|do you (?:know|remember)(?: what)?) my "
    rf"(?P<what>{_ATTRIBUTE})",
    re.IGNORECASE,
)
_WHO_AM_I = re.compile(r"\bwho am i\b|\bhow am i called\b", re.IGNORECASE)
_ASKED_BEFORE = re.compile(
    r"\bwhat (?:did|have) i (?:just )?(?:ask|say|said|tell|told|write|want)"
    r"|\bmy (?:last|previous|first|earlier) (?:question|message|request|instruction)",
    re.IGNORECASE,
)
_KNOWN = re.compile(
    r"\bwhat (?:do you|can you|did i ask you to) (?:know about me|remember)"
    r"|\bwhat do you know\b",
    re.IGNORECASE,
)
_FIRST = re.compile(r"\bfirst\b", re.IGNORECASE)
_TRAILING = re.compile(
    r",? (?:and|but) (?:please )?(?:what|who|how|tell|write|compute|i|my|then)\b.*"
    r"| (?:again|please|now)$",
    re.IGNORECASE,
)
_NOT_A_FACT = re.compile(r"\b(?:what|who|tell me|do you (?:know|remember)|how)\b", re.IGNORECASE)


def facts(texts: Sequence[str]) -> dict[str, str]:
    """What was told, oldest first; the latest word on something counts. Notes name themselves."""
    known: dict[str, str] = {}
    for text in texts:
        for told in _TOLD.finditer(text[:_MAX_CHARACTERS]):
            if told["note"]:
                note = told["note"].strip()
                known[_NOTE + note] = note
            elif not _NOT_A_FACT.search(told["what"] or ""):
                value = _TRAILING.sub("", told["value"] or told["name"]).strip(" ,`\"'")
                known[(told["what"] or "name").lower()] = value
    return {what: value for what, value in known.items() if value}


def is_question(text: str) -> bool:
    """Whether the text asks for something that only the conversation can answer."""
    patterns = (_ASKED_ABOUT, _WHO_AM_I, _ASKED_BEFORE, _KNOWN)
    return any(pattern.search(text[:_MAX_CHARACTERS]) for pattern in patterns)


def answer(question: str, *, instructions: Sequence[str], earlier: Sequence[str]) -> str:
    """`instructions` are all that were given, this one last; `earlier` those before it."""
    question = question[:_MAX_CHARACTERS]
    known = facts(instructions)
    if _ASKED_BEFORE.search(question):
        return _asked(earlier, first=bool(_FIRST.search(question)))
    if _KNOWN.search(question):
        return _everything(known)
    asked = _ASKED_ABOUT.search(question)
    what = _TRAILING.sub("", asked["what"]).lower().strip() if asked else "name"
    if what in known:
        return f"Your {what} is {known[what]}."
    return f"You have not told me your {what} in this conversation."


def acknowledgement(told: str) -> str:
    """What to say when facts were told, or nothing was recognised in the text."""
    known = facts([told])
    if not known:
        return ""
    if list(known) == ["name"]:
        return f"Nice to meet you, {known['name']}. I remember that while this conversation lasts."
    listed = "; ".join(_sentence(what, value) for what, value in known.items())
    return f"I will remember, while this conversation lasts: {listed}."


def _sentence(what: str, value: str) -> str:
    return value if what.startswith(_NOTE) else f"your {what} is {value}"


def _asked(earlier: Sequence[str], *, first: bool) -> str:
    if not earlier:
        return "This is the first thing that you ask me in this conversation."
    if first:
        return f"The first thing that you asked was: “{spans.shortened(earlier[0], 300)}”"
    if len(earlier) == 1:
        return f"Before this you asked: “{spans.shortened(earlier[0], 300)}”"
    numbered = [
        f"{number}. {spans.shortened(text, 300)}"
        for number, text in list(enumerate(earlier, start=1))[-10:]
    ]
    return "Before this you asked, in this order:\n\n" + "\n".join(numbered)


def _everything(known: dict[str, str]) -> str:
    if not known:
        return "You have not told me anything about yourself in this conversation."
    lines = [f"- {_sentence(what, value)}" for what, value in known.items()]
    return "You told me in this conversation:\n\n" + "\n".join(lines)
