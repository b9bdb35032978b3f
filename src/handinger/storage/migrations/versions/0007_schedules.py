"""Schedules, their firings, and requests that made one."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("budget", sa.Text(), nullable=False),
        sa.Column("timing", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("anchored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_run_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wake_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_turn_id", sa.Text(), nullable=True),
        sa.Column("firings", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name="schedules_organization_id_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.id"], name="schedules_worker_id_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="schedules_pkey"),
    )
    op.create_index(
        "schedules_wake_at_idx",
        "schedules",
        ["wake_at"],
        unique=False,
        postgresql_where=sa.text("wake_at IS NOT NULL"),
    )
    op.create_index("schedules_worker_id_idx", "schedules", ["worker_id"], unique=False)
    op.create_table(
        "firings",
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fired_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("turn_id", sa.Text(), nullable=True),
        sa.Column("skipped", sa.Text(), nullable=True),
        sa.Column("times", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name="firings_organization_id_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name="firings_schedule_id_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule_id", "number", name="firings_pkey"),
    )
    op.add_column("requests", sa.Column("schedule_id", sa.Text(), nullable=True))
    op.alter_column("requests", "turn_id", existing_type=sa.TEXT(), nullable=True)
    op.create_index("requests_schedule_id_idx", "requests", ["schedule_id"], unique=False)
    op.create_foreign_key(
        "requests_schedule_id_fkey",
        "requests",
        "schedules",
        ["schedule_id"],
        ["id"],
        ondelete="CASCADE",
    )
