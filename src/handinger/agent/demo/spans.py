"""What stands in a piece of an instruction: quotations, paths, pages, addresses.

Every pattern here reads each character a bounded number of times, whatever the text.
"""

import re

# Takes the place of quoted characters, so that quoted words are never read as requests.
MASK = "¤"

_MAX_TOKEN_CHARACTERS = 500
_QUOTED = re.compile(
    r"`([^`\n]{1,4000})`"
    r'|"([^"\n]{1,4000})"'
    r"|“([^“”\n]{1,4000})”"
    r"|«([^«»\n]{1,4000})»"
    r"|(?<!\w)'([^'\n]{1,4000})'(?!\w)"
)
_STRAIGHT = str.maketrans("\u2018\u2019", "''")
_TOKEN = re.compile(r"\S+")
_OPENING = "([{<\"'“\u2018«`*"
_CLOSING = ")]}>\"'”\u2019»`*.,;:!?"
_PATH_CHARACTERS = re.compile(r"[\w./+~@-]+")
_EXTENSION = re.compile(r"(?=.{0,7}[A-Za-z])[A-Za-z0-9]{1,8}")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
_EMAIL = re.compile(r"[^@\s<>()\",;:]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
_ABBREVIATIONS = frozenset({"e.g", "i.e", "a.m", "p.m", "u.s", "u.k", "o.k", "vs", "ph.d"})
_WEB_ENDINGS = frozenset({"com", "org", "net", "io", "dev", "ai", "edu", "gov", "info", "eu"})
_NAMED = re.compile(r"\b(?:called|named|file|to|into|as|in)\s+$", re.IGNORECASE)


def mask(text: str) -> str:
    """The text as long as before, with quotations blanked out and apostrophes straight."""
    return _QUOTED.sub(lambda found: MASK * len(found.group()), text).translate(_STRAIGHT)


def quotations(text: str) -> list[str]:
    """What stands between quotation marks or backticks, in order."""
    return [_inner(found) for found in _QUOTED.finditer(text)]


def unquoted(text: str) -> str:
    """The inside of a text that is one quotation, else the text itself, stripped."""
    stripped = text.strip()
    whole = _QUOTED.fullmatch(stripped) or _QUOTED.fullmatch(stripped.rstrip(".,;:!?"))
    return _inner(whole) if whole else stripped


def urls(text: str) -> list[str]:
    return [token for token in _tokens(text) if token.lower().startswith(("http://", "https://"))]


def domains(text: str) -> list[str]:
    """Names such as `example.com/page` that were written without their scheme."""
    return [
        token
        for token in _tokens(text)
        if _DOMAIN.fullmatch(token.split("/", 1)[0]) and not _EMAIL.fullmatch(token)
    ]


def emails(text: str) -> list[str]:
    return [token for token in _tokens(text) if _EMAIL.fullmatch(token)]


def paths(text: str) -> list[str]:
    """What looks like the path of a file, in order, each once."""
    found = [(where.start(), _clean(where.group())) for where in _TOKEN.finditer(mask(text))]
    candidates = [(start, token) for start, token in found if _is_path(token)]
    for quotation in _QUOTED.finditer(text):
        inner = _inner(quotation)
        named = _NAMED.search(text, max(0, quotation.start() - 16), quotation.start())
        if _is_path(inner) or (named and _could_be_named(inner)):
            candidates.append((quotation.start(), inner))
    return list(dict.fromkeys(path for _, path in sorted(candidates)))


def is_path(text: str) -> bool:
    """Whether the whole text looks like the path of one file."""
    return _is_path(text)


def shortened(text: str, limit: int) -> str:
    """The text on one line, cut at `limit` characters."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _inner(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None)


def _tokens(text: str) -> list[str]:
    return [_clean(found.group()) for found in _TOKEN.finditer(text)]


def _clean(token: str) -> str:
    if len(token) > _MAX_TOKEN_CHARACTERS:
        return ""
    return token.lstrip(_OPENING).rstrip(_CLOSING)


def _is_path(token: str) -> bool:
    if not token or len(token) > _MAX_TOKEN_CHARACTERS or not _PATH_CHARACTERS.fullmatch(token):
        return False
    if _EMAIL.fullmatch(token) or token.lower() in _ABBREVIATIONS:
        return False
    folder, _, name = token.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    if not dot:
        return token.startswith(("./", "../")) and bool(name)
    if not stem:
        return len(ending) > 1 and ending[0].isalpha()
    if not _EXTENSION.fullmatch(ending):
        return False
    return bool(folder) or ending.lower() not in _WEB_ENDINGS


def _could_be_named(name: str) -> bool:
    return len(name) <= 100 and ("." in name or name.isidentifier())
