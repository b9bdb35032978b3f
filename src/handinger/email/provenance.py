"""Who sent a mail, proven: SPF (RFC 7208), DKIM (RFC 6376) and their alignment (DMARC, RFC 7489).

What others say they found (`Authentication-Results`) is not read. Slow: it asks DNS, so it belongs
into a thread.
"""

import functools
import hashlib
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
from dkim import util  # pyright: ignore[reportMissingTypeStubs]

from handinger import mailbox
from handinger.email.message import Headers
from handinger.email.resolver import LookupFailed, Resolver
from handinger.mailbox import Mailbox

logger = logging.getLogger(__name__)

_MAX_SIGNATURES = 8
_MAX_RECEIVED = 20
# RFC 8301: what is signed with SHA-1 counts as not signed.
_WEAK_ALGORITHMS = ("rsa-sha1",)
# If one of them is there twice, another reader may see the one that is not signed.
_ONCE = (
    "from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to",
    "references", "mime-version", "content-type", "content-transfer-encoding",
)  # fmt: skip
# RFC 5321, 4.4: what the host called itself, then what the relay saw of it. Exim writes the first
# behind the second. Only what the relay saw is read, as strangers choose the rest.
_IP = r"\[(?:IPv6:)?([0-9A-Fa-f.:]+)\](?::\d+)?"
_SEEN = (
    re.compile(rf"from\s+\S+\s+\((?:[\w.-]+\s+)?{_IP}[\s)]", re.ASCII),
    re.compile(rf"from\s+{_IP}\s+\(helo=", re.ASCII),
    re.compile(rf"from\s+{_IP}\s+by\s", re.ASCII),
)
# The library's time grows with the square of what a signature has.
_MAX_SIGNATURE_BYTES = 8 * 1024
# From the first one of a row on, so that each is looked at once.
_TRAILING_BLANKS = re.compile(rb"(?<![\t ])[\t ]+(?=\r?\n)")
_BLANKS = re.compile(rb"[\t ]+")

SpfResult = Literal["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"]


@dataclass(frozen=True, slots=True)
class Signature:
    """One DKIM signature of a mail."""

    domain: str
    selector: str
    # unaligned: of another domain, which cannot vouch for the sender, so it was not checked.
    result: Literal["pass", "fail", "temperror", "policy", "unaligned"]
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
    # Of a mail whose `Message-ID` anybody may have changed since it was signed: what nobody can.
    seal: str | None = None
    # Where nothing but a signature vouches, whoever has the mail can hand it in. Whom it is for,
    # as far as that is signed; None if the sender's own host handed it in.
    signed_for: frozenset[str] | None = None

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
    timeout_s: float,
    trusted_relays: Sequence[str],
) -> Verdict:
    """The verdict on a mail that claims to be from `sender`. Never raises for what the mail is."""
    lookups = Resolver(resolver, deadline=time.monotonic() + timeout_s)
    record = _dmarc_record(sender.domain, lookups)
    examined = _signatures(raw, headers, sender.domain, record, lookups)
    ip = client_ip(headers, origin.ip, trusted_relays)
    spf_domain = origin.envelope_sender.rpartition("@")[2].lower() or origin.helo.lower()
    spf_result = _spf(ip, origin, lookups)
    spf_aligned = bool(origin.envelope_sender) and _is_aligned(
        spf_domain, sender.domain, record.get("aspf")
    )
    from_its_host = spf_result == "pass" and spf_aligned
    by = None
    if any(one.vouches for one in examined):
        by = "dkim"
    elif from_its_host:
        by = "spf"
    return Verdict(
        sender=str(sender),
        verified=by is not None,
        by=by,
        spf=spf_result,
        spf_domain=spf_domain,
        spf_aligned=spf_aligned,
        signatures=tuple(one.signature for one in examined),
        dmarc_policy=record.get("p"),
        ip=None if ip is None else str(ip),
        undecided=by is None and lookups.failed,
        seal=next(iter(sorted(one.seal for one in examined if one.seal)), None),
        signed_for=None
        if from_its_host
        else frozenset[str]().union(*(one.recipients for one in examined if one.vouches)),
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
        ip = _ip_seen(received)
    return ip


def _ip_seen(received: str) -> IPv4Address | IPv6Address | None:
    """The address of the host that a relay had the mail from, by its `Received` header."""
    matches = (pattern.match(received.strip()) for pattern in _SEEN)
    return next((_parse_ip(match[1]) for match in matches if match), None)


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
) -> "list[_Examined]":
    """The verdicts on as many signatures as anybody needs, those that may vouch for it first.

    What strangers sign proves nothing here, so their keys are not looked up.
    """
    claims = [_Claim.read(n, value) for n, value in enumerate(headers.all("dkim-signature"))]
    aligned = {
        claim.number
        for claim in claims
        if _is_aligned(claim.domain, sender_domain, record.get("adkim"))
    }
    claims.sort(key=lambda claim: (claim.number not in aligned, claim.number))
    return [
        _Examined.of(raw, headers, claim, lookups)
        if claim.number in aligned
        else _Examined(claim.unaligned())
        for claim in claims[:_MAX_SIGNATURES]
    ]


