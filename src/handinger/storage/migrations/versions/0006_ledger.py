"""The ledger, and what turns hold in reserve.

What was spent before is carried over: one row for each kind of cost of a turn.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("unit_prices", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        _count("steps"),
        _count("input_tokens"),
        _count("output_tokens"),
        _count("reasoning_tokens"),
        _count("cache_read_tokens"),
        _count("cache_write_tokens"),
        _count("cost_nano"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name="ledger_organization_id_fkey",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="ledger_pkey"),
    )
    op.create_index(
        "ledger_organization_id_created_at_idx", "ledger", ["organization_id", "created_at"]
    )
    op.create_index("ledger_turn_id_idx", "ledger", ["turn_id"])
    op.create_index("ledger_worker_id_idx", "ledger", ["worker_id"])
    op.add_column("turns", _count("credits"))
    op.add_column("turns", sa.Column("reservations", postgresql.JSONB(astext_type=sa.Text())))
    op.add_column("turns", _count("reserved_nano"))
    # A credit was 0.01 USD for everybody.
    op.execute("""
UPDATE turns SET credits = (model_cost_nano + tool_cost_nano + sandbox_cost_nano
    + internal_cost_nano + 9999999) / 10000000
""")
    op.execute("""
INSERT INTO ledger (organization_id, worker_id, turn_id, kind, subject, step, settled, unit_prices,
    steps, input_tokens, output_tokens, reasoning_tokens, cache_read_tokens, cache_write_tokens,
    cost_nano, created_at)
SELECT t.organization_id, t.worker_id, t.id, spent.kind, 'carried over', 0, true, '{}',
    spent.steps, spent.input, spent.output, spent.reasoning, spent.cache_read, spent.cache_write,
    spent.cost, coalesce(t.ended_at, t.started_at, t.created_at)
FROM turns t CROSS JOIN LATERAL (VALUES
    ('model', t.steps, t.input_tokens, t.output_tokens, t.reasoning_tokens, t.cache_read_tokens,
        t.cache_write_tokens, t.model_cost_nano),
    ('tool', 0, 0, 0, 0, 0, 0, t.tool_cost_nano),
    ('sandbox', 0, 0, 0, 0, 0, 0, t.sandbox_cost_nano),
    ('internal', 0, 0, 0, 0, 0, 0, t.internal_cost_nano)
) spent (kind, steps, input, output, reasoning, cache_read, cache_write, cost)
WHERE spent.cost > 0 OR spent.steps > 0
""")
