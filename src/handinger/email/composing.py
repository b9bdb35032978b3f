"""A mail of ours as it goes over the wire: headers, plain text, clean HTML, files, a signature."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import dkim  # pyright: ignore[reportMissingTypeStubs]
import nh3
from markdown_it import MarkdownIt

from handinger.email import addresses
from handinger.email.outbox import AttachedFile, OutboundEmail
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
    needs_utf8 = not email.recipient.isascii()
    message = EmailMessage(policy=SMTPUTF8 if needs_utf8 else SMTP)
    for name, value in _headers(email, settings, now=now).items():
        message[name] = value
    body = email.body
    if links:
        listed = "\n".join(f"- [{name}](<{url}>)" for name, url in links)
        body = f"{body}\n\nThese files are too large for a mail:\n\n{listed}"
    message.set_content(body + "\n", cte="quoted-printable")
    message.add_alternative(to_html(body), subtype="html", cte="quoted-printable")
    for file, content in contents:
        main, _, sub = file.media_type.partition("/")
        # What calls itself a mail or a multipart would have to be built as one.
        if main not in ("text", "image", "audio", "video", "application") or not sub:
            main, sub = "application", "octet-stream"
        message.add_attachment(content, maintype=main, subtype=sub, filename=file.filename)
    raw = message.as_bytes()
    return raw if settings.dkim_key_file is None else _sign(raw, settings, settings.dkim_key_file)


def _headers(email: OutboundEmail, settings: Settings, *, now: datetime) -> dict[str, Any]:
    headers: dict[str, Any] = {
        "From": _address(email.sender, settings.email_name.capitalize()),
        "To": _address(email.recipient),
        "Reply-To": _address(str(addresses.with_token(settings, email.reply_token))),
        "Subject": email.subject,
        "Date": format_datetime(now),
        "Message-ID": email.message_id,
    }
    if email.in_reply_to:
        headers["In-Reply-To"] = email.in_reply_to
    if email.thread:
        headers["References"] = " ".join(email.thread)
    headers["Auto-Submitted"] = "auto-replied" if email.kind == "reply" else "auto-generated"
    # Holiday machines of Exchange know no other way.
    headers["X-Auto-Response-Suppress"] = "All"
    return headers


def _address(text: str, name: str = "") -> Address:
    local, _, domain = text.rpartition("@")
    return Address(name, local, domain)


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


def file_link(settings: Settings, email: OutboundEmail, file: AttachedFile) -> tuple[str, str]:
    """The name of a file, and where whoever has the mail can fetch it."""
    number = email.files.index(file)
    return file.filename, f"{settings.base_url}/api/email-files/{email.reply_token}/{number}"
