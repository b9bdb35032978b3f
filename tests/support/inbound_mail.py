"""Mails that are handed in over HTTP, signed, as a mail provider's function does."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from urllib.parse import urlencode

import httpx2


def hand_in(
    base_url: str,
    raw: bytes,
    to: Sequence[str],
    *,
    secret: str,
    sender: str,
    ip: str | None = "127.0.0.1",
    age_s: float = 0,
    signature: str | None = None,
) -> httpx2.Response:
    """Hand a mail in; the signature is right, and so old, unless one is given."""
    query = urlencode(
        [("from", sender), *(("to", one) for one in to), *([("ip", ip)] if ip else [])]
    )
    at = int(time.time() - age_s)
    digest = hmac.new(secret.encode(), f"{at}.{query}.".encode() + raw, hashlib.sha256).hexdigest()
    return httpx2.post(
        f"{base_url}/api/inbound-email?{query}",
        content=raw,
        headers={
            "Content-Type": "message/rfc822",
            "X-Handinger-Signature": f"t={at},v1={digest}" if signature is None else signature,
        },
        timeout=30,
    )
