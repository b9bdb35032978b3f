"""What keeps the mails of one conversation together in mail programs (RFC 5322, 3.6.4)."""

import re
from collections.abc import Sequence

_REPLY = re.compile(
    r"(?:\s*(?:re|aw|sv|antw|rif|res|odp|vá|ynt)\s*(?:\[\d+\])?\s*:)+\s*", re.IGNORECASE
)
_MAX_REFERENCES = 40


def reply_subject(subject: str) -> str:
    """`Re:` once, whatever was there in which language."""
    match = _REPLY.match(subject)
    bare = subject[match.end() :] if match else subject
    return f"Re: {bare.strip()}".strip()


def references(parents: Sequence[str], parent: str | None) -> list[str]:
    """The parent's own and its id; a long thread keeps its first mail and the last ones."""
    thread = [*(known for known in parents if known != parent), *([parent] if parent else [])]
    if len(thread) <= _MAX_REFERENCES:
        return thread
    return [thread[0], *thread[1 - _MAX_REFERENCES :]]
