"""The ledger: what was spent, row by row. Every sum of money is a sum over it, and none changes.

Before something with a price is done, its worst case is reserved with the turn. Afterwards a charge
takes the reservation's place: what was really spent or, where nobody can say, the whole worst case.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypedDict

from handinger.budgets.spending import Spending
from handinger.ids import TurnId, WorkerId
from handinger.storage.database import TenantStatements

Kind = Literal["model", "tool", "sandbox", "internal"]


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call used and cost; one row."""

    kind: Kind
    subject: str  # the model's id, or the tool's name
    step: int
    spending: Spending
    unit_prices: Mapping[str, str] = field(default_factory=dict[str, str])
    # False where the worst case was booked, because the truth is not known.
    settled: bool = True

    def for_platform(self) -> "Charge":
        """The same, of a call that the platform made for itself: its cost alone."""
        spending = Spending(internal_cost_nano=self.spending.cost_nano)
        return replace(self, kind="internal", spending=spending)

    def owed(self) -> "Reservation":
        """For the next attempt to book in full, where this one cannot book it any more."""
        cost_nano = self.spending.cost_nano
        return Reservation(
            self.kind, self.subject, self.step, cost_nano, unit_prices=self.unit_prices
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """The worst case of a call that may be made, or is under way."""

    kind: Kind
    subject: str
    step: int
    cost_nano: int
    call_id: str = ""  # of a tool's call
    input_tokens: int = 0  # bounds, of a model's call
    output_tokens: int = 0
    unit_prices: Mapping[str, str] = field(default_factory=dict[str, str])
    is_kept: bool = False  # for a call that is not made yet; never booked

    def in_full(self, *, steps: int = 0) -> Charge:
        """The charge for a call that may have been made, and of which nothing is known.

        Its tokens are bounds and no facts, so that only its cost counts. A call that is repeated
        counts as one step, however often it is paid for.
        """
        spending = Spending(steps=steps, **{f"{self.kind}_cost_nano": self.cost_nano})
        return Charge(self.kind, self.subject, self.step, spending, self.unit_prices, settled=False)


Reserve = Callable[[Spending, int | None], Sequence[Reservation]]
"""All that is to be reserved, given what the turn has spent, and what its organization has left."""


def charges_of(subject: str, step: int, spending: Spending) -> list[Charge]:
    """One charge for each kind of cost that a tool had."""
    parts: list[tuple[Kind, Spending]] = [
        ("tool", Spending(tool_cost_nano=spending.tool_cost_nano)),
        ("sandbox", Spending(sandbox_cost_nano=spending.sandbox_cost_nano)),
        ("internal", Spending(internal_cost_nano=spending.internal_cost_nano)),
    ]
    return [Charge(kind, subject, step, part) for kind, part in parts if part.cost_nano]


def total(charges: Iterable[Charge]) -> Spending:
    """The sum of what was charged."""
    spending = Spending()
    for charge in charges:
        spending += charge.spending
    return spending


def parse(stored: Iterable[Mapping[str, Any]]) -> list[Reservation]:
    """What `held` wrote."""
    return [Reservation(**reservation) for reservation in stored]


class Columns(TypedDict):
    """A list for each column of `ledger`, one item for each charge."""

    charge_kinds: list[str]
    subjects: list[str]
    charge_steps: list[int]
    settled: list[bool]
    unit_prices: list[str]
    calls: list[int]
    charge_input_tokens: list[int]
    charge_output_tokens: list[int]
    charge_reasoning_tokens: list[int]
    charge_cache_read_tokens: list[int]
    charge_cache_write_tokens: list[int]
    costs: list[int]


def columns(charges: Sequence[Charge]) -> Columns:
    """The parameters of `INSERT`."""
    spent = [charge.spending for charge in charges]
    return {
        "charge_kinds": [charge.kind for charge in charges],
        "subjects": [charge.subject for charge in charges],
        "charge_steps": [charge.step for charge in charges],
        "settled": [charge.settled for charge in charges],
        "unit_prices": [json.dumps(dict(charge.unit_prices)) for charge in charges],
        "calls": [spending.steps for spending in spent],
        "charge_input_tokens": [spending.input_tokens for spending in spent],
        "charge_output_tokens": [spending.output_tokens for spending in spent],
        "charge_reasoning_tokens": [spending.reasoning_tokens for spending in spent],
        "charge_cache_read_tokens": [spending.cache_read_tokens for spending in spent],
        "charge_cache_write_tokens": [spending.cache_write_tokens for spending in spent],
        "costs": [spending.cost_nano for spending in spent],
    }


# Goes on from a CTE `fenced` with the turn's row; a turn that is lost books nothing.
INSERT = """
INSERT INTO ledger (organization_id, worker_id, turn_id, kind, subject, step, settled, unit_prices,
    steps, input_tokens, output_tokens, reasoning_tokens, cache_read_tokens, cache_write_tokens,
    cost_nano)
SELECT %(organization_id)s, %(worker_id)s, fenced.id, row.* FROM fenced,
    unnest(%(charge_kinds)s::text[], %(subjects)s::text[], %(charge_steps)s::int[],
        %(settled)s::bool[], %(unit_prices)s::json[], %(calls)s::bigint[],
        %(charge_input_tokens)s::bigint[],
        %(charge_output_tokens)s::bigint[], %(charge_reasoning_tokens)s::bigint[],
        %(charge_cache_read_tokens)s::bigint[], %(charge_cache_write_tokens)s::bigint[],
        %(costs)s::bigint[]) row
"""


async def forget(sql: TenantStatements, worker_id: WorkerId) -> None:
    """Leave nothing of a worker that is deleted but what it cost."""
    await sql.run(
        "UPDATE ledger SET worker_id = NULL, turn_id = NULL"
        " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s",
        worker_id=worker_id,
    )


class Held(TypedDict):
    """What a turn's row says of its reservations."""

    reservations: str | None
    reserved_nano: int


def held(reservations: Sequence[Reservation]) -> Held:
    """By the names of the columns."""
    stored = json.dumps([asdict(reservation) for reservation in reservations])
    return {
        "reservations": stored if reservations else None,
        "reserved_nano": sum(reservation.cost_nano for reservation in reservations),
    }


async def take_over(
    sql: TenantStatements,
    turn_id: TurnId,
    worker_id: WorkerId,
    *,
    attempt: int,
    charges: Sequence[Charge],
    credits: int,
    reservations: Sequence[Reservation],
) -> bool:
    """Book what a dead attempt may have spent, and reserve for this one; False if that is over."""
    found = await sql.value(
        "WITH fenced AS (UPDATE turns SET reservations = %(reservations)s,"
        " reserved_nano = %(reserved_nano)s, credits = %(credits)s,"
        " model_cost_nano = model_cost_nano + %(model_cost_nano)s,"
        " tool_cost_nano = tool_cost_nano + %(tool_cost_nano)s,"
        " sandbox_cost_nano = sandbox_cost_nano + %(sandbox_cost_nano)s,"
        " internal_cost_nano = internal_cost_nano + %(internal_cost_nano)s"
        " WHERE organization_id = %(organization_id)s AND id = %(id)s"
        " AND attempt = %(attempt)s AND status = 'running' RETURNING id),"
        " booked AS (" + INSERT + ") SELECT id FROM fenced",
        id=turn_id,
        worker_id=worker_id,
        attempt=attempt,
        credits=credits,
        **held(reservations),
        **columns(charges),
        **total(charges).columns(),
    )
    return found is not None
