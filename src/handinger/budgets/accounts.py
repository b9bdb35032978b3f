"""What an organization may spend: a balance of credits, a cap for each month, budgets of its own.

Only an organization that has one of the first two has an account, and only its turns wait for each
other, for the length of a statement. A turn's account holds what the turn has spent and reserved,
so that turns that run at once cannot spend the same credit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, LiteralString

from psycopg.types.json import Jsonb
from pydantic import ValidationError

from handinger.budgets import ledger
from handinger.budgets.allowance import limits_of
from handinger.budgets.ledger import Reservation, Reserve
from handinger.budgets.spending import Spending
from handinger.errors import InvalidInput, MonthlyCapReached, OutOfCredits
from handinger.ids import OrganizationId, TurnId
from handinger.settings import BudgetLimits, BudgetName, Settings
from handinger.storage.database import Database, TenantStatements


@dataclass(frozen=True, slots=True)
class Account:
    """What an organization has left; None means no limit."""

    balance_credits: int | None
    monthly_cap_nano: int | None
    month_nano: int  # spent and reserved in this month

    def require(self) -> None:
        """That something is left. Raises OutOfCredits, MonthlyCapReached."""
        if self.balance_credits is not None and self.balance_credits <= 0:
            raise OutOfCredits(
                "This organization is out of credits; its operator can grant more with "
                "`handinger credits grant`."
            )
        cap = self.monthly_cap_nano
        if cap is not None and self.month_nano >= cap:
            raise MonthlyCapReached(
                f"This organization has reached its cap of {cap / 1e9:g} USD for this month; its "
                "operator can raise it with `handinger budgets cap`."
            )


_MOST_GRANTED = 10**12

# Its first day. By the database's clock, the only one that all servers share: by clocks of their
# own they would not agree, around its end, on which month's sum an account holds.
_THIS_MONTH: LiteralString = "date_trunc('month', now() AT TIME ZONE 'UTC')::date"


@dataclass(frozen=True, slots=True)
class _Funds:
    budgets: dict[str, Any] | None
    has_account: bool
    balance_credits: int | None
    monthly_cap_nano: int | None
    month_nano: int


@dataclass(frozen=True, slots=True)
class Funds:
    """What decides whether an organization's turn may start."""

    overrides: Mapping[str, Any]  # of budget levels
    account: Account | None


async def funds(sql: TenantStatements) -> Funds:
    """Those of the organization that the statements belong to."""
    row = await sql.first(
        _Funds,
        "SELECT o.budgets, a.organization_id IS NOT NULL AS has_account, a.balance_credits,"
        " a.monthly_cap_nano, CASE WHEN a.month = " + _THIS_MONTH + " THEN a.month_nano ELSE 0 END"
        " AS month_nano FROM organizations o"
        " LEFT JOIN accounts a ON a.organization_id = o.id WHERE o.id = %(organization_id)s",
    )
    if row is None:
        return Funds({}, None)
    account = None
    if row.has_account:
        account = Account(row.balance_credits, row.monthly_cap_nano, row.month_nano)
    return Funds(row.budgets or {}, account)


@dataclass(frozen=True, slots=True)
class _Held:
    balance_credits: int | None
    monthly_cap_nano: int | None
    month: date
    month_nano: int
    held_credits: int
    held_nano: int
    held_month: date | None
    this_month: date


