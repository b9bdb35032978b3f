"""`POST /api/inbound-email`: mail that a provider hands in, signed with a shared secret."""

import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from handinger import workers
from handinger.api.deps import ServicesDep, body_stream
from handinger.api.models.emails import InboundEmail
from handinger.api.models.errors import Error
from handinger.errors import InvalidInput, NotFound, Unauthorized, Unavailable

if TYPE_CHECKING:
    from handinger.email.addresses import Recipient
    from handinger.email.inbound import Inbound

router = APIRouter(prefix="/api/inbound-email", tags=["email"])

# A request that is older, or from the future, is a replay, or its sender's clock is wrong.
_MAX_AGE_S = 300
_SIGNATURE = re.compile(r"t=(\d{1,12})((?:,v1=[0-9a-f]{64}){1,4})")


@router.post(
    "",
    operation_id="postInboundEmail",
    summary="Hand in a mail",
    response_model=InboundEmail,
    responses={status: {"model": Error} for status in (401, 404, 413, 422, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def post_inbound_email(
    request: Request,
    services: ServicesDep,
    sender: Annotated[
        str, Query(alias="from", description="The envelope's sender; empty for a bounce.")
    ],
    to: Annotated[list[str], Query(description="The envelope's recipients, one each.")],
    ip: Annotated[
        str | None, Query(description="The host that handed the mail to the provider, for SPF.")
    ] = None,
    helo: Annotated[str, Query(description="What that host called itself.")] = "",
    signature: Annotated[
        str | None,
        Header(
            alias="X-Handinger-Signature",
            description="`t=UNIX_SECONDS,v1=HEX`: HMAC-SHA256 with the shared secret over the "
            "seconds, a dot, the query string, a dot, and the body.",
        ),
    ] = None,
) -> Response:
    """The body is the raw mail (RFC 5322). Each recipient has a result of its own."""
    secret = services.settings.inbound_email_secret
    if secret is None:
        raise NotFound("This server takes no mail by HTTP (HANDINGER_INBOUND_EMAIL_SECRET).")
    at, given = _read_signature(signature)
    limit = services.settings.email_max_bytes
    chunks = body_stream(request, limit, variable="HANDINGER_EMAIL_MAX_BYTES")
    raw = b"".join([chunk async for chunk in chunks])
    signed = b".".join((at.encode(), request.url.query.encode(), raw))
    expected = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).hexdigest()
    # Every one is compared, so that the time taken says nothing.
    if not any([hmac.compare_digest(expected, one) for one in given]):
        raise Unauthorized("The signature does not fit this body and query string.")
    most = services.settings.email_max_recipients
    if not 1 <= len(to) <= most:
        raise InvalidInput.of(
            f"a mail may have 1 to {most} recipients (HANDINGER_EMAIL_MAX_RECIPIENTS)", "to"
        )
    results = await _take_in(services.inbound(), raw, sender, to, ip=ip, helo=helo)
    return Response(workers.dump({"results": results}), media_type="application/json")


def _read_signature(header: str | None) -> tuple[str, list[str]]:
    """Its time, which must be about now, and what it may be. Raises Unauthorized."""
    match = _SIGNATURE.fullmatch(header or "")
    if match is None:
        raise Unauthorized("Send X-Handinger-Signature: t=UNIX_SECONDS,v1=HEX.")
    if abs(time.time() - int(match[1])) > _MAX_AGE_S:
        raise Unauthorized(f"The signature is older than {_MAX_AGE_S} s, or from the future.")
    return match[1], match[2].replace("v1=", "").split(",")[1:]


async def _take_in(
    inbound: "Inbound", raw: bytes, sender: str, to: list[str], *, ip: str | None, helo: str
) -> list[dict[str, Any]]:
    """What became of the mail at each recipient. Raises Unavailable if it should come again."""
    from handinger.email.inbound import Refusal  # noqa: PLC0415 # Loaded with the first mail.
    from handinger.email.message import normalize_line_ends  # noqa: PLC0415
    from handinger.email.provenance import Origin  # noqa: PLC0415

    raw = normalize_line_ends(raw)
    origin = Origin(ip=ip, helo=helo, envelope_sender="" if sender in ("", "<>") else sender)
    reasons: dict[str, str | None] = {}
    groups: dict[str, dict[str, Recipient]] = {}
    for address in dict.fromkeys(to):
        try:
            found = await inbound.recipient(address, envelope_sender=origin.envelope_sender)
        except Refusal as refusal:
            reasons[address] = _final(refusal)
        else:
            groups.setdefault(found.organization_id, {})[address] = found
            reasons[address] = None
    for group in groups.values():
        try:
            await inbound.take_in(raw, origin, list(group.values()))
        except Refusal as refusal:
            reasons |= dict.fromkeys(group, _final(refusal))
    return [
        {
            "recipient": address,
            "status": "stored" if reason is None else "refused",
            "reason": reason,
        }
        for address, reason in reasons.items()
    ]


def _final(refusal: Any) -> str:
    if not refusal.is_final:
        raise Unavailable(refusal.message, retry_after_s=30)
    return str(refusal)
