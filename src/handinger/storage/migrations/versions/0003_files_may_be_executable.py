"""Files of a workspace may be executable."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "files",
        sa.Column("executable", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
