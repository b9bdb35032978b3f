"""A mail as it came in: its header section, read strictly, and what the headers say.

Strictly, because who checks a signature and who reads the mail must see the same headers.
"""

import codecs
import hashlib
import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from email.parser import BytesHeaderParser

from handinger import mailbox
from handinger.mailbox import Mailbox

_MAX_HEADER_BYTES = 256 * 1024
_MAX_REFERENCES = 50
_BARE_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,900}>")
_MAX_DECODED = 10_000
_FOLD = re.compile(r"\r?\n(?=[ \t])")


class UnreadableMail(Exception):
    """The mail is not well-formed enough to say whose it is; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of a mail, in order, unfolded."""

    items: tuple[tuple[str, str], ...]  # names in lower case

    @classmethod
    def read(cls, raw: bytes) -> "Headers":
        """Raises UnreadableMail."""
        section = raw.partition(b"\r\n\r\n")[0]
        if raw.startswith(b"\r\n"):
            section = b""
        if len(section) > _MAX_HEADER_BYTES:
            raise UnreadableMail(f"its headers have more than {_MAX_HEADER_BYTES} bytes")
        if _BARE_LINE_END.search(section):
            raise UnreadableMail("its headers have a line that does not end with CR LF")
        parsed = BytesHeaderParser().parsebytes(section + b"\r\n\r\n")
        return cls(tuple((name.lower(), _unfold(str(value))) for name, value in parsed.raw_items()))

    def all(self, name: str) -> list[str]:
        """Each value of a header."""
        return [value for key, value in self.items if key == name]

    def first(self, name: str) -> str:
        """The first value of a header, or nothing."""
        return next((value for key, value in self.items if key == name), "")

    def text(self, name: str) -> str:
        """The first value of a header as a person reads it."""
        return decoded(self.first(name))


def _unfold(value: str) -> str:
    raw = _FOLD.sub("", value).encode("ascii", errors="surrogateescape")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip()


def decoded(value: str) -> str:
    """A header without its encoded words (RFC 2047), on one line, without control characters."""
    try:
        parts = decode_header(value[:_MAX_DECODED])
    except (HeaderParseError, ValueError):
        parts = [(value, None)]
    text = "".join(_decode(part, charset) for part, charset in parts)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _decode(part: bytes | str, charset: str | None) -> str:
    if isinstance(part, str):
        return part
    try:
        # The library hands on what was not encoded in a form of its own, for bytes beyond ASCII.
        if charset is None:
            return part.decode("raw-unicode-escape", errors="replace")
        return part.decode(known_charset(charset), errors="replace")
    except (LookupError, ValueError):
        return part.decode("utf-8", errors="replace")


# Of Python alone: no mail is written in them, and some take time with the square of the length.
_NO_CHARSETS = ("idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape")


def known_charset(name: str) -> str:
    """The name of a charset that a text may be in. Raises LookupError."""
    found = codecs.lookup(name).name.replace("-", "_")
    if found in _NO_CHARSETS:
        raise LookupError(f"{name} is no charset")
    return name


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail with a readable sender."""

    raw: bytes
    headers: Headers
    sender: Mailbox
    sender_name: str

    @classmethod
    def read(cls, raw: bytes) -> "Mail":
        """Raises UnreadableMail."""
        headers = Headers.read(raw)
        senders = headers.all("from")
        if len(senders) != 1:
            raise UnreadableMail(f"it has {len(senders) or 'no'} From headers, and must have one")
        try:
            name, sender = mailbox.of_header(senders[0])
        except ValueError as error:
            raise UnreadableMail(f"its From header cannot be used: {error}") from error
        return cls(raw=raw, headers=headers, sender=sender, sender_name=decoded(name)[:200])

    @property
    def subject(self) -> str:
        """As a person reads it."""
        return self.headers.text("subject")[:998]

    @property
    def message_id(self) -> str | None:
        """With its angle brackets."""
        found = _MESSAGE_ID.search(self.headers.first("message-id"))
        return found[0] if found else None

    @property
    def in_reply_to(self) -> str | None:
        """With its angle brackets."""
        found = _MESSAGE_ID.search(self.headers.first("in-reply-to"))
        return found[0] if found else None

    @property
    def references(self) -> list[str]:
        """The thread above this mail, oldest first."""
        found = _MESSAGE_ID.findall(self.headers.first("references"))
        if not found and self.in_reply_to:
            return [self.in_reply_to]
        return found[:1] + found[1:][-_MAX_REFERENCES:]

    def identity(self) -> str:
        """The same for each copy of this mail: its `Message-ID`, else a hash of what it says.

        Hosts on the way add headers, so these are not hashed.
        """
        if self.message_id is not None:
            return self.message_id
        digest = hashlib.sha256()
        for name in ("from", "date", "subject", "to"):
            digest.update(f"{name}:{self.headers.first(name)}\n".encode(errors="replace"))
        digest.update(self.raw.partition(b"\r\n\r\n")[2])
        return f"sha256:{digest.hexdigest()}"


def normalize_line_ends(raw: bytes) -> bytes:
    """A mail from where lines end with LF alone, as it is on the wire. Others stay as they are."""
    return raw if b"\r\n" in raw else raw.replace(b"\n", b"\r\n")
