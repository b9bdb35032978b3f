"""A mail of ours as it goes over the wire: headers, plain text, clean HTML, files, a signature."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email import encoders
from email.charset import QP, Charset
from email.header import Header
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.policy import compat32
from email.utils import encode_rfc2231, format_datetime, formataddr
from pathlib import Path

import dkim  # pyright: ignore[reportMissingTypeStubs]
import nh3
from markdown_it import MarkdownIt

from handinger.email import addresses
from handinger.email.outbox import AttachedFile, OutboundEmail
from handinger.errors import ConfigurationError
from handinger.settings import Settings

# No pictures: fetching one would tell a stranger that the mail was read.
_TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li",
    "ol", "p", "pre", "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_STYLE = (
    "body{font-family:sans-serif;line-height:1.45}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:4px 8px}"
    "pre{background:#f5f5f5;padding:8px;overflow:auto}"
    "blockquote{border-left:3px solid #ccc;margin-left:0;padding-left:12px}"
)
_SIGNED_HEADERS = (
    "from", "to", "subject", "date", "message-id", "in-reply-to", "references", "reply-to",
    "mime-version", "content-type", "content-transfer-encoding", "auto-submitted",
)  # fmt: skip
_WIRE = compat32.clone(linesep="\r\n")
_UTF_8 = Charset("utf-8")
_UTF_8.body_encoding = QP
_ATTACHABLE = re.compile(r"(text|image|audio|video|application)/[A-Za-z0-9!#$&^_.+-]{1,100}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,60}")
_markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files travel with a mail, and which are too large for it."""

    attached: Sequence[AttachedFile]
    linked: Sequence[AttachedFile]

    @classmethod
    def of(cls, found: Sequence[AttachedFile], *, max_bytes: int) -> "Selection":
        """As many as fit, in order."""
        attached: list[AttachedFile] = []
        linked: list[AttachedFile] = []
        room = max_bytes
        for file in found:
            if file.size <= room:
                attached.append(file)
                room -= file.size
            else:
                linked.append(file)
        return cls(attached, linked)


def compose(
    email: OutboundEmail,
    settings: Settings,
    *,
    links: Sequence[tuple[str, str]],
    contents: Sequence[tuple[AttachedFile, bytes]],
    now: datetime,
) -> bytes:
    """The whole mail, the same each time but for its date. `links`: names and addresses of files.

    Slow with large files, so it belongs into a thread.
    """
    body = email.body
    if links:
        listed = "\n".join(f"- [{name}](<{url}>)" for name, url in links)
        body = f"{body}\n\nThese files are too large for a mail:\n\n{listed}"
    content: Message = MIMEMultipart("alternative", _subparts=[
        _text("plain", body + "\n"), _text("html", to_html(body))
    ])  # fmt: skip
    if contents:
        content = MIMEMultipart("mixed", _subparts=[content, *(_part(*each) for each in contents)])
    head = "".join(f"{name}: {value}\r\n" for name, value in _headers(email, settings, now=now))
    raw = head.encode() + content.as_bytes(policy=_WIRE)
    return raw if settings.dkim_key_file is None else _sign(raw, settings, settings.dkim_key_file)


def _headers(email: OutboundEmail, settings: Settings, *, now: datetime) -> list[tuple[str, str]]:
    """As they stand in the mail.

    Written by hand, because the library's header objects decode what they are given: an encoded
    word in a subject could begin a header of its own, and long ids would no longer be ids.
    """
    reply_to = addresses.with_token(settings, email.reply_token)
    headers = [
        ("From", formataddr((settings.email_name.capitalize(), email.sender))),
        ("To", email.recipient),
        ("Reply-To", str(reply_to)),
        ("Subject", _encoded(email.subject)),
        ("Date", format_datetime(now)),
        ("Message-ID", email.message_id),
    ]
    # Ids beyond ASCII could only stand in a mail that all hosts on the way can handle.
    thread = [message_id for message_id in email.thread if message_id.isascii()]
    if email.in_reply_to and email.in_reply_to.isascii():
        headers.append(("In-Reply-To", email.in_reply_to))
    if thread:
        headers.append(("References", "\r\n ".join(thread)))
    headers.append(
        ("Auto-Submitted", "auto-replied" if email.kind == "reply" else "auto-generated")
    )
    # Holiday machines of Exchange know no other way.
    headers.append(("X-Auto-Response-Suppress", "All"))
    return headers


def _encoded(text: str) -> str:
    """A text as the value of a header; what looks like an encoded word is no such thing."""
    if text.isascii() and "=?" not in text:
        return text
    return Header(text, "utf-8", header_name="Subject").encode(linesep="\r\n")


def _text(kind: str, text: str) -> Message:
    part = MIMENonMultipart("text", kind, charset="utf-8")
    part.set_payload(text, charset=_UTF_8)
    return part


def _part(file: AttachedFile, content: bytes) -> Message:
    main, sub = "application", "octet-stream"
    # What calls itself a mail or a multipart would have to be built as one.
    if _ATTACHABLE.fullmatch(file.media_type):
        main, _, sub = file.media_type.partition("/")
    part = MIMENonMultipart(main, sub)
    part.set_payload(content)
    encoders.encode_base64(part)
    name = file.filename
    plain = f'filename="{name}"' if _PLAIN_NAME.fullmatch(name) else None
    encoded = f"filename*={encode_rfc2231(name, 'utf-8')}"
    part["Content-Disposition"] = f"attachment; {plain or encoded}"
    return part


def to_html(markdown: str) -> str:
    """Markdown as a page that can do nothing."""
    html = nh3.clean(
        _markdown.render(markdown),
        tags=_TAGS,
        attributes={"a": {"href"}, "td": {"align"}, "th": {"align"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )
    return f"<!DOCTYPE html><html><head><style>{_STYLE}</style></head><body>{html}</body></html>\n"


def _sign(raw: bytes, settings: Settings, key_file: Path) -> bytes:
    present = {
        line.partition(b":")[0].lower() for line in raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    }
    header: bytes = dkim.sign(  # pyright: ignore[reportUnknownMemberType] # Untyped.
        raw,
        settings.dkim_selector.encode(),
        settings.mail_domain.encode(),
        key_file.read_bytes(),
        include_headers=[name.encode() for name in _SIGNED_HEADERS if name.encode() in present],
    )
    return header + raw


def require_key(settings: Settings) -> None:
    """See that mail can be signed, if it is to be. Raises ConfigurationError."""
    if settings.dkim_key_file is None:
        return
    try:
        _sign(b"From: ada@example.com\r\n\r\n", settings, settings.dkim_key_file)
    except (OSError, ValueError, dkim.DKIMException) as error:
        why = " ".join(str(error).split())  # The library's reasons may have two lines.
        raise ConfigurationError(
            f"HANDINGER_DKIM_KEY_FILE cannot be used ({why}): it must be an RSA key in PEM, such "
            "as `openssl genrsa 2048` writes."
        ) from error


def file_link(settings: Settings, email: OutboundEmail, file: AttachedFile) -> tuple[str, str]:
    """The name of a file, and where whoever has the mail can fetch it."""
    number = email.files.index(file)
    return file.filename, f"{settings.base_url}/api/email-files/{email.reply_token}/{number}"
