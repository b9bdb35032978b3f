"""Who sent a mail, proven: SPF (RFC 7208), DKIM (RFC 6376) and their alignment (DMARC, RFC 7489).

What others say they found (`Authentication-Results`) is not read. Slow: it asks DNS, so it belongs
into a thread.
"""

import functools
import importlib.resources
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal, cast

import dkim  # pyright: ignore[reportMissingTypeStubs]
import dns.resolver
import publicsuffix2  # pyright: ignore[reportMissingTypeStubs]
import spf  # pyright: ignore[reportMissingTypeStubs]
from authheaders import dmarc_lookup  # pyright: ignore[reportMissingTypeStubs]

from handinger.email.message import Headers
from handinger.email.resolver import LookupFailed, Resolver
from handinger.mailbox import Mailbox

logger = logging.getLogger(__name__)

_TIMEOUT_S = 20.0
_MAX_SIGNATURES = 8
_MAX_RECEIVED = 20
# RFC 8301: what is signed with SHA-1 counts as not signed.
_WEAK_ALGORITHMS = ("rsa-sha1",)
# If one of them is there twice, another reader may see the one that is not signed.
_ONCE = (
    "from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to",
    "references", "mime-version", "content-type", "content-transfer-encoding",
)  # fmt: skip
_BRACKETED_IP = re.compile(r"\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]")

SpfResult = Literal["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"]


@dataclass(frozen=True, slots=True)
class Signature:
    """One DKIM signature of a mail."""

    domain: str
    selector: str
    result: Literal["pass", "fail", "temperror", "policy"]
    aligned: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What could be proven of a mail's sender."""

    sender: str
    verified: bool
    # What vouches for the domain of the sender; None if nothing does.
    by: Literal["dkim", "spf"] | None
    spf: SpfResult
    spf_domain: str
    spf_aligned: bool
    signatures: tuple[Signature, ...]
    dmarc_policy: str | None  # as published; the verdict does not depend on it
    ip: str | None  # the host that SPF was asked about
    # Nothing vouches, but a look-up failed: later something may.
    undecided: bool = False

    def row(self) -> dict[str, Any]:
        """As it is stored, and shown on the wire."""
        return {
            "verified": self.verified,
            "by": self.by,
            "spf": {"result": self.spf, "domain": self.spf_domain, "aligned": self.spf_aligned},
            "dkim": [asdict(signature) for signature in self.signatures],
            "dmarcPolicy": self.dmarc_policy,
            "ip": self.ip,
        }


@dataclass(frozen=True, slots=True)
class Origin:
    """The connection that a mail came by, as this server saw it."""

    ip: str | None
    helo: str
    envelope_sender: str  # empty for the null sender


def examine(
    raw: bytes,
    headers: Headers,
    sender: Mailbox,
    origin: Origin,
    *,
    resolver: dns.resolver.Resolver,
    trusted_relays: Sequence[str],
) -> Verdict:
    """The verdict on a mail that claims to be from `sender`. Never raises for what the mail is."""
    lookups = Resolver(resolver, deadline=time.monotonic() + _TIMEOUT_S)
    record = _dmarc_record(sender.domain, lookups)
    signatures = _signatures(raw, headers, sender.domain, record, lookups)
    ip = client_ip(headers, origin.ip, trusted_relays)
    spf_domain = origin.envelope_sender.rpartition("@")[2].lower() or origin.helo.lower()
    spf_result = _spf(ip, origin, lookups)
    spf_aligned = bool(origin.envelope_sender) and _is_aligned(
        spf_domain, sender.domain, record.get("aspf")
    )
    by = None
    if any(signature.result == "pass" and signature.aligned for signature in signatures):
        by = "dkim"
    elif spf_result == "pass" and spf_aligned:
        by = "spf"
    return Verdict(
        sender=str(sender),
        verified=by is not None,
        by=by,
        spf=spf_result,
        spf_domain=spf_domain,
        spf_aligned=spf_aligned,
        signatures=tuple(signatures),
        dmarc_policy=record.get("p"),
        ip=None if ip is None else str(ip),
        undecided=by is None and lookups.failed,
    )


def client_ip(
    headers: Headers, peer: str | None, trusted_relays: Sequence[str]
) -> IPv4Address | IPv6Address | None:
    """The host that handed the mail in: the peer, or behind trusted relays the last that is none.

    Each relay puts its own `Received` on top, so the headers are read only as far down as the hosts
    that they name are trusted.
    """
    ip = _parse_ip(peer)
    networks = [ip_network(network, strict=False) for network in trusted_relays]
    for received in headers.all("received")[:_MAX_RECEIVED]:
        if ip is None or not any(ip in network for network in networks):
            return ip
        by = re.split(r"\sby\s", received, maxsplit=1)[0]
        found = _BRACKETED_IP.findall(by)
        ip = _parse_ip(found[-1]) if found else None
    return ip


def _parse_ip(text: str | None) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


# SPF


class _SpfQuery(spf.query):
    """Asks our resolver; the library's own has one for the whole process."""

    resolver: Resolver

    def dns(
        self, name: object, qtype: str, cnames: object = None, ignore_void: bool = False
    ) -> list[Any]:
        del cnames  # The resolver follows them.
        try:
            records = self.resolver.lookup(str(name), qtype)
        except LookupFailed as error:
            raise spf.TempError(f"DNS {error}") from error
        if not records and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
        return [_spf_data(record, qtype) for record in records]


