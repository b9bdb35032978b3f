"""`handinger workers:schedules ...`: instructions that a worker gets by itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from cyclopts import App, Parameter

from handinger.cli import output, wording
from handinger.cli.examples import example
from handinger.cli.parameters import Budget, Given, IdempotencyKey, Input, MaxItems, WorkerId
from handinger.cli.timing import read_when

app = App(name="workers:schedules", help_format="plaintext")


@app.command(name="list", help_epilogue=example('handinger workers:schedules list "$WORKER"'))
def list_(worker_id: WorkerId, *, max_items: MaxItems = None, options: Given) -> None:
    """List what is still to fire, soonest first."""
    with options.client() as client:
        answer = client.workers.schedules.with_raw_response.list(worker_id)
    told = answer.json()
    if max_items is not None:
        told["schedules"] = told["schedules"][:max_items]
    if options.shape() == "jsonl":
        for schedule in told["schedules"]:
            output.write(schedule, options)
    elif max_items is None:
        output.show_answer(answer, options, pretty=lambda: _show_all(told["schedules"]))
    else:
        output.show(told, options, pretty=lambda: _show_all(told["schedules"]))


@app.command(
    help_epilogue=example(
        'handinger workers:schedules create "$WORKER" --input "Compute 6 * 7." --in 10m'
    )
)
def create(
    worker_id: WorkerId,
    *,
    input: Input,
    when: Annotated[
        str | None,
        Parameter(help='JSON or YAML, such as "{type: delayed, delayInSeconds: 60}", or @FILE.'),
    ] = None,
    at: Annotated[
        str | None, Parameter(help="Once, then: an ISO date and time; in UTC without an offset.")
    ] = None,
    after: Annotated[
        str | None, Parameter(name="--in", help="Once, after so long: 90s, 10m, 1h30m, 2d.")
    ] = None,
    cron: Annotated[
        str | None, Parameter(help='Again and again: five cron fields, such as "0 9 * * 1-5".')
    ] = None,
    timezone: Annotated[
        str | None, Parameter(help="Whose clock --cron means. [default: UTC]")
    ] = None,
    every: Annotated[str | None, Parameter(help="Again and again, every so long: 1h.")] = None,
    budget: Budget = "standard",
    idempotency_key: IdempotencyKey = None,
    options: Given,
) -> None:
    """Give a worker an instruction at a time, after a while, or again and again."""
    timing = read_when(when=when, at=at, after=after, cron=cron, timezone=timezone, every=every)
    with options.client() as client:
        answer = client.workers.schedules.with_raw_response.create(
            worker_id,
            input=input,
            when=timing,
            budget=budget,
            idempotency_key=idempotency_key,
        )
    output.show_answer(answer, options, pretty=lambda: _show_all([answer.json()]))


@app.command(help_epilogue=example('handinger workers:schedules cancel "$WORKER" "$SCHEDULE"'))
def cancel(
    worker_id: WorkerId,
    schedule_id: Annotated[str, Parameter(help="The schedule's id.")],
    *,
    options: Given,
) -> None:
    """Cancel a schedule: it does not fire any more."""
    with options.client() as client:
        answer = client.workers.schedules.with_raw_response.cancel(schedule_id, worker_id=worker_id)
    output.show_answer(
        answer, options, pretty=lambda: output.note(f"Cancelled {wording.printable(schedule_id)}.")
    )


def _show_all(schedules: list[Any]) -> None:
    from handinger.cli import pretty

    table = (
        (
            str(schedule.get("id")),
            _rule(schedule),
            _moment(schedule.get("nextRunAt")),
            str(schedule.get("budget")),
            wording.one_line(str(schedule.get("input")), limit=60),
        )
        for schedule in schedules
    )
    console = pretty.stdout()
    if schedules:
        console.print(pretty.rows(table, "schedule", "when", "next", "budget", "input"))
    else:
        console.print("No schedules.")


def _moment(at: str | None) -> str:
    return "" if at is None else wording.moment(datetime.fromisoformat(at))


def _rule(schedule: dict[str, Any]) -> str:
    if schedule.get("error"):
        return "cannot be read"
    match schedule.get("type"):
        case "cron":
            return f"{schedule.get('cron')} {schedule.get('timezone') or 'UTC'}"
        case "interval":
            return f"every {wording.span(schedule.get('intervalSeconds', 0))}"
        case "delayed":
            return f"once, after {wording.span(schedule.get('delayInSeconds', 0))}"
        case kind:
            return "once" if kind == "scheduled" else str(kind)
