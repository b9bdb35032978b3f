"""What sleeping schedules cost, how late one fires, and how fast many at once become turns."""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import httpx2
import psycopg

from benchmarks import stage as stages
from benchmarks.report import Bound, Part, Row
from benchmarks.stage import Serving, Stage
from handinger.storage.embedded import EmbeddedPostgres

SCHEDULES = 10_000
A_WORKER = 20  # so many turns may wait for one
LOOKS = 6
PATIENCE_S = 600

_INSERT = (
    "INSERT INTO schedules (id, organization_id, worker_id, created_by, status, input, budget,"
    " timing, anchored_at, next_run_at, wake_at) SELECT 'sch_' || md5(w.id || n),"
    " w.organization_id, w.id, 'api', 'active', %(input)s, 'low',"
    """ '{"type": "interval", "intervalSeconds": 86400}', now(), now() + interval '1 day',"""
    " now() + interval '1 day' FROM unnest(%(workers)s::text[]) id JOIN workers w USING (id),"
    " generate_series(1, %(each)s) n"
)


def run(stage: Stage) -> Part:
    """One fresh server goes through all of it."""
    part = Part("schedules", "asleep, one at a time, and many due at once")
    text = stage.script_text("tick", chunks=10)
    count = stage.count(SCHEDULES, quick=1_000)
    with stage.fresh_server() as serving:
        turns = serving.turns(
            "turns",
            prompt=stages.prompt("tick"),
            expected=text,
            count=count // A_WORKER + 1,
            concurrency=16,
        )
        part.notes.append(stages.require_right(turns))
        postgres = EmbeddedPostgres.join(serving.server.data_dir)
        try:
            with psycopg.connect(postgres.url, autocommit=True) as database:
                spare, *workers = (row[0] for row in database.execute("SELECT id FROM workers"))
                part.rows += _asleep(stage, serving, database, workers)
                part.rows += _one_at_a_time(stage, serving, spare)
                part.rows += _at_once(serving, database, spare, count)
        finally:
            postgres.leave()
    part.notes.append(
        "Those asleep are put into the database; each of the others is made over HTTP. Each that "
        "was due fired once. What runs are the server's own turns, beside the firing."
    )
    return part


def _asleep(
    stage: Stage, serving: Serving, database: psycopg.Connection, workers: Sequence[str]
) -> Sequence[Row]:
    seconds = stage.count(5, quick=1)
    none = [stages.idle_cpu_ms(serving, seconds=seconds) for _ in range(LOOKS)]
    none_mb = serving.rss_mb
    given = {"input": stages.prompt("tick"), "workers": list(workers), "each": A_WORKER}
    count = database.execute(_INSERT, given).rowcount
    assert count == len(workers) * A_WORKER
    asleep: list[tuple[float, float]] = []
    asleep_mb: list[float] = []
    for _ in range(LOOKS):
        asleep.append(stages.idle_cpu_ms(serving, seconds=seconds))
        asleep_mb.append(serving.rss_mb)
    none_ms, none_pg_ms = zip(*none, strict=True)
    asleep_ms, asleep_pg_ms = zip(*asleep, strict=True)
    both = [server + postgres for server, postgres in asleep]
    more_ms = stages.differences(both, [server + postgres for server, postgres in none])
    more_mb = stages.differences(asleep_mb, [none_mb])
    return [
        Row("server CPU a second, no schedule", "ms", none_ms),
        Row(f"server CPU a second, {count} asleep", "ms", asleep_ms, none_ms),
        Row("PostgreSQL CPU a second, no schedule", "ms", none_pg_ms),
        Row(f"PostgreSQL CPU a second, {count} asleep", "ms", asleep_pg_ms, none_pg_ms),
        Row(
            "both together, those above none (1 % of a core)",
            "ms",
            more_ms,
            bound=Bound(at_most=10),
        ),
        Row("resident memory of those above none", "MB", more_mb, bound=Bound(at_most=2)),
    ]


def _one_at_a_time(stage: Stage, serving: Serving, worker_id: str) -> Sequence[Row]:
    """Beside those that sleep; each is due when nothing else is."""
    late_ms: list[float] = []
    for _ in range(stage.count(20, quick=5)):
        due, fired = _fire_one(serving, worker_id)
        late_ms.append((fired - due) / timedelta(milliseconds=1))
    return [Row("lateness of a firing", "ms", late_ms, bound=Bound(at_most=600))]


def _fire_one(serving: Serving, worker_id: str) -> tuple[datetime, datetime]:
    """When one was due that was made now, and when it was fired."""
    server = serving.server
    with httpx2.Client(base_url=server.base_url, headers=server.headers, verify=False) as http:
        path = f"/api/workers/{worker_id}/schedules"
        when = {"type": "delayed", "delayInSeconds": 1}
        made = http.post(path, json={"input": stages.prompt("tick"), "when": when})
        assert made.status_code == 200, made.text
        deadline = time.monotonic() + PATIENCE_S
        while not (firings := http.get(f"{path}/{made.json()['id']}").json()["firings"]):
            assert time.monotonic() < deadline, "it did not fire"
            time.sleep(0.05)
    (firing,) = firings
    assert firing["turnId"], firing
    return datetime.fromisoformat(firing["dueAt"]), datetime.fromisoformat(firing["firedAt"])


def _at_once(
    serving: Serving, database: psycopg.Connection, spare: str, count: int
) -> Sequence[Row]:
    """All that slept are due, and one that is made now wakes the alarm."""
    database.execute(
        "UPDATE schedules SET next_run_at = now(), wake_at = now() WHERE wake_at IS NOT NULL"
    )
    began, _ = _fire_one(serving, spare)
    deadline = time.monotonic() + PATIENCE_S
    while (fired := _fired(database))[0] < count:
        assert time.monotonic() < deadline, f"{fired[0]} of {count} fired"
        time.sleep(0.2)
    assert fired[0] == count, f"{fired[0]} firings of {count} schedules"
    rate = count / (fired[1] - began).total_seconds()
    label = f"turns accepted of {count} due at once"
    return [
        Row(label, "1/s", [rate], bound=Bound(at_least=150)),
        Row("  how late each of those was", "ms", _late_ms(database)),
    ]


def _late_ms(database: psycopg.Connection) -> list[float]:
    rows = database.execute(
        "SELECT extract(epoch FROM f.fired_at - f.due_at) * 1000 FROM firings f"
        " JOIN schedules s ON s.id = f.schedule_id"
        " WHERE s.timing->>'type' = 'interval' AND f.turn_id IS NOT NULL"
    )
    return [float(row[0]) for row in rows]


def _fired(database: psycopg.Connection) -> tuple[int, datetime]:
    """How many turns the recurring ones have started, and when the last."""
    row = database.execute(
        "SELECT count(*), max(f.fired_at) FROM firings f JOIN schedules s ON s.id = f.schedule_id"
        " WHERE s.timing->>'type' = 'interval' AND f.turn_id IS NOT NULL"
    ).fetchone()
    assert row is not None
    return row
