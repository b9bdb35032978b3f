"""Blobs are noted, so that those which nothing names can be removed."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column(
            "used_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name="blobs_organization_id_fkey",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("worker_id", "sha256", name="blobs_pkey"),
    )
    op.create_index("blobs_used_at_idx", "blobs", ["used_at"], unique=False)
    op.create_index("files_worker_id_sha256_idx", "files", ["worker_id", "sha256"], unique=False)
    for table in ("files", "inbound_emails"):
        op.execute(
            "INSERT INTO blobs (worker_id, sha256, organization_id)"
            f" SELECT DISTINCT worker_id, sha256, organization_id FROM {table}"
            " ON CONFLICT DO NOTHING"
        )
    # Whoever reads a file that is replaced meanwhile has time to finish.
    op.execute(
        """
        CREATE FUNCTION handinger_file_let_go() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE blobs SET used_at = now()
            WHERE worker_id = OLD.worker_id AND sha256 = OLD.sha256 AND used_at < now();
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER handinger_file_replaced AFTER UPDATE ON files FOR EACH ROW"
        " WHEN (OLD.sha256 <> NEW.sha256) EXECUTE FUNCTION handinger_file_let_go()"
    )
    op.execute(
        "CREATE TRIGGER handinger_file_removed AFTER DELETE ON files FOR EACH ROW"
        " EXECUTE FUNCTION handinger_file_let_go()"
    )
