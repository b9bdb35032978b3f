"""Mail: addresses, whose mail is taken, what came in, and the outbox."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _belongs_to(table: str, column: str, owner: str, ondelete: str = "CASCADE") -> sa.Constraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{owner}.id"], name=f"{table}_{column}_fkey", ondelete=ondelete
    )


def _moment(name: str, *, now: bool = False) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text("now()") if now else None,
        nullable=not now,
    )


def _text(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[str]:
    server_default = None if default is None else sa.text(default)
    return sa.Column(name, sa.Text(), nullable=nullable, server_default=server_default)


def upgrade() -> None:
    op.add_column("turns", sa.Column("email", JSONB(), nullable=True))
    op.create_table(
        "email_addresses",
        _text("worker_id"),
        _text("organization_id"),
        _text("token"),
        _moment("created_at", now=True),
        sa.PrimaryKeyConstraint("worker_id", name="email_addresses_pkey"),
        sa.UniqueConstraint("token", name="email_addresses_token_key"),
        _belongs_to("email_addresses", "worker_id", "workers"),
        _belongs_to("email_addresses", "organization_id", "organizations"),
    )
    op.create_table(
        "email_settings",
        _text("organization_id"),
        sa.Column("allow", JSONB(), nullable=False),
        _moment("updated_at", now=True),
        sa.PrimaryKeyConstraint("organization_id", name="email_settings_pkey"),
        _belongs_to("email_settings", "organization_id", "organizations"),
    )
    op.create_table(
        "inbound_emails",
        _text("id"),
        _text("organization_id"),
        _text("worker_id"),
        _text("turn_id", nullable=True),
        _text("disposition"),
        _text("envelope_sender"),
        _text("recipient"),
        _text("sender"),
        _text("sender_name"),
        _text("subject"),
        _text("identity"),
        _text("message_id", nullable=True),
        sa.Column("thread", JSONB(), nullable=False),
        sa.Column("verdict", JSONB(), nullable=True),
        _text("sha256"),
        sa.Column("size", sa.BigInteger(), nullable=False),
        _moment("created_at", now=True),
        sa.PrimaryKeyConstraint("id", name="inbound_emails_pkey"),
        _belongs_to("inbound_emails", "organization_id", "organizations"),
        _belongs_to("inbound_emails", "worker_id", "workers"),
        _belongs_to("inbound_emails", "turn_id", "turns", ondelete="SET NULL"),
    )
    op.create_index(
        "inbound_emails_identity_idx",
        "inbound_emails",
        ["worker_id", "sender", "identity"],
        unique=True,
    )
    op.create_index("inbound_emails_worker_id_id_idx", "inbound_emails", ["worker_id", "id"])
    op.create_index("inbound_emails_turn_id_idx", "inbound_emails", ["turn_id"])
    op.create_table(
        "outbound_emails",
        _text("id"),
        _text("organization_id"),
        _text("worker_id"),
        _text("turn_id"),
        _text("kind"),
        _text("sender"),
        _text("recipient"),
        _text("subject"),
        _text("body"),
        sa.Column("attachments", JSONB(), nullable=False),
        _text("message_id"),
        _text("in_reply_to", nullable=True),
        sa.Column("thread", JSONB(), nullable=False),
        _text("reply_token"),
        _text("status", default="'pending'"),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _moment("next_attempt_at"),
        _text("error", nullable=True),
        _moment("created_at", now=True),
        _moment("delivered_at"),
        sa.PrimaryKeyConstraint("id", name="outbound_emails_pkey"),
        sa.UniqueConstraint("reply_token", name="outbound_emails_reply_token_key"),
        _belongs_to("outbound_emails", "organization_id", "organizations"),
        _belongs_to("outbound_emails", "worker_id", "workers"),
        _belongs_to("outbound_emails", "turn_id", "turns"),
    )
    op.create_index(
        "outbound_emails_reply_idx",
        "outbound_emails",
        ["turn_id"],
        unique=True,
        postgresql_where=sa.text("kind = 'reply'"),
    )
    op.create_index("outbound_emails_worker_id_id_idx", "outbound_emails", ["worker_id", "id"])
    op.create_index("outbound_emails_turn_id_idx", "outbound_emails", ["turn_id"])
