"""kill -9 before, between and after the steps of a firing: exactly one turn each."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.durability.firing import ONCE, fired, schedule_on
from tests.durability.holding import Write
from tests.durability.observing import Observer, wait_for
from tests.durability.stand import Stand, client, killed_in
from tests.support.model_server import Step


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where the server is killed."""

    name: str
    write: Write
    # Much like another one, so that the default run can do without it.
    slow: bool = False


# The job of the alarm is taken; the turn, its job, the schedule and the firing are stored in one
# transaction; the alarm's job is removed. The first job that is inserted is the alarm's own.
BOUNDARIES = [
    Boundary("before the alarm is taken", Write("procrastinate_jobs", "UPDATE"), slow=True),
    Boundary(
        "the alarm taken, nothing fired", Write("procrastinate_jobs", "UPDATE", committed=True)
    ),
    Boundary("before the turn is stored", Write("turns", "INSERT"), slow=True),
    Boundary("before its job is stored", Write("procrastinate_jobs", "INSERT", 2), slow=True),
    Boundary("before the schedule is stored", Write("schedules", "UPDATE"), slow=True),
    Boundary("before the firing is stored", Write("firings", "INSERT"), slow=True),
    Boundary("all stored, not told", Write("firings", "INSERT", committed=True)),
    Boundary("before a job is removed", Write("procrastinate_jobs", "DELETE"), slow=True),
    Boundary("a job removed", Write("procrastinate_jobs", "DELETE", committed=True), slow=True),
]


@pytest.mark.parametrize(
    "boundary",
    [
        pytest.param(boundary, id=boundary.name, marks=[pytest.mark.slow] if boundary.slow else [])
        for boundary in BOUNDARIES
    ],
)
def test_a_server_killed_in_a_firing_fires_exactly_once(stand: Stand, boundary: Boundary) -> None:
    stand.model.script("tick", [Step(text="tock")])
    worker_id = stand.new_worker()
    with killed_in(stand, boundary.write):
        schedule = schedule_on(stand.server, worker_id, ONCE)
    stand.start()
    require_one_firing(stand.observer, worker_id, schedule)
    assert stand.get(worker_id).json()["output_text"] == "tock"


def test_a_recurring_one_goes_on_although_its_alarm_was_not_set_again(stand: Stand) -> None:
    stand.model.script("tick", [Step(text="tock")], after_last="repeat")
    worker_id = stand.new_worker()
    every_second = {"type": "interval", "intervalSeconds": 1}
    # The jobs that are inserted are the alarm's, the turn's, and the alarm's for the next time.
    with killed_in(stand, Write("procrastinate_jobs", "INSERT", 3)):
        schedule = schedule_on(stand.server, worker_id, every_second)
    before = fired(stand.observer, schedule["id"])
    stand.start()
    wait_for(
        lambda: len(fired(stand.observer, schedule["id"])) >= len(before) + 2, "two more firings"
    )
    with client(stand.server) as http:
        path = f"/api/workers/{worker_id}/schedules/{schedule['id']}"
        assert http.delete(path).status_code == 200
    stand.observer.wait_until_idle()
    rows = stand.observer.rows(
        "SELECT due_at, turn_id FROM firings WHERE schedule_id = %s ORDER BY number",
        schedule["id"],
    )
    due = [row[0] for row in rows]
    assert len(set(due)) == len(due)
    turns = [row[1] for row in rows if row[1] is not None]
    assert turns == stand.observer.turns(worker_id)[1:]
    assert turns[: len(before)] == before


def require_one_firing(observer: Observer, worker_id: str, schedule: dict[str, Any]) -> None:
    """Of a schedule that fires once, and its one turn, which ended."""
    wait_for(lambda: fired(observer, schedule["id"]), "the firing")
    observer.wait_until_idle()
    (turn_id,) = observer.turns(worker_id)[1:]
    assert observer.rows(
        "SELECT turn_id, skipped FROM firings WHERE schedule_id = %s", schedule["id"]
    ) == [(turn_id, None)]
    assert observer.rows("SELECT status, wake_at FROM schedules WHERE id = %s", schedule["id"]) == [
        ("finished", None)
    ]
