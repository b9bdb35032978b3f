"""What a mail says, and which files it brings: MIME as it is in the wild.

Never raises for what a mail is. What cannot be read is kept as a file.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from typing import Any, cast

from charset_normalizer import from_bytes

from handinger.email import quoting
from handinger.email.html import html_to_text
from handinger.email.message import Mail, decoded, known_charset

logger = logging.getLogger(__name__)

# The parser's work grows with the depth times the length, so a mail that nests too deeply, or has
# too many parts, is not taken apart but kept whole.
_MAX_CONTAINERS = 100
_MAX_PARTS = 1000
_MAX_DEPTH = 50
_MAX_TEXT_CHARACTERS = 1_000_000
# Each line is compared with the boundaries of all containers around it.
_MAX_COMPARISONS = 20_000_000
# And with the square of the length of a header that has parameters.
_MAX_PARAMETER_BYTES = 16 * 1024
_PARAMETERS = re.compile(
    rb"(?:^|[\r\n])content-(?:type|disposition)[^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*",
    re.IGNORECASE,
)
_CONTAINER = re.compile(rb"boundary\s*[*=]|content-type\s*:\s*message/", re.IGNORECASE)
# They belong to the transport or seal of a mail; who wants them has the original.
_SEALS = (
    "application/pgp-signature",
    "application/pkcs7-signature",
    "application/x-pkcs7-signature",
)
# Of texts in other charsets than they claim, these are the usual ones.
_CHARSET_NAMES = {"unicode-1-1-utf-7": "utf-7", "x-unknown": "utf-8", "cp-850": "cp850"}


@dataclass(frozen=True, slots=True)
class MailFile:
    """A file that a mail brings."""

    filename: str | None
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """What a mail says."""

    text: str  # what its sender wrote this time: no quoted history, no signature
    whole_text: str
    files: tuple[MailFile, ...]
    # Words of somebody else may be in the text, or in the subject that stands for it.
    is_untrusted: bool = False
    # What a reader should know about what is not there.
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Parts:
    texts: list[str] = field(default_factory=list[str])
    files: list[MailFile] = field(default_factory=list[MailFile])
    seen: int = 0


def read(mail: Mail) -> Content:
    """Take a mail apart. Slow for large ones, so it belongs into a thread."""
    if _would_take_too_long(mail.raw):
        return _kept_whole(mail)
    try:
        message = BytesParser().parsebytes(mail.raw)
        parts = _Parts()
        _collect(message, parts, depth=0)
    except (_TooComplex, RecursionError):
        return _kept_whole(mail)
    except Exception:
        # The standard library's parser has stumbled over odd mails before.
        logger.exception("A mail could not be taken apart and is kept whole")
        return _kept_whole(mail)
    whole = "\n\n".join(text.strip() for text in parts.texts if text.strip())
    is_forward = quoting.is_forward(mail.subject, whole)
    latest = quoting.latest(whole, is_forward=is_forward)
    return Content(
        text=latest.text,
        whole_text=whole,
        is_untrusted=not latest.is_own or _quotes_subject(mail, latest.text),
        files=tuple(parts.files),
    )


def _quotes_subject(mail: Mail, text: str) -> bool:
    """Whether its subject is the instruction, and was somebody else's first."""
    return not text and bool(mail.references)


def _would_take_too_long(raw: bytes) -> bool:
    containers = len(_CONTAINER.findall(raw))
    lines = raw.count(b"\n") + raw.count(b"\r") - raw.count(b"\r\n")
    if containers > _MAX_CONTAINERS or containers * lines > _MAX_COMPARISONS:
        return True
    return any(len(found[0]) > _MAX_PARAMETER_BYTES for found in _PARAMETERS.finditer(raw))


def _kept_whole(mail: Mail) -> Content:
    return Content(
        text="",
        whole_text="",
        is_untrusted=_quotes_subject(mail, ""),
        files=(MailFile("message.eml", "message/rfc822", mail.raw),),
        notes=("The mail is built in a way that cannot be read; it is kept as a file.",),
    )


class _TooComplex(Exception):
    """More parts, or deeper ones, than anybody sends for a good reason."""


def _collect(part: Message, parts: _Parts, *, depth: int) -> None:
    parts.seen += 1
    if parts.seen > _MAX_PARTS or depth > _MAX_DEPTH:
        raise _TooComplex
    kind = part.get_content_type()
    if kind == "multipart/alternative":
        _collect_alternative(part, parts, depth=depth)
    elif kind.startswith("multipart/"):
        for child in _children(part):
            _collect(child, parts, depth=depth + 1)
        if not part.is_multipart():
            _collect_leaf(part, "text/plain", parts)  # It has no boundary, so it is one text.
    elif kind == "message/rfc822":
        _collect_enclosed(part, parts)
    else:
        _collect_leaf(part, kind, parts)


def _children(part: Message) -> Iterator[Message]:
    payload: Any = part.get_payload()
    if isinstance(payload, list):
        yield from (child for child in cast("list[Any]", payload) if isinstance(child, Message))


def _collect_alternative(part: Message, parts: _Parts, *, depth: int) -> None:
    """The same thing in several forms: one text is enough, files are kept all the same."""
    plain, rich = _Parts(seen=parts.seen), _Parts(seen=parts.seen)
    for child in _children(part):
        is_plain = child.get_content_type() == "text/plain" and not _is_file(child)
        _collect(child, plain if is_plain else rich, depth=depth + 1)
    parts.seen = max(plain.seen, rich.seen)
    # Some programs send an empty plain text, or one that says to get another program.
    parts.texts.extend(plain.texts if any(t.strip() for t in plain.texts) else rich.texts)
    parts.files.extend([*plain.files, *rich.files])


