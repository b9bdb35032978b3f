"""`/api/usage`: what the key's organization has used, and what it has left."""

from datetime import UTC, date, datetime, time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from handinger import workers
from handinger.api.deps import CallerDep, ServicesDep
from handinger.api.models.errors import Error
from handinger.api.models.spending import UsageReport
from handinger.budgets import accounts, usage
from handinger.errors import InvalidInput

router = APIRouter(prefix="/api/usage", tags=["usage"])

_MAX_GROUPS = 10_000


@router.get(
    "",
    operation_id="getUsage",
    summary="Read what the organization has used",
    response_model=UsageReport,
    responses={status: {"model": Error} for status in (401, 422, 429, 503)},
)
async def get_usage(
    services: ServicesDep,
    caller: CallerDep,
    since: Annotated[
        str | None,
        Query(
            alias="from",
            description="A date or a date-time, ISO 8601, UTC without an offset. Default: the "
            "first day of this month.",
        ),
    ] = None,
    before: Annotated[
        str | None, Query(alias="to", description="As `from`, and not part of it. Default: now.")
    ] = None,
    group_by: Annotated[
        usage.GroupBy, Query(alias="groupBy", description="What the groups are.")
    ] = "day",
) -> Response:
    """Sums over the ledger; of deleted workers too."""
    database, organization_id = services.database, caller.organization_id
    start = _moment("from", since) or _start_of_this_month()
    end = _moment("to", before) or datetime.now(UTC)
    if end < start and before is None:
        raise InvalidInput.of("is in the future; without a `to` behind it there is nothing", "from")
    if end < start:
        raise InvalidInput.of("is earlier than from", "to")
    report = await usage.of_organization(
        database,
        organization_id,
        since=start,
        before=end,
        group_by=group_by,
        limit=_MAX_GROUPS,
    )
    account = await accounts.show(database, organization_id)
    month_nano = None if account is None else account.month_nano
    cap_nano = None if account is None else account.monthly_cap_nano
    body = {
        "from": workers.iso(start),
        "to": workers.iso(end),
        "groupBy": group_by,
        "groups": [group.wire() for group in report.groups],
        "total": usage.spent_json(report.total),
        "balanceCredits": None if account is None else account.balance_credits,
        "monthlyCapUsd": None if cap_nano is None else cap_nano / 1e9,
        "monthUsd": None if month_nano is None else month_nano / 1e9,
    }
    return Response(workers.dump(body), media_type="application/json")


def _start_of_this_month() -> datetime:
    return datetime.combine(datetime.now(UTC).date().replace(day=1), time.min, UTC)


def _moment(name: str, text: str | None) -> datetime | None:
    """A date is its beginning. Raises InvalidInput."""
    if text is None:
        return None
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time.min, UTC)
        # A plus sign in a query is a space unless it is encoded.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput.of(
            "give an ISO 8601 date or date-time, for example 2026-01-31 or 2026-01-31T12:00:00Z",
            name,
        ) from error
