"""What must hold of money in the database at every moment."""

SUMS = "steps input_tokens output_tokens reasoning_tokens cache_read_tokens cache_write_tokens"
COSTS = "model tool sandbox internal"

_TURN_SUMS = [f"t.{name} = coalesce(sum(l.{name}), 0)" for name in SUMS.split()] + [
    f"t.{kind}_cost_nano = coalesce(sum(l.cost_nano) FILTER (WHERE l.kind = '{kind}'), 0)"
    for kind in COSTS.split()
]
_WORKER_SUMS = [
    f"w.{name} = coalesce(sum(t.{name}) FILTER (WHERE t.status = 'completed'), 0)"
    for name in [*SUMS.split(), *(f"{kind}_cost_nano" for kind in COSTS.split()), "credits"]
]

# Each gives the ids of what is wrong.
CHECKS = {
    "turns whose sums are not those of their ledger rows": (
        "SELECT t.id FROM turns t LEFT JOIN ledger l ON l.turn_id = t.id GROUP BY t.id"
        f" HAVING NOT ({' AND '.join(_TURN_SUMS)})"
    ),
    "workers whose sums are not those of their ended turns": (
        "SELECT w.id FROM workers w LEFT JOIN turns t ON t.worker_id = w.id GROUP BY w.id"
        f" HAVING NOT ({' AND '.join(_WORKER_SUMS)})"
    ),
    "ended turns that still hold a reservation": (
        "SELECT id FROM turns WHERE status = 'completed'"
        " AND (reservations IS NOT NULL OR reserved_nano <> 0)"
    ),
    "turns whose credits are not their cost, rounded up": (
        "SELECT id FROM turns WHERE credits <> (model_cost_nano + tool_cost_nano"
        " + sandbox_cost_nano + internal_cost_nano + 9999999) / 10000000"
    ),
}