async def hold(
    sql: TenantStatements,
    turn_id: TurnId,
    *,
    spending: Spending,
    charged_nano: int,
    reserve: Reserve | None,
    nano_per_credit: int,
) -> Sequence[Reservation]:
    """Bring the account up to what a turn has spent and reserves now, within what is left there.

    The last statement of its transaction, which holds the turn's row. `charged_nano` is what that
    transaction has added to the ledger.
    """
    row = await sql.first(
        _Held,
        "SELECT a.balance_credits, a.monthly_cap_nano, a.month, a.month_nano, t.held_credits,"
        " t.held_nano, t.held_month, " + _THIS_MONTH + " AS this_month FROM accounts a, turns t"
        " WHERE a.organization_id = %(organization_id)s AND t.id = %(id)s FOR UPDATE OF a",
        id=turn_id,
    )
    if row is None:
        return reserve(spending, None) if reserve else ()
    month = row.this_month
    if row.month == month:
        freed_nano = row.held_nano if row.held_month == month else 0
        spent_in_month = row.month_nano - freed_nano + charged_nano
    else:
        spent_in_month = await _spent_and_held(sql, month, beside=turn_id)
    available: list[int] = []
    if row.balance_credits is not None:
        credits = row.balance_credits + row.held_credits
        available.append(credits * nano_per_credit - spending.cost_nano)
    if row.monthly_cap_nano is not None:
        available.append(row.monthly_cap_nano - spent_in_month)
    limit = max(0, min(available)) if available else None
    reservations = reserve(spending, limit) if reserve else ()
    held_nano = sum(reservation.cost_nano for reservation in reservations)
    held_credits = -(-(spending.cost_nano + held_nano) // nano_per_credit)
    await sql.run(
        "WITH account AS (UPDATE accounts SET month = %(month)s, month_nano = %(month_nano)s,"
        " balance_credits = balance_credits + %(freed_credits)s"
        " WHERE organization_id = %(organization_id)s)"
        " UPDATE turns SET held_credits = %(held_credits)s, held_nano = %(held_nano)s,"
        " held_month = %(month)s, reservations = %(reservations)s,"
        " reserved_nano = %(reserved_nano)s"
        " WHERE organization_id = %(organization_id)s AND id = %(id)s",
        id=turn_id,
        month=month,
        month_nano=spent_in_month + held_nano,
        freed_credits=row.held_credits - held_credits,
        held_credits=held_credits,
        held_nano=held_nano,
        **ledger.held(reservations),
    )
    return reservations


async def _spent_and_held(sql: TenantStatements, month: date, *, beside: TurnId | None) -> int:
    """What the ledger says of a month, and what turns that run hold in it, `beside` one of them.

    For a month that an account knows nothing of: one that begins, or that a clock has gone back to.
    """
    nano = await sql.value(
        "SELECT (SELECT coalesce(sum(cost_nano), 0) FROM ledger"
        " WHERE organization_id = %(organization_id)s"
        " AND created_at >= %(month)s::timestamp AT TIME ZONE 'UTC'"
        " AND created_at < (%(month)s + interval '1 month') AT TIME ZONE 'UTC')"
        " + (SELECT coalesce(sum(held_nano), 0) FROM turns"
        " WHERE organization_id = %(organization_id)s AND status = 'running'"
        " AND held_month = %(month)s AND id IS DISTINCT FROM %(beside)s)",
        month=month,
        beside=beside,
    )
    return int(nano)


async def show(database: Database, organization_id: OrganizationId) -> Account | None:
    """The organization's account; None if nothing limits it."""
    async with database.tenant(organization_id).statements() as sql:
        return (await funds(sql)).account


async def grant(
    database: Database, organization_id: OrganizationId, *, credits: int, note: str = ""
) -> Account:
    """Add to the balance, or take from it; an organization without one has one from now on.

    Raises InvalidInput.
    """
    if abs(credits) > _MOST_GRANTED:
        raise InvalidInput(f"At most {_MOST_GRANTED:,} credits can be granted or taken at once.")
    if credits == 0:
        raise InvalidInput("Zero credits change nothing; give a number above or below it.")
    async with database.tenant(organization_id).transaction() as sql:
        await sql.run(
            "INSERT INTO credit_grants (organization_id, credits, note)"
            " VALUES (%(organization_id)s, %(credits)s, %(note)s)",
            credits=credits,
            note=note,
        )
        if not await _add(sql, credits):
            await _open(sql)
            if not await _add(sql, credits):
                await _begin_balance(sql, credits)
        account = (await funds(sql)).account
    assert account is not None
    return account


async def _add(sql: TenantStatements, credits: int) -> bool:
    """Whether there was a balance to add to."""
    added = await sql.value(
        "UPDATE accounts SET balance_credits = balance_credits + %(credits)s"
        " WHERE organization_id = %(organization_id)s AND balance_credits IS NOT NULL RETURNING 1",
        credits=credits,
    )
    return added is not None


async def _begin_balance(sql: TenantStatements, credits: int) -> None:
    """What turns that run have spent before is not taken from it, what they go on to spend is."""
    await sql.run(
        "WITH begun AS (UPDATE accounts SET balance_credits = %(credits)s"
        " WHERE organization_id = %(organization_id)s)"
        " UPDATE turns SET held_credits = credits"
        " WHERE organization_id = %(organization_id)s AND status = 'running'",
        credits=credits,
    )


async def lift(database: Database, organization_id: OrganizationId) -> None:
    """Take the balance away: credits are counted, and not limited, from now on."""
    await _change(database, organization_id, balance=True, cap=False, cap_nano=None)


async def cap_month(
    database: Database, organization_id: OrganizationId, cap_nano: int | None
) -> None:
    """What the organization may spend in a calendar month (UTC); None: as much as it likes."""
    await _change(database, organization_id, balance=False, cap=True, cap_nano=cap_nano)


async def _change(
    database: Database,
    organization_id: OrganizationId,
    *,
    balance: bool,
    cap: bool,
    cap_nano: int | None,
) -> None:
    async with database.tenant(organization_id).transaction() as sql:
        await _open(sql)
        await sql.run(
            "UPDATE accounts SET"
            " balance_credits = CASE WHEN %(balance)s THEN NULL ELSE balance_credits END,"
            " monthly_cap_nano = CASE WHEN %(cap)s THEN %(cap_nano)s ELSE monthly_cap_nano END"
            " WHERE organization_id = %(organization_id)s",
            balance=balance,
            cap=cap,
            cap_nano=cap_nano,
        )
        # Without an account its turns need not wait for each other.
        await sql.run(
            "WITH closed AS (DELETE FROM accounts WHERE organization_id = %(organization_id)s"
            " AND balance_credits IS NULL AND monthly_cap_nano IS NULL RETURNING organization_id)"
            " UPDATE turns SET held_credits = 0, held_nano = 0, held_month = NULL FROM closed"
            " WHERE turns.organization_id = closed.organization_id"
            " AND turns.organization_id = %(organization_id)s AND status <> 'completed'",
        )


async def _open(sql: TenantStatements) -> None:
    """See that there is an account, which knows what this month has cost so far.

    Steps that are being stored are waited for, and those that come see the account. For some
    milliseconds no turn of the server is written; so the operator's rare changes do not deadlock
    with steps, which lock a turn before its account.
    """
    # Names no organization, and needs none. Who writes the ledger has locked a turn before.
    await sql.connection.execute("LOCK TABLE turns IN SHARE ROW EXCLUSIVE MODE")
    found = await sql.value("SELECT 1 FROM accounts WHERE organization_id = %(organization_id)s")
    if found is not None:
        return
    month = await sql.value(
        "SELECT " + _THIS_MONTH + " FROM organizations WHERE id = %(organization_id)s"
    )
    await sql.run(
        "UPDATE turns SET held_nano = reserved_nano, held_month = %(month)s"
        " WHERE organization_id = %(organization_id)s AND status = 'running'",
        month=month,
    )
    await sql.run(
        "INSERT INTO accounts (organization_id, month, month_nano)"
        " VALUES (%(organization_id)s, %(month)s, %(month_nano)s)",
        month=month,
        month_nano=await _spent_and_held(sql, month, beside=None),
    )


# Budgets of an organization


async def set_budget(
    database: Database,
    organization_id: OrganizationId,
    name: BudgetName,
    caps: Mapping[str, float | int | None],
) -> None:
    """Give an organization caps of its own, by their names on the wire; no caps: the server's."""
    try:
        BudgetLimits.model_validate(caps)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"The cap {where} is not valid: {first['msg']}.") from error
    async with database.tenant(organization_id).transaction() as sql:
        own = dict(
            await sql.value(
                "SELECT coalesce(budgets, '{}') FROM organizations WHERE id = %(organization_id)s"
                " FOR NO KEY UPDATE"
            )
        )
        own[name] = {**own.get(name, {}), **caps} if caps else {}
        own = {level: given for level, given in own.items() if given}
        await sql.run(
            "UPDATE organizations SET budgets = %(budgets)s WHERE id = %(organization_id)s",
            budgets=Jsonb(own) if own else None,
        )


async def budgets_of(
    database: Database, settings: Settings, organization_id: OrganizationId
) -> dict[BudgetName, BudgetLimits]:
    """The caps of every level that hold for an organization."""
    async with database.tenant(organization_id).statements() as sql:
        overrides = (await funds(sql)).overrides
    return {name: limits_of(settings, name, overrides) for name in settings.budgets}
