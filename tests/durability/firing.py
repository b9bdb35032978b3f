"""Schedules of a server that is to be killed, and what they have started."""

from typing import Any

from tests.durability.observing import Observer
from tests.durability.stand import client
from tests.support.server import HandingerServer

ONCE = {"type": "delayed", "delayInSeconds": 1}


def schedule_on(server: HandingerServer, worker_id: str, when: Any) -> dict[str, Any]:
    """A new schedule of a worker, whose turns say "tock"."""
    with client(server) as http:
        answer = http.post(
            f"/api/workers/{worker_id}/schedules",
            json={"input": "[[script:tick]] Go.", "when": when},
        )
    assert answer.status_code == 200, answer.text
    return answer.json()


def fired(observer: Observer, schedule_id: str) -> list[str]:
    """The turns that a schedule has started."""
    rows = observer.rows(
        "SELECT turn_id FROM firings WHERE schedule_id = %s AND turn_id IS NOT NULL"
        " ORDER BY number",
        schedule_id,
    )
    return [str(row[0]) for row in rows]
