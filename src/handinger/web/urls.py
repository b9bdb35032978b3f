"""URLs in texts, and the form in which two spellings of one address are the same.

An address leaves out the scheme and the fragment: neither carries anything to the host.
"""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, urlsplit

# What a browser and a search engine take; longer ones are scripts' own.
MAX_URL_CHARACTERS = 2048
_MAX_ADDRESSES = 10_000

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"https?://[^\s<>\"`\\^{|}\x00-\x20\x7f]{1,4000}", re.IGNORECASE)
# `example.com/path`, as a person writes it; behind an @ it would be of an e-mail address.
_BARE = re.compile(
    r"(?<![@\w./:-])(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,8}[a-z]{2,24}(?::\d{1,5})?"
    r"(?:/[^\s<>\"`\\^{|}]{0,2000})?(?![\w@-])",
    re.IGNORECASE,
)
# Where a URL in running text may have ended before: brackets, quotes, punctuation, emphasis.
_MAY_END = re.compile(r"['()\[\],;*]|[.:!?_~]+$")
_MAX_ENDS = 4  # looked at from either side
_UNRESERVED_IN_PATH = "/%:@!$&'()*+,;=~-._"


def address(url: str) -> str | None:
    """Host, port, path and query of an http(s) URL in one spelling; None for any other text.

    A URL with credentials has no address, nor has one that is too long.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not host or "@" in parts.netloc:
        return None
    spelled = host_name(host)
    if ":" in spelled:
        spelled = f"[{spelled}]"
    if port is not None and port != _PORTS[parts.scheme]:
        spelled = f"{spelled}:{port}"
    path = _quoted(parts.path) or "/"
    query = f"?{_quoted(parts.query, '?')}" if parts.query else ""
    written = f"{spelled}{path}{query}"
    return written if len(written) <= MAX_URL_CHARACTERS else None


def host_name(host: str) -> str:
    """A host in one spelling: lower case, ASCII, without the root's dot."""
    name = host.lower().rstrip(".")
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii").rstrip(".")
    except UnicodeError:
        return name


def host_of(url: str) -> str | None:
    """The host of a URL in one spelling, if it has one."""
    try:
        host = urlsplit(url.strip()).hostname
    except ValueError:
        return None
    return host_name(host) if host else None


def addresses(urls: Iterable[str]) -> set[str]:
    """The addresses of these URLs; what has none is left out, and so is what is too much."""
    found: set[str] = set()
    for url in urls:
        known = address(url)
        if known is not None:
            found.add(known)
        if len(found) >= _MAX_ADDRESSES:
            break
    return found


def addresses_in(text: str) -> set[str]:
    """The addresses of all URLs that a text spells out."""
    return addresses(_spelled(_URL, text))


def addresses_named(text: str) -> set[str]:
    """The same of an instruction, in which a person may leave out the scheme."""
    bare = (f"https://{url}" for url in _spelled(_BARE, text))
    return addresses_in(text) | addresses(bare)


def _spelled(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """Each URL, whole and as far as it goes if what follows belongs to the text around it."""
    for match in pattern.finditer(text):
        url = match[0]
        yield url
        ends = [found.start() for found in _MAY_END.finditer(url)]
        for end in dict.fromkeys(ends[:_MAX_ENDS] + ends[-_MAX_ENDS:]):
            yield url[:end].rstrip(".:!?,;*_~'")


def _quoted(text: str, also_safe: str = "") -> str:
    """Percent-encoded where it must be, and nothing encoded twice."""
    return quote(text, safe=_UNRESERVED_IN_PATH + also_safe)
