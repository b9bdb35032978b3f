"""`/api/email-settings`: whose mail the workers of an organization take."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from handinger import workers
from handinger.api.deps import CallerDep, ServicesDep, read_json
from handinger.api.description import body_of
from handinger.api.models.emails import EmailSettings, EmailSettingsUpdate
from handinger.api.models.errors import Error
from handinger.email import addresses
from handinger.ids import OrganizationId

router = APIRouter(prefix="/api/email-settings", tags=["email"])


@router.get(
    "",
    operation_id="getEmailSettings",
    summary="Read whose mail is taken",
    response_model=EmailSettings,
    responses={status: {"model": Error} for status in (401, 429, 503)},
)
async def get_email_settings(services: ServicesDep, caller: CallerDep) -> Response:
    """The organization's own list, or the server's where it has none."""
    return await _current(services, caller.organization_id)


@router.put(
    "",
    operation_id="putEmailSettings",
    summary="Say whose mail is taken",
    response_model=EmailSettings,
    responses={status: {"model": Error} for status in (400, 401, 413, 415, 422, 429, 503)},
    openapi_extra=body_of("EmailSettingsUpdate"),
)
async def put_email_settings(
    request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    """Replaces the list. An empty one takes nobody's mail; null returns to the server's list."""
    body, _ = await read_json(request, EmailSettingsUpdate)
    async with services.database.tenant(caller.organization_id).statements() as sql:
        await addresses.set_allow_list(sql, body.allow)
    return await _current(services, caller.organization_id)


async def _current(services: ServicesDep, organization_id: OrganizationId) -> Response:
    async with services.database.tenant(organization_id).statements() as sql:
        allow_list = await addresses.allow_list(sql, services.settings)
    return Response(workers.dump(allow_list.wire()), media_type="application/json")
