"""The files that a turn published are kept as they were until its answer is written."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE turns ADD COLUMN published jsonb")
    op.execute("CREATE INDEX turns_published_idx ON turns (worker_id) WHERE published IS NOT NULL")
