"""Mailboxes as they are compared: `name@domain` (RFC 5321, 6531), and lists of those allowed.

Pure rules. A domain is kept as lower-case A-labels, so that no look-alike equals another.
"""

import contextlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import getaddresses

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_LOCAL_BYTES = 64
_MAX_DOMAIN_LENGTH = 253
# The time to read it grows with the square of its length.
_MAX_HEADER_CHARACTERS = 2000
# Where a second address could hide: quoted strings and comments.
_ASIDES = (re.compile(r'"(?:\\.|[^"\\])*"'), re.compile(r"\([^()]*\)"))
_ANGLED = re.compile(r"<([^<>]*)>")
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp", "Zs")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One mail address. Equal if mail to both reaches the same person, as far as anybody can tell.

    Strictly, only the receiving host may say that the case of its local parts means nothing; no
    host in use says that it does.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


def parse(text: str) -> Mailbox:
    """The mailbox that an address names. Raises ValueError, whose message quotes it."""
    local, at, domain = text.strip().rpartition("@")
    if not at or not local or local.startswith('"') or not _is_local_part(local):
        raise ValueError(f"{text[:200]!r} is not a mail address, such as ada@example.com")
    return Mailbox(unicodedata.normalize("NFC", local).lower(), parse_domain(domain))


def _is_local_part(local: str) -> bool:
    if any(unicodedata.category(c) in _UNPRINTABLE for c in local):
        return False
    if any(c in '()<>[]:;@\\,"' for c in local) or ".." in local:
        return False
    # A look-alike such as the sign for Kelvin is a letter of ASCII once it is normalized.
    if unicodedata.normalize("NFC", local).isascii() != local.isascii():
        return False
    return len(local.encode()) <= _MAX_LOCAL_BYTES and local[0] != "." and local[-1] != "."


def parse_domain(text: str) -> str:
    """A domain as A-labels. Raises ValueError."""
    domain = text.strip().lower().removesuffix(".")
    if not domain.isascii():
        import idna  # noqa: PLC0415 # Large, and rarely needed.

        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise ValueError(f"{text[:200]!r} is not a domain: {error}") from error
    labels = domain.split(".")
    if len(domain) > _MAX_DOMAIN_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text[:200]!r} is not a domain, such as example.com")
    if labels[-1].isdecimal():
        raise ValueError(f"{text[:200]!r} is an IP address, not a domain")
    return domain


def of_header(value: str) -> tuple[str, Mailbox]:
    """The display name, still encoded, and the one mailbox of a `From` header.

    Raises ValueError for none, for several, and for what two readers could understand differently.
    """
    if len(value) > _MAX_HEADER_CHARACTERS:
        raise ValueError(f"it has more than {_MAX_HEADER_CHARACTERS} characters")
    try:
        pairs = getaddresses([value])
    except RecursionError:  # So many comments within comments.
        pairs = []
    if len(pairs) != 1 or not pairs[0][1]:
        raise ValueError("it must name exactly one address")
    name, address = pairs[0]
    bare = value
    for aside in _ASIDES:
        bare = aside.sub(" ", bare)
    angled = _ANGLED.findall(bare)
    plain = angled[0] if len(angled) == 1 else bare
    if len(angled) > 1 or plain.strip() != address:
        raise ValueError("it can be read in more than one way")
    return name, parse(address)


def named_in(values: Iterable[str]) -> frozenset[str]:
    """The addresses of the mailboxes in `To` or `Cc` headers; nothing that only looks like one."""
    named = set[str]()
    for value in values:
        if len(value) > _MAX_HEADER_CHARACTERS:
            continue
        with contextlib.suppress(RecursionError):  # So many comments within comments.
            for _, address in getaddresses([value]):
                with contextlib.suppress(ValueError):
                    named.add(str(parse(address)))
    return frozenset(named)


def parse_allow_list(entries: Iterable[str]) -> tuple[str, ...]:
    """Addresses, domains (`example.com`) and all below them (`*.example.com`), each once.

    Raises ValueError, whose message names the entry.
    """
    return tuple(dict.fromkeys(_parse_entry(entry) for entry in entries))


def _parse_entry(entry: str) -> str:
    text = entry.strip().removeprefix("@")
    if "@" in text:
        return str(parse(text))
    if text.startswith("*."):
        return "*." + parse_domain(text[2:])
    return parse_domain(text)


def is_allowed(mailbox: Mailbox, allow: Sequence[str]) -> bool:
    """Whether a list that `parse_allow_list` made has this mailbox in it."""
    for entry in allow:
        if entry.startswith("*."):
            if mailbox.domain.endswith(entry[1:]):
                return True
        elif entry in (str(mailbox), mailbox.domain):
            return True
    return False
