"""Which mails never start a turn, so that no two machines write to each other without end."""

import re
from enum import StrEnum

from handinger.email.message import Mail
from handinger.settings import Settings

_BULK = ("bulk", "list", "junk")
_REPORT = re.compile(r"multipart/report\b", re.IGNORECASE)
_RECEIPT = re.compile(r"report-type\s*=\s*\"?disposition-notification", re.IGNORECASE)


class Disposition(StrEnum):
    """What became of a mail that was taken in."""

    TURN = "turn"  # it started one
    BOUNCE = "bounce"  # a report that a mail of ours did not arrive
    AUTO_REPLY = "auto_reply"  # a machine answered
    LIST = "list"  # it was sent to many
    LOOP = "loop"  # it came from one of our own addresses
    TOO_MANY = "too_many"  # its sender sent more than may be in an hour


def reason_for_no_turn(
    mail: Mail, *, envelope_sender: str, settings: Settings
) -> Disposition | None:
    """Why this mail starts no turn, as far as it can tell by itself."""
    headers = mail.headers
    content_type = headers.first("content-type")
    if _is_own(mail, envelope_sender, settings):
        return Disposition.LOOP
    if _REPORT.match(content_type) and not _RECEIPT.search(content_type):
        return Disposition.BOUNCE
    if not envelope_sender:
        return Disposition.BOUNCE if _is_from_a_mail_system(mail) else Disposition.AUTO_REPLY
    if _is_automatic(mail) or _REPORT.match(content_type):
        return Disposition.AUTO_REPLY
    if _is_for_many(mail):
        return Disposition.LIST
    return None


def _is_own(mail: Mail, envelope_sender: str, settings: Settings) -> bool:
    own = re.compile(
        rf"{re.escape(settings.email_name)}(\+[^@]*)?@{re.escape(settings.mail_domain)}"
    )
    return any(own.fullmatch(sender.lower()) for sender in (str(mail.sender), envelope_sender))


def _is_from_a_mail_system(mail: Mail) -> bool:
    return mail.sender.local in ("mailer-daemon", "postmaster", "mail-daemon", "mailerdaemon")


def _is_automatic(mail: Mail) -> bool:
    headers = mail.headers
    # RFC 3834. A parameter may follow the keyword.
    submitted = re.split(r"[;\s(]", headers.first("auto-submitted").lower(), maxsplit=1)[0]
    if submitted not in ("", "no"):
        return True
    if headers.first("precedence").lower() == "auto_reply":
        return True
    # What programs set that are older than the standard, or do not know it.
    return any(
        headers.first(name).lower() not in ("", "no", "false")
        for name in ("x-autoreply", "x-autorespond", "x-autoresponder", "x-auto-reply")
    )


def _is_for_many(mail: Mail) -> bool:
    headers = mail.headers
    if headers.first("precedence").lower() in _BULK:
        return True
    return any(headers.all(name) for name in ("list-id", "list-post", "list-unsubscribe"))
