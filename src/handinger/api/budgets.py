"""`/api/budgets`: what the budgets of this server allow."""

from fastapi import APIRouter

from handinger.api.deps import CallerDep, ServicesDep
from handinger.api.models.errors import Error
from handinger.api.models.spending import BudgetCaps, BudgetList
from handinger.budgets import accounts

router = APIRouter(prefix="/api/budgets", tags=["budgets"])


@router.get(
    "",
    operation_id="listBudgets",
    summary="List the budgets",
    responses={status: {"model": Error} for status in (401, 429, 503)},
)
async def list_budgets(services: ServicesDep, caller: CallerDep) -> BudgetList:
    """What one turn may use at most, by budget: the organization's own caps, else the server's."""
    levels = await accounts.budgets_of(services.database, services.settings, caller.organization_id)
    return BudgetList(
        budgets=[
            BudgetCaps(
                name=name,
                modelCalls=limits.model_calls,
                usd=limits.usd,
                seconds=limits.seconds,
            )
            for name, limits in levels.items()
        ]
    )
