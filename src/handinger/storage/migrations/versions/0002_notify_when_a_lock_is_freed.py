"""A job that waits for its lock is told when the lock is free.

The queue's own notice came when the job was inserted, while the lock was still held, and the next
look would be the slow poll's. Databases of before this migration have an earlier form of it, made
with the queue's tables.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The advisory lock is `engine.enqueue`'s: a job that is inserted at this moment is either seen
    # here, or is inserted when the end of the old one is committed.
    op.execute("""
CREATE OR REPLACE FUNCTION handinger_notify_lock_freed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    waiting procrastinate_jobs;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(OLD.lock, 0));
    SELECT * INTO waiting FROM procrastinate_jobs
        WHERE lock = OLD.lock AND status = 'todo' AND id <> OLD.id
          AND (scheduled_at IS NULL OR scheduled_at <= now())
        LIMIT 1;
    IF FOUND THEN
        PERFORM pg_notify('procrastinate_any_queue_v1',
            json_build_object('type', 'job_inserted', 'job_id', waiting.id)::text);
    END IF;
    RETURN NULL;
END;
$$
""")
    op.execute("""
CREATE OR REPLACE TRIGGER handinger_notify_lock_freed_on_delete
    AFTER DELETE ON procrastinate_jobs FOR EACH ROW
    WHEN (OLD.lock IS NOT NULL AND OLD.status = 'doing')
    EXECUTE FUNCTION handinger_notify_lock_freed()
""")
    op.execute("""
CREATE OR REPLACE TRIGGER handinger_notify_lock_freed_on_finish
    AFTER UPDATE OF status ON procrastinate_jobs FOR EACH ROW
    WHEN (OLD.lock IS NOT NULL AND OLD.status = 'doing' AND NEW.status <> 'doing')
    EXECUTE FUNCTION handinger_notify_lock_freed()
""")
