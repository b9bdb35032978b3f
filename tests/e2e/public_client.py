"""Drives a running server with the published Python client of this API; prints what it saw as JSON.

Run in a virtual environment of its own: the client's import name is the same as ours.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import handinger
from handinger import AsyncHandinger, Handinger


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
    schedules = use_schedules(client, created.id)
    seen = {
        "created": json.loads(created.to_json()),
        "retrieved": json.loads(retrieved.to_json()),
        "continued": json.loads(continued.to_json()),
        "updates": updates,
        "file": file.decode(),
        "email": client.workers.retrieve_email(created.id),
        "errors": refusals(client, created.id),
        "schedules": schedules,
        "raw": use_raw_answers(client, created.id),
        "streamed": use_streamed_answers(client, created.id),
        "async": asyncio.run(use_asyncio(base_url, api_key)),
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


def refusals(client: Handinger, worker_id: str) -> list[str]:
    """The classes of what is raised for a wrong request of each kind."""
    nobody = client.with_options(api_key="hdg_live_" + "0" * 43)
    wrong: list[Any] = [
        lambda: client.workers.retrieve("wrk_" + "0" * 32),
        lambda: client.workers.create(input=" "),
        lambda: nobody.workers.retrieve(worker_id),
        lambda: client.workers.retrieve_file("missing.txt", worker_id=worker_id),
        lambda: client.workers.schedules.cancel("sch_" + "0" * 32, worker_id=worker_id),
    ]
    raised = []
    for act in wrong:
        try:
            act()
        except handinger.APIStatusError as error:
            raised.append(type(error).__name__)
        else:
            raised.append("nothing was raised")
    return raised


def use_raw_answers(client: Handinger, worker_id: str) -> dict[str, Any]:
    """Each method once more, for its headers."""
    methods = client.workers.with_raw_response
    made = methods.schedules.create(
        worker_id, input="Tick.", when={"type": "delayed", "delay_in_seconds": 7200}
    )
    answers = [
        methods.create(input="[[script:more]] Once more."),
        methods.continue_(worker_id, input="[[script:more]] Once more."),
        methods.retrieve(worker_id),
        methods.retrieve_email(worker_id),
        methods.retrieve_file("haiku.md", worker_id=worker_id),
        made,
        methods.schedules.list(worker_id),
        methods.schedules.cancel(made.parse().id, worker_id=worker_id),
    ]
    return {
        "parsed": [type(answer.parse()).__name__ for answer in answers],
        "named": all(answer.headers.get("x-request-id") for answer in answers),
    }


def use_streamed_answers(client: Handinger, worker_id: str) -> dict[str, Any]:
    """The events of a turn as they come, and a file that is written to disk."""
    methods = client.workers.with_streaming_response
    with methods.create(input="[[script:more]] Go.", stream=True) as answer:
        created = [
            json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")
        ]
    with methods.continue_(worker_id, input="[[script:more]] Go.", stream=True) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    with methods.retrieve_file("haiku.md", worker_id=worker_id) as answer:
        answer.stream_to_file("copy.md")
    with open("copy.md") as copy:
        return {
            "created": [event["type"] for event in created],
            "continued": json.loads(lines[-1][6:])["type"],
            "copy": copy.read(),
        }


async def use_asyncio(base_url: str, api_key: str) -> dict[str, Any]:
    """Every method of the other client."""
    async with AsyncHandinger(base_url=base_url, api_key=api_key) as client:
        created = await client.workers.create(input="[[script:haiku]] Write.", budget="low")
        continued = await client.workers.continue_(created.id, input="[[script:more]] More.")
        retrieved = await client.workers.retrieve(created.id)
        async with await client.workers.stream_updates(created.id) as stream:
            updates = [update async for update in stream]
        file = await client.workers.retrieve_file("haiku.md", worker_id=created.id)
        of = client.workers.schedules
        when: Any = {"type": "interval", "interval_seconds": 86_400}
        made = await of.create(created.id, input="Tick.", when=when)
        listed = await of.list(created.id)
        cancelled = await of.cancel(made.id, worker_id=created.id)
        return {
            "texts": [created.output_text, continued.output_text, retrieved.output_text],
            "updates": len(updates),
            "file": (await file.read()).decode(),
            "email": await client.workers.retrieve_email(created.id),
            "schedules": [made.id == listed.schedules[0].id, cancelled.cancelled],
        }


if __name__ == "__main__":
    main(*sys.argv[1:])
