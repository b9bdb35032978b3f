"""URLs in texts, and the form in which two spellings of one address are the same.

An address leaves out the scheme and the fragment: neither carries anything to the host.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class WebUrl:
    """A URL that may be fetched, taken apart. `target` is path and query as they are sent."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> "WebUrl | None":
        """None for what is not http(s), has credentials in it, names no host or is too long."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if parts.scheme not in _PORTS or not host or "@" in parts.netloc:
            return None
        query = f"?{_quoted(parts.query, '?')}" if parts.query else ""
        parsed = cls(
            scheme=parts.scheme,
            host=host_name(host),
            port=_PORTS[parts.scheme] if port is None else port,
            target=(_quoted(parts.path) or "/") + query,
        )
        return parsed if parsed.host and len(str(parsed)) <= MAX_URL_CHARACTERS else None

    @property
    def authority(self) -> str:
        """Host and port, without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> str:
        """What is compared: no scheme, no fragment."""
        return self.authority + self.target

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


def address(url: str) -> str | None:
    """The address of a URL; None for what may not be fetched at all."""
    parsed = WebUrl.parse(url)
    return parsed.address if parsed else None


def host_name(host: str) -> str:
    """A host in one spelling: lower case, ASCII, without the root's dot."""
    name = host.lower().rstrip(".")
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii").rstrip(".")
    except UnicodeError:
        return name


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
    return quote(text, safe=_UNRESERVED_IN_PATH + also_safe, errors="replace")
