"""Balances of credits, caps for a month, and budgets of an organization's own."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _organization(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id"],
        ["organizations.id"],
        name=f"{table}_organization_id_fkey",
        ondelete="CASCADE",
    )


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("balance_credits", sa.BigInteger(), nullable=True),
        sa.Column("monthly_cap_nano", sa.BigInteger(), nullable=True),
        sa.Column("month", sa.Date(), nullable=False),
        _count("month_nano"),
        _organization("accounts"),
        sa.PrimaryKeyConstraint("organization_id", name="accounts_pkey"),
    )
    op.create_table(
        "credit_grants",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("credits", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        _organization("credit_grants"),
        sa.PrimaryKeyConstraint("id", name="credit_grants_pkey"),
    )
    op.create_index("credit_grants_organization_id_idx", "credit_grants", ["organization_id"])
    op.add_column("organizations", sa.Column("budgets", postgresql.JSONB(astext_type=sa.Text())))
    # Of a deleted worker nothing is left but what it cost.
    op.alter_column("ledger", "worker_id", nullable=True)
    op.alter_column("ledger", "turn_id", nullable=True)
    op.add_column("turns", _count("held_credits"))
    op.add_column("turns", _count("held_nano"))
    op.add_column("turns", sa.Column("held_month", sa.Date()))
