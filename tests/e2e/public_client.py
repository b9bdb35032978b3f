"""Drives a running server with the published Python client of this API; prints what it saw as JSON.

Run in a virtual environment of its own: the client's import name is the same as ours.
"""

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from handinger import Handinger


def main(base_url: str, api_key: str) -> None:
    client = Handinger(base_url=base_url, api_key=api_key, _strict_response_validation=True)
    created = client.workers.create(input="[[script:haiku]] Write a haiku.", budget="low")
    retrieved = client.workers.retrieve(created.id)
    continued = client.workers.continue_(created.id, input="[[script:more]] Once more.")
    # This client declares stream events as strings, which no JSON object is, so not strictly.
    lenient = Handinger(base_url=base_url, api_key=api_key)
    with lenient.workers.stream_updates(created.id) as stream:
        updates = list(stream)
    file = client.workers.retrieve_file("haiku.md", worker_id=created.id).read()
    try:
        client.workers.retrieve("wrk_" + "0" * 32)
    except Exception as error:
        missing = type(error).__name__
    else:
        missing = "nothing was raised"
    schedules = use_schedules(client, created.id)
    seen = {
        "created": json.loads(created.to_json()),
        "retrieved": json.loads(retrieved.to_json()),
        "continued": json.loads(continued.to_json()),
        "updates": updates,
        "file": file.decode(),
        "missing": missing,
        "schedules": schedules,
    }
    json.dump(seen, sys.stdout)


def use_schedules(client: Handinger, worker_id: str) -> dict[str, Any]:
    """Make one of each type, list them, cancel them all, and list what is left."""
    of = client.workers.schedules
    whens: list[Any] = [
        {"type": "delayed", "delay_in_seconds": 7200},
        {"type": "interval", "interval_seconds": 86_400},
        {"type": "scheduled", "date": datetime.now(UTC) + timedelta(days=400)},
        {"type": "cron", "cron": "0 9 * * MON"},
    ]
    made = [of.create(worker_id, input="Tick.", when=when, budget="low") for when in whens]
    listed = of.list(worker_id)
    cancelled = [of.cancel(one.id, worker_id=worker_id).cancelled for one in made]
    return {
        "made": [json.loads(one.to_json()) for one in made],
        "listed": json.loads(listed.to_json()),
        "cancelled": cancelled,
        "left": len(of.list(worker_id).schedules),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
