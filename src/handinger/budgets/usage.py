"""What an organization has used in a span of time; sums over the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString

from handinger.budgets.spending import Spending
from handinger.ids import OrganizationId
from handinger.storage.database import Database

GroupBy = Literal["day", "worker", "model"]


@dataclass(frozen=True, slots=True)
class Group:
    """One day, worker or model."""

    key: str
    spending: Spending

    def wire(self) -> dict[str, Any]:
        """The wire's group."""
        return {"key": self.key, **spent_json(self.spending)}


def spent_json(spending: Spending) -> dict[str, Any]:
    """The wire's `costs` and `usage` of many turns, which have no credits and no duration."""
    usage = spending.usage_json(credits=0, duration_ms=0)
    del usage["credits"], usage["durationMs"]
    return {"costs": spending.costs_json(), "usage": usage}


@dataclass(frozen=True, slots=True)
class Report:
    """What was used in a span of time."""

    groups: Sequence[Group]
    total: Spending


@dataclass(frozen=True, slots=True)
class _Row:
    key: str | None  # None: the sum of all
    spent: list[int]

    def spending(self) -> Spending:
        return Spending(*(count or 0 for count in self.spent))


_KEYS: dict[GroupBy, LiteralString] = {
    "day": "to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "worker": "coalesce(worker_id, '(deleted)')",
    # What tools and commands cost is no model's.
    "model": "CASE WHEN kind IN ('model', 'internal') THEN subject ELSE '(' || kind || ')' END",
}


async def of_organization(
    database: Database,
    organization_id: OrganizationId,
    *,
    since: datetime,
    before: datetime,
    group_by: GroupBy,
    limit: int,
) -> Report:
    """Each group that used anything, in the order of its key; the dearest if there are too many.

    The total is of all of them. It comes from the same statement, so that it is never another
    moment's.
    """
    key = _KEYS[group_by]
    async with database.tenant(organization_id).statements() as sql:
        rows = await sql.all(
            _Row,
            "SELECT " + key + " AS key, ARRAY[sum(steps) FILTER (WHERE kind <> 'internal'),"
            " sum(input_tokens) FILTER (WHERE kind <> 'internal'),"
            " sum(output_tokens) FILTER (WHERE kind <> 'internal'),"
            " sum(reasoning_tokens) FILTER (WHERE kind <> 'internal'),"
            " sum(cache_read_tokens) FILTER (WHERE kind <> 'internal'),"
            " sum(cache_write_tokens) FILTER (WHERE kind <> 'internal'),"
            " sum(cost_nano) FILTER (WHERE kind = 'model'),"
            " sum(cost_nano) FILTER (WHERE kind = 'tool'),"
            " sum(cost_nano) FILTER (WHERE kind = 'sandbox'),"
            " sum(cost_nano) FILTER (WHERE kind = 'internal')]::bigint[] AS spent FROM ledger"
            " WHERE organization_id = %(organization_id)s AND created_at >= %(since)s"
            " AND created_at < %(before)s GROUP BY GROUPING SETS ((1), ())"
            " ORDER BY grouping(" + key + ") DESC, sum(cost_nano) DESC, 1 LIMIT %(limit)s + 1",
            since=since,
            before=before,
            limit=limit,
        )
    total, *groups = rows
    told = [Group(row.key, row.spending()) for row in groups if row.key is not None]
    return Report(sorted(told, key=lambda group: group.key), total.spending())
