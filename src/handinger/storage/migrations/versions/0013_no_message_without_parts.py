"""A turn in which the agent did nothing has no message of it."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "UPDATE turns SET assistant_message = NULL"
        " WHERE json_array_length(assistant_message->'parts') = 0"
    )