def _collect_enclosed(part: Message, parts: _Parts) -> None:
    """A mail in a mail is a file, and not taken apart."""
    enclosed = next(_children(part), None)
    content = b"" if enclosed is None else _as_bytes(enclosed)
    subject = "" if enclosed is None else decoded(str(enclosed.get("subject", "")))
    name = _filename(part) or f"{subject[:80] or 'message'}.eml"
    parts.files.append(MailFile(name, "message/rfc822", content))


def _as_bytes(message: Message) -> bytes:
    try:
        return message.as_bytes()
    except (UnicodeError, LookupError, KeyError, ValueError):
        return message.as_string().encode("utf-8", errors="surrogateescape")


def _collect_leaf(part: Message, kind: str, parts: _Parts) -> None:
    content = _payload(part)
    if kind in _SEALS:
        return
    if kind in ("text/plain", "text/html") and not _is_file(part):
        text = _decode(content, part.get_content_charset())
        if kind == "text/html":
            text = html_to_text(text[:_MAX_TEXT_CHARACTERS])
        elif _is_flowed(part):
            text = _unflow(text, delete_space=_parameter(part, "delsp") == "yes")
        parts.texts.append(_clean(text)[:_MAX_TEXT_CHARACTERS])
        return
    if content or _filename(part):
        parts.files.append(MailFile(_filename(part) or _default_name(kind), kind, content))


def _is_file(part: Message) -> bool:
    return part.get_content_disposition() == "attachment" or _filename(part) is not None


_BASE64_LINE = re.compile(r"[A-Za-z0-9+/=\s]*")


def _payload(part: Message) -> bytes:
    encoded: Any = part.get_payload()
    if isinstance(encoded, str) and _is_no_base64(part, encoded):
        return encoded.encode("ascii", errors="surrogateescape")
    try:
        payload: Any = part.get_payload(decode=True)
    except (ValueError, LookupError, AssertionError):  # What is encoded cannot be decoded.
        payload = None
    if isinstance(payload, bytes):
        return payload
    if isinstance(encoded, str):
        return encoded.encode("utf-8", errors="surrogateescape")
    # The groups of fields of a report.
    return b"".join(_as_bytes(child) for child in _children(part))


def _is_no_base64(part: Message, encoded: str) -> bool:
    """Whether it only calls itself so; decoded it would be garbage."""
    if str(part.get("content-transfer-encoding", "")).strip().lower() != "base64":
        return False
    first = encoded.strip().partition("\n")[0]
    return _BASE64_LINE.fullmatch(first) is None


def _parameter(part: Message, name: str) -> str:
    value = part.get_param(name)
    return value.lower() if isinstance(value, str) else ""


def _filename(part: Message) -> str | None:
    try:
        name = part.get_filename()
    except (ValueError, LookupError):
        return None
    # Many programs encode it as a header, which the standard forbids.
    return decoded(name) or None if name else None


def _default_name(kind: str) -> str | None:
    names = {
        "text/calendar": "invite.ics",
        "text/rfc822-headers": "headers.txt",
        "message/delivery-status": "delivery-status.txt",
        "text/plain": "text.txt",
        "text/html": "page.html",
        "application/ms-tnef": "winmail.dat",
        "application/pkcs7-mime": "smime.p7m",
        "application/pgp-encrypted": "pgp-version.txt",
        "text/vcard": "contact.vcf",
        "text/x-vcard": "contact.vcf",
    }
    if kind in names:
        return names[kind]
    main, _, sub = kind.partition("/")
    extension = sub.removeprefix("x-").partition("+")[0]
    if main in ("image", "audio", "video") and extension.isalnum():
        return f"{main}.{extension}"
    return None


def _decode(content: bytes, charset: str | None) -> str:
    """In the charset that the mail names; if that cannot be, in the likeliest one."""
    named = (charset or "utf-8").strip("'\" ").lower()
    named = _CHARSET_NAMES.get(named, named)
    # What is called ASCII or Latin-1 is mostly Windows' larger set of the same characters.
    for candidate in (named, "utf-8"):
        if candidate in ("iso-8859-1", "latin-1", "latin1"):
            candidate = "cp1252"
        try:
            return content.decode(known_charset(candidate))
        except (UnicodeDecodeError, LookupError, ValueError):
            continue
    best = from_bytes(content[:100_000]).best()
    try:
        return content.decode(best.encoding if best else "latin-1", errors="replace")
    except LookupError:
        return content.decode("latin-1")


def _clean(text: str) -> str:
    """Line ends as everywhere, and nothing that the database cannot hold."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    return text.removeprefix("\ufeff").encode("utf-8", errors="replace").decode("utf-8")


def _is_flowed(part: Message) -> bool:
    return _parameter(part, "format") == "flowed"


def _unflow(text: str, *, delete_space: bool) -> str:
    """Lines that a mail program broke are whole again (RFC 3676); quoted ones stay as they are."""
    lines: list[str] = []
    joins = False
    for line in text.replace("\r\n", "\n").split("\n"):
        quoted = line.startswith(">")
        line = line.removeprefix(" ")
        if joins and not quoted:
            lines[-1] += line
        else:
            lines.append(line)
        joins = not quoted and line.endswith(" ") and line != "-- "
        if joins and delete_space:
            lines[-1] = lines[-1][:-1]
    return "\n".join(lines)