def _spf_data(record: Any, kind: str) -> Any:
    match kind:
        case "A":
            return record.address
        case "AAAA":
            return record.address
        case "MX":
            return record.preference, record.exchange.to_text(omit_final_dot=True)
        case "PTR":
            return record.target.to_text(omit_final_dot=True)
        case _:
            return record.strings


def _spf(ip: IPv4Address | IPv6Address | None, origin: Origin, lookups: Resolver) -> SpfResult:
    if ip is None:
        return "none"
    try:
        query: Any = _SpfQuery(i=str(ip), s=origin.envelope_sender, h=origin.helo)
        query.resolver = lookups
        result = str(query.check()[0])
    except Exception:
        # The library stumbles over some records and addresses.
        logger.warning("SPF could not be checked for %s", origin.envelope_sender, exc_info=True)
        return "permerror"
    known = ("pass", "fail", "softfail", "neutral", "none", "temperror")
    return cast(SpfResult, result) if result in known else "permerror"


# DKIM


def _signatures(
    raw: bytes, headers: Headers, sender_domain: str, record: dict[str, str], lookups: Resolver
) -> list[Signature]:
    count = len(headers.all("dkim-signature"))
    if not count:
        return []
    doubled = next((name for name in _ONCE if len(headers.all(name)) > 1), None)
    found: list[Signature] = []
    for index in range(min(count, _MAX_SIGNATURES)):
        verifier: Any = dkim.DKIM(raw, minkey=1024, timeout=5)
        result, reason = _verify(verifier, index, lookups)
        domain = _text(verifier.domain)
        if result == "pass":
            flaw = _flaw(verifier.signature_fields)
            if doubled is not None:
                flaw = f"the header {doubled} is there more than once"
            if flaw is not None:
                result, reason = "policy", flaw
        found.append(
            Signature(
                domain=domain,
                selector=_text(verifier.selector),
                result=result,
                aligned=_is_aligned(domain, sender_domain, record.get("adkim")),
                reason=reason,
            )
        )
    return found


def _verify(
    verifier: Any, index: int, lookups: Resolver
) -> tuple[Literal["pass", "fail", "temperror"], str]:
    failed: list[LookupFailed] = []

    def key_record(name: bytes | str, timeout: float = 5) -> bytes | None:
        del timeout  # The look-ups of a mail share one deadline.
        try:
            texts = lookups.texts(_text(name))
        except LookupFailed as error:
            failed.append(error)
            return None
        return texts[0] if texts else None

    try:
        if verifier.verify(idx=index, dnsfunc=key_record):
            return "pass", ""
        reason = "the signature does not match"
    except Exception as error:  # The library stumbles over some signatures.
        reason = str(error) or type(error).__name__
    return ("temperror", str(failed[0])) if failed else ("fail", reason[:200])


def _flaw(fields: dict[bytes, bytes]) -> str | None:
    """Why a signature that is right does not count."""
    algorithm = _text(fields.get(b"a", b""))
    if algorithm in _WEAK_ALGORITHMS:
        return f"{algorithm} is too weak"
    if b"l" in fields:
        return "it does not cover the whole body"
    return None


def _text(value: bytes | str | None) -> str:
    if value is None:
        return ""
    return value.decode("ascii", errors="replace") if isinstance(value, bytes) else value


# DMARC


def _dmarc_record(domain: str, lookups: Resolver) -> dict[str, str]:
    """What the domain, or else its organization, asks for; empty if it does not."""
    answer_to_dict = cast(Any, dmarc_lookup).answer_to_dict
    for name in dict.fromkeys((domain, organizational_domain(domain))):
        try:
            texts = [text.decode("ascii", errors="replace") for text in _dmarc_texts(name, lookups)]
            # Section 6.6.3: several are as good as none.
            record: Any = answer_to_dict(texts[0]) if len(texts) == 1 else {}
        except (LookupFailed, dmarc_lookup.DMARCException):
            continue
        if record:
            return cast("dict[str, str]", record)
    return {}


def _dmarc_texts(domain: str, lookups: Resolver) -> list[bytes]:
    return [text for text in lookups.texts(f"_dmarc.{domain}") if text.startswith(b"v=DMARC1")]


def _is_aligned(domain: str, sender_domain: str, mode: str | None) -> bool:
    """Whether one domain may vouch for the other: relaxed, unless strict is asked for."""
    domain = domain.lower().rstrip(".")
    if domain == sender_domain:
        return True
    if mode == "s" or not domain:
        return False
    return organizational_domain(domain) == organizational_domain(sender_domain)


def organizational_domain(domain: str) -> str:
    """The part of a domain that one owner registered (RFC 7489, section 3.2)."""
    labels = domain.lower().rstrip(".").split(".")
    found = str(_public_suffixes().get_public_suffix(".".join(labels)) or "")
    if "." in found or len(labels) < 2:
        return found or labels[-1]
    # Of a top-level domain that the list does not know, such as an internal one: the list's own
    # default rule, which the library does not apply.
    return ".".join(labels[-2:]) if found == labels[-1] else found


@functools.cache
def _public_suffixes() -> Any:
    source = importlib.resources.files("authheaders") / "public_suffix_list.txt"
    with source.open(encoding="utf-8") as lines:
        return publicsuffix2.PublicSuffixList(lines)