@dataclass(frozen=True, slots=True)
class _Claim:
    """Who says to have signed a mail."""

    number: int
    domain: str
    selector: str
    relaxed_body: bool

    @classmethod
    def read(cls, number: int, value: str) -> "_Claim":
        """What a signature says of itself; nothing if that cannot be read."""
        if len(value) > _MAX_SIGNATURE_BYTES:
            return cls(number, "", "", relaxed_body=False)
        try:
            fields = _tags(value.encode())
        except ValueError:
            return cls(number, "", "", relaxed_body=False)
        domain, selector = _text(fields.get(b"d")), _text(fields.get(b"s"))
        return cls(number, domain, selector, fields.get(b"c", b"").endswith(b"/relaxed"))

    def unaligned(self) -> Signature:
        """The verdict on one that cannot vouch for the sender."""
        if not self.domain:
            return Signature("", "", "fail", aligned=False, reason="it cannot be read")
        return Signature(self.domain, self.selector, "unaligned", aligned=False)


@dataclass(frozen=True, slots=True)
class _Examined:
    """The verdict on a signature."""

    signature: Signature
    # The same for each copy of the mail, whatever somebody wrote into it that is not signed.
    seal: str | None = None
    recipients: frozenset[str] = frozenset()  # whose addresses it covers

    @property
    def vouches(self) -> bool:
        """Whether the sender is proven by it."""
        return self.signature.result == "pass" and self.signature.aligned

    @classmethod
    def of(cls, raw: bytes, headers: Headers, claim: _Claim, lookups: Resolver) -> "_Examined":
        """Of one of the sender's own domain."""
        verifier: Any = dkim.DKIM(
            _relaxed(raw) if claim.relaxed_body else raw, minkey=1024, timeout=5
        )
        result, reason = _verify(verifier, claim, headers, lookups)
        signature = Signature(claim.domain, claim.selector, result, aligned=True, reason=reason)
        if result != "pass":
            return cls(signature)
        signed = _signed(verifier.signature_fields)
        recipients = mailbox.named_in(
            value for name in ("to", "cc") if name in signed for value in headers.all(name)
        )
        seal = None
        if "message-id" not in signed:
            value = b"".join(verifier.signature_fields[b"b"].split()).rstrip(b"=")
            seal = hashlib.sha256(value).hexdigest()
        return cls(signature, seal, recipients)


def _relaxed(raw: bytes) -> bytes:
    """The same mail to whoever reads its body as relaxed (RFC 6376, 3.4.4).

    The library does that, too, but takes hours for a long row of blanks within a line.
    """
    head, separator, body = raw.partition(b"\r\n\r\n")
    return head + separator + _BLANKS.sub(b" ", _TRAILING_BLANKS.sub(b"", body))


def _verify(
    verifier: Any, claim: _Claim, headers: Headers, lookups: Resolver
) -> tuple[Literal["pass", "fail", "temperror", "policy"], str]:
    failed: list[LookupFailed] = []
    keys: list[bytes] = []

    def key_record(name: bytes | str, timeout: float = 5) -> bytes | None:
        del timeout  # The look-ups of a mail share one deadline.
        try:
            keys.extend(lookups.texts(_text(name)))
        except LookupFailed as error:
            failed.append(error)
        return keys[0] if keys else None

    try:
        if verifier.verify(idx=claim.number, dnsfunc=key_record):
            flaw = _flaw(claim, headers, verifier.signature_fields, keys[0])
            return ("pass", "") if flaw is None else ("policy", flaw)
        reason = "the signature does not match"
    except Exception as error:  # The library stumbles over some signatures.
        reason = str(error) or type(error).__name__
    return ("temperror", str(failed[0])) if failed else ("fail", reason[:200])


def _flaw(claim: _Claim, headers: Headers, fields: dict[bytes, bytes], key: bytes) -> str | None:
    """Why a signature that is right does not count."""
    algorithm = _text(fields.get(b"a"))
    if algorithm in _WEAK_ALGORITHMS:
        return f"{algorithm} is too weak"
    if b"l" in fields:
        return "it does not cover the whole body"
    for name in ("from", "subject"):
        if headers.all(name) and name not in _signed(fields):
            return f"it does not cover the header {name}"
    doubled = next((name for name in _ONCE if len(headers.all(name)) > 1), None)
    if doubled is not None:
        return f"the header {doubled} is there more than once"
    if _text(fields.get(b"d")) != claim.domain:
        return "its domain can be read in more than one way"
    if "y" in _text(_tags(key).get(b"t")).replace(" ", "").split(":"):
        return "its domain only tries signing out"
    return None


def _signed(fields: dict[bytes, bytes]) -> list[str]:
    """The headers that a signature covers."""
    return [name.strip().lower() for name in _text(fields.get(b"h")).split(":")]


def _tags(text: bytes) -> dict[bytes, bytes]:
    """A list of tags and values (RFC 6376, 3.2). Raises ValueError."""
    try:
        return cast("dict[bytes, bytes]", cast(Any, util).parse_tag_value(text))
    except util.InvalidTagValueList as error:
        raise ValueError(str(error) or "it is malformed") from error


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
