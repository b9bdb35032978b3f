"""The whole schema of our own tables; the engine's tables are the job queue's own.

Rows of a tenant carry `organization_id`, and every query on them names it (see `database.Tenant`).
Money is in nano-dollars (1e-9 USD), so that sums are exact.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
    }
)


def _id() -> Column[str]:
    return Column("id", Text, primary_key=True)


def _organization() -> Column[str]:
    return Column(
        "organization_id",
        Text,
        ForeignKey("organizations.id", ondelete="CASCADE"),
        nullable=False,
    )


def _worker() -> Column[str]:
    return Column("worker_id", Text, ForeignKey("workers.id", ondelete="CASCADE"), nullable=False)


def _turn() -> Column[str]:
    return Column("turn_id", Text, ForeignKey("turns.id", ondelete="CASCADE"), nullable=False)


def _created_at() -> Column[object]:
    return Column(
        "created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")
    )


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _spending() -> tuple[Column[int], ...]:
    """What was used and what it cost; on a turn its own, on a worker that of its ended turns."""
    return (
        _count("steps"),
        _count("input_tokens"),
        _count("output_tokens"),
        _count("reasoning_tokens"),
        _count("cache_read_tokens"),
        _count("cache_write_tokens"),
        _count("model_cost_nano"),
        _count("tool_cost_nano"),
        _count("sandbox_cost_nano"),
        _count("internal_cost_nano"),
    )


organizations = Table(
    "organizations",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    _created_at(),
    # Caps of its own for budget levels, as HANDINGER_BUDGETS has them.
    Column("budgets", JSONB),
)

# Only organizations whose spending is limited have one.
accounts = Table(
    "accounts",
    metadata,
    Column(
        "organization_id",
        Text,
        ForeignKey("organizations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    # What was granted, less what turns have spent and hold in reserve; null: not limited.
    Column("balance_credits", BigInteger),
    Column("monthly_cap_nano", BigInteger),
    # What turns have spent, and hold, in this month (UTC).
    Column("month", Date, nullable=False),
    _count("month_nano"),
)

# Every change of a balance by the operator; rows are added, never changed.
credit_grants = Table(
    "credit_grants",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _organization(),
    Column("credits", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    _created_at(),
    Index(None, "organization_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    _id(),
    _organization(),
    Column("name", Text, nullable=False),
    # SHA-256 of the secret. The secret has 256 random bits, so a slow hash would add nothing.
    Column("secret_hash", LargeBinary, nullable=False, unique=True),
    # The last characters of the secret, so that a person can tell keys apart.
    Column("hint", Text, nullable=False),
    _created_at(),
    Column("revoked_at", DateTime(timezone=True)),
    Index(None, "organization_id"),
)

workers = Table(
    "workers",
    metadata,
    _id(),
    _organization(),
    Column("metadata", JSON, nullable=False),
    Column("model", Text, nullable=False),
    _created_at(),
    _count("credits"),
    _count("duration_ms"),
    *_spending(),
    Index(None, "organization_id", "id"),
)

# A worker has tasks and a task has turns; today every worker has one task.
tasks = Table(
    "tasks",
    metadata,
    _id(),
    _organization(),
    _worker(),
    _created_at(),
    Index(None, "worker_id"),
)

turns = Table(
    "turns",
    metadata,
    _id(),
    _organization(),
    _worker(),
    Column("task_id", Text, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    # The order of acceptance. Turns of one worker are accepted under its row's lock.
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("status", Text, nullable=False),  # pending, running, completed
    Column("source", Text, nullable=False),  # api, schedule, email, agent
    Column("input", Text, nullable=False),
    Column("budget", Text, nullable=False),
    # The files that came with the instruction, see `attachments.Attachment`.
    Column("attachments", JSONB, nullable=False, server_default=text("'[]'")),
    # The mail that it came with and what is proven of its sender, as the wire shows it.
    Column("email", JSONB),
    Column("model", Text),
    # The fence: raised by each claim, named by each write.
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    # The process that executes it.
    Column("node", Text),
    # How many attempts died with their process; a released one did not.
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    Column("released", Boolean, nullable=False, server_default=text("true")),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    _created_at(),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("error", JSONB),
    Column("incomplete_reason", Text),
    *_spending(),
    # The sum of its ledger rows in credits, rounded up.
    _count("credits"),
    # The worst cases of calls that may be under way, see `budgets.Reservation`, and their sum.
    Column("reservations", JSONB),
    _count("reserved_nano"),
    # What its organization's account counts for it, and the month in which it counts the reserve.
    _count("held_credits"),
    _count("held_nano"),
    Column("held_month", Date),
    # How often a model call of the last attempt was repeated; orders the end of the story.
    Column("retry", Integer, nullable=False, server_default=text("0")),
    # Rendered when the turn ends, so that telling a long conversation costs a copy.
    Column("output", JSON),
    Column("assistant_message", JSON),
    # Of one that a mail started, until its answer is written: what it published, as it was then.
    Column("published", JSONB),
    Index(None, "worker_id", "position"),
    Index("turns_published_idx", "worker_id", postgresql_where=text("published IS NOT NULL")),
    Index(
        "turns_unended_idx",
        "worker_id",
        "position",
        postgresql_where=text("status <> 'completed'"),
    ),
    Index("turns_waiting_idx", "id", postgresql_where=text("status = 'pending'")),
    Index(
        "turns_ended_idx",
        "worker_id",
        "ended_at",
        postgresql_where=text("status = 'completed'"),
    ),
)

# The journal: the conversation as the model knows it, one row per model message.
messages = Table(
    "messages",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _organization(),
    _worker(),
    _turn(),
    Column("payload", Text, nullable=False),
    # Of a summary: the last message that it takes the place of, and how many responses of its own
    # turn are among those.
    Column("covers_id", BigInteger),
    Column("covered_responses", Integer, nullable=False, server_default=text("0")),
    Index(None, "worker_id", "id"),
    Index(None, "turn_id"),
    Index(
        "messages_summaries_idx",
        "worker_id",
        "id",
        postgresql_where=text("covers_id IS NOT NULL"),
    ),
)

# Started and finished tools of a turn; a finished one never runs again.
tool_calls = Table(
    "tool_calls",
    metadata,
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    # The model call that asked for it: models reuse ids from one response to the next.
    Column("step", Integer, primary_key=True),
    Column("tool_call_id", Text, primary_key=True),
    _organization(),
    Column("tool_name", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("ended_at", DateTime(timezone=True)),
    Column("result", Text),
)

# The story of a turn as its readers are told it, see `story.Entry`.
entries = Table(
    "entries",
    metadata,
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    _organization(),
    Column("attempt", Integer, nullable=False),
    Column("retry", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("data", JSON, nullable=False),
)

# The manifest of every worker's workspace; the bytes are blobs named by their hash.
files = Table(
    "files",
    metadata,
    Column("worker_id", Text, ForeignKey("workers.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True),
    _organization(),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("published", Boolean, nullable=False),
    Column("executable", Boolean, nullable=False, server_default=text("false")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Index(None, "worker_id", "sha256"),
)

# Pages that a worker fetched or was shown, each once.
sources = Table(
    "sources",
    metadata,
    _id(),
    _organization(),
    _worker(),
    Column("url", Text, nullable=False),
    Column("title", Text),
    _created_at(),
    UniqueConstraint("worker_id", "url"),
)

# Text from outside that has reached a worker, see `turns.taint`; the text itself is in the journal.
untrusted_texts = Table(
    "untrusted_texts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _organization(),
    _worker(),
    _turn(),
    # The model call that asked for it; 0 for what came with the instruction.
    Column("step", Integer, nullable=False),
    Column("origin", Text, nullable=False),
    # Where it was fetched, if it was.
    Column("host", Text),
    # What it names, as `taint.address` writes it.
    Column("addresses", ARRAY(Text), nullable=False),
    _created_at(),
    Index(None, "worker_id"),
    Index(None, "turn_id"),
)

# What was spent, one row for each call; rows are added, never changed, which a trigger sees to. The
# sums on turns and workers are sums over it. It outlives what it was spent on; of what is deleted
# the ids are null.
ledger = Table(
    "ledger",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _organization(),
    Column("worker_id", Text),
    Column("turn_id", Text),
    Column("kind", Text, nullable=False),  # model, tool, sandbox, internal
    # The model's id or the tool's name; "carried over" for what was spent before there were rows.
    Column("subject", Text, nullable=False),
    Column("step", Integer, nullable=False),
    # False: what was really spent is not known, so the worst case was booked.
    Column("settled", Boolean, nullable=False),
    Column("unit_prices", JSON, nullable=False),
    _count("steps"),
    _count("input_tokens"),
    _count("output_tokens"),
    _count("reasoning_tokens"),
    _count("cache_read_tokens"),
    _count("cache_write_tokens"),
    _count("cost_nano"),
    _created_at(),
    Index(None, "organization_id", "created_at"),
    Index(None, "turn_id"),
    Index(None, "worker_id"),
)

# When a turn starts by itself. Its times are those of the database's clock.
schedules = Table(
    "schedules",
    metadata,
    _id(),
    _organization(),
    _worker(),
    Column("created_by", Text, nullable=False),  # api, agent
    Column("status", Text, nullable=False),  # active, paused, finished, cancelled
    Column("input", Text, nullable=False),
    Column("budget", Text, nullable=False),
    # The wire's `when`.
    Column("timing", JSON, nullable=False),
    # From when its intervals count.
    Column("anchored_at", DateTime(timezone=True), nullable=False),
    # The time that it fires for next; of a finished one, that it fired for.
    Column("next_run_at", DateTime(timezone=True), nullable=False),
    # When the alarm looks at it: at next_run_at, or later if it waits for room in its worker's
    # queue. Null: never.
    Column("wake_at", DateTime(timezone=True)),
    Column("last_turn_id", Text),
    # How often it fired or skipped; numbers its firings.
    Column("firings", Integer, nullable=False, server_default=text("0")),
    _created_at(),
    # When it became finished or cancelled.
    Column("ended_at", DateTime(timezone=True)),
    Index("schedules_wake_at_idx", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
    Index(None, "worker_id"),
)

# The last firings of each schedule, those that were skipped too.
firings = Table(
    "firings",
    metadata,
    Column("schedule_id", Text, ForeignKey("schedules.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    _organization(),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("fired_at", DateTime(timezone=True), nullable=False),
    Column("turn_id", Text),
    # Why no turn came of it.
    Column("skipped", Text),
    # How many times it stands for, of which due_at is the first.
    Column("times", Integer, nullable=False, server_default=text("1")),
)

# Bytes that are stored, or about to be; also of workers that are gone or not there yet. What no
# other row names, and nobody used for a while, is garbage.
blobs = Table(
    "blobs",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("sha256", Text, primary_key=True),
    _organization(),
    # When it was stored last, or when a file stopped having it.
    Column("used_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Index(None, "used_at"),
)

# Accepted requests that a retry may join: by key for a day, by likeness for ten minutes.
requests = Table(
    "requests",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _organization(),
    Column("key_id", Text, nullable=False),
    Column("idempotency_key", Text),
    # SHA-256 over method, path and body.
    Column("fingerprint", LargeBinary, nullable=False),
    # What it made: a turn or a schedule.
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="CASCADE")),
    Column("schedule_id", Text, ForeignKey("schedules.id", ondelete="CASCADE")),
    _created_at(),
    Column("delivered_at", DateTime(timezone=True)),
    Index(
        "requests_idempotency_key_idx",
        "organization_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index(None, "organization_id", "fingerprint"),
    Index(None, "created_at"),
    Index(None, "turn_id"),
    Index(None, "schedule_id"),
)

# The address of a worker, made when somebody first asks for it; the token stands behind its `+`.
email_addresses = Table(
    "email_addresses",
    metadata,
    Column("worker_id", Text, ForeignKey("workers.id", ondelete="CASCADE"), primary_key=True),
    _organization(),
    Column("token", Text, nullable=False, unique=True),
    _created_at(),
)

# Whose mail an organization takes; without a row the server's own list holds.
email_settings = Table(
    "email_settings",
    metadata,
    Column(
        "organization_id",
        Text,
        ForeignKey("organizations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("allow", JSONB, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

# Mails that were taken in, whatever became of them; the original is a blob.
inbound_emails = Table(
    "inbound_emails",
    metadata,
    _id(),
    _organization(),
    _worker(),
    Column("turn_id", Text, ForeignKey("turns.id", ondelete="SET NULL")),
    Column("disposition", Text, nullable=False),  # see `email.loops.Disposition`
    Column("envelope_sender", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("sender_name", Text, nullable=False),
    Column("subject", Text, nullable=False),
    # The same for each copy of a mail: its Message-ID, else a hash.
    Column("identity", Text, nullable=False),
    Column("message_id", Text),
    Column("thread", JSONB, nullable=False),  # the Message-IDs above it, oldest first
    Column("verdict", JSONB),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    _created_at(),
    Index("inbound_emails_identity_idx", "worker_id", "sender", "identity", unique=True),
    Index(None, "worker_id", "id"),
    Index(None, "turn_id"),
)

# The outbox: mails of ours, each delivered once.
outbound_emails = Table(
    "outbound_emails",
    metadata,
    _id(),
    _organization(),
    _worker(),
    _turn(),
    Column("kind", Text, nullable=False),  # reply: to the mail that started the turn; or sent
    Column("sender", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),  # Markdown
    Column("attachments", JSONB, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("in_reply_to", Text),
    Column("thread", JSONB, nullable=False),
    # Mail to the address with this token is about this mail: an answer, or a bounce.
    Column("reply_token", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_attempt_at", DateTime(timezone=True)),
    Column("error", Text),
    _created_at(),
    Column("delivered_at", DateTime(timezone=True)),
    Index(
        "outbound_emails_reply_idx",
        "turn_id",
        unique=True,
        postgresql_where=text("kind = 'reply'"),
    ),
    Index(None, "worker_id", "id"),
    Index(None, "turn_id"),
)

# MCP servers of an organization. `sealed` holds all that it takes to connect, see `mcp_servers`.
mcp_servers = Table(
    "mcp_servers",
    metadata,
    Column(
        "organization_id",
        Text,
        ForeignKey("organizations.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("name", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("may_write", ARRAY(Text), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    _created_at(),
)
