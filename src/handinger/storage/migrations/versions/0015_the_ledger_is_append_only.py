"""Rows of the ledger are never changed: the database itself sees to that."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of a worker that is deleted nothing is left but what it cost.
    op.execute(
        """
        CREATE FUNCTION handinger_ledger_stands() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            ids CONSTANT text[] := '{worker_id,turn_id}';
        BEGIN
            IF TG_OP = 'UPDATE' AND NEW.worker_id IS NULL AND NEW.turn_id IS NULL
                AND to_jsonb(NEW) - ids = to_jsonb(OLD) - ids
            THEN
                RETURN NEW;
            END IF;
            RAISE EXCEPTION 'Rows of the ledger are added, never changed or removed.';
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER handinger_ledger_stands BEFORE UPDATE OR DELETE ON ledger FOR EACH ROW"
        " EXECUTE FUNCTION handinger_ledger_stands()"
    )
    op.execute(
        "CREATE TRIGGER handinger_ledger_stays BEFORE TRUNCATE ON ledger FOR EACH STATEMENT"
        " EXECUTE FUNCTION handinger_ledger_stands()"
    )
