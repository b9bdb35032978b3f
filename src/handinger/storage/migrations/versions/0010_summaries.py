"""A summary may take the place of earlier messages."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("covers_id", sa.BigInteger(), nullable=True))
    op.add_column(
        "messages",
        sa.Column("covered_responses", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
    op.create_index(
        "messages_summaries_idx",
        "messages",
        ["worker_id", "id"],
        unique=False,
        postgresql_where=sa.text("covers_id IS NOT NULL"),
    )
