"""`handinger workers:schedules ...`: instructions that a worker gets by itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

from cyclopts import App, Parameter

from handinger.cli import output, timing, wording
from handinger.cli.examples import example
from handinger.cli.failures import CommandError
from handinger.cli.listing import require_some
from handinger.cli.parameters import (
    Budget,
    BudgetName,
    Given,
    IdempotencyKey,
    Input,
    MaxItems,
    WorkerId,
)

app = App(name="workers:schedules", help_format="plaintext")

ScheduleId: TypeAlias = Annotated[str, Parameter(help="The schedule's id.")]


@app.command(name="list", help_epilogue=example('handinger workers:schedules list "$WORKER"'))
def list_(worker_id: WorkerId, *, max_items: MaxItems = None, options: Given) -> None:
    """List what is still to fire, soonest first."""
    require_some(max_items)
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
    when: timing.When = None,
    at: timing.At = None,
    after: timing.After = None,
    cron: timing.Cron = None,
    timezone: timing.Timezone = None,
    every: timing.Every = None,
    budget: Budget = "standard",
    idempotency_key: IdempotencyKey = None,
    options: Given,
) -> None:
    """Give a worker an instruction at a time, after a while, or again and again."""
    said = timing.read_when(
        when=when, at=at, after=after, cron=cron, timezone=timezone, every=every
    )
    if said is None:
        raise CommandError(f"Nothing says when: give one of {timing.OPTIONS}.")
    with options.client() as client:
        answer = client.workers.schedules.with_raw_response.create(
            worker_id,
            input=input,
            when=said,
            budget=budget,
            idempotency_key=idempotency_key,
        )
    output.show_answer(answer, options, pretty=lambda: _show_all([answer.json()]))


@app.command(help_epilogue=example('handinger workers:schedules retrieve "$WORKER" "$SCHEDULE"'))
def retrieve(worker_id: WorkerId, schedule_id: ScheduleId, *, options: Given) -> None:
    """Show a schedule, its last firings and its next times."""
    with options.client() as client:
        answer = client.workers.schedules.with_raw_response.retrieve(
            schedule_id, worker_id=worker_id
        )
    output.show_answer(answer, options, pretty=lambda: _show_one(answer.json()))


@app.command(
    help_epilogue=example('handinger workers:schedules update "$WORKER" "$SCHEDULE" --pause')
)
def update(
    worker_id: WorkerId,
    schedule_id: ScheduleId,
    *,
    input: Input | None = None,
    when: timing.When = None,
    at: timing.At = None,
    after: timing.After = None,
    cron: timing.Cron = None,
    timezone: timing.Timezone = None,
    every: timing.Every = None,
    budget: Annotated[
        BudgetName | None, Parameter(help="The hard cap of each of its turns.")
    ] = None,
    pause: Annotated[
        bool | None,
        Parameter(negative="--resume", help="Fire nothing for now, or go on.", show_default=False),
    ] = None,
    options: Given,
) -> None:
    """Change a schedule: what is given, and nothing else."""
    said = timing.read_when(
        when=when, at=at, after=after, cron=cron, timezone=timezone, every=every
    )
    if input is None and said is None and budget is None and pause is None:
        raise CommandError(
            f"Nothing is to change: give --input, --budget, --pause, --resume or {timing.OPTIONS}."
        )
    with options.client() as client:
        answer = client.workers.schedules.with_raw_response.update(
            schedule_id,
            worker_id=worker_id,
            input=input,
            when=said,
            budget=budget,
            paused=pause,
        )
    output.show_answer(answer, options, pretty=lambda: _show_all([answer.json()]))


@app.command(help_epilogue=example('handinger workers:schedules cancel "$WORKER" "$SCHEDULE"'))
def cancel(worker_id: WorkerId, schedule_id: ScheduleId, *, options: Given) -> None:
    """Cancel a schedule: it does not fire any more."""
    with options.client() as client:
        answer = client.workers.schedules.with_raw_response.cancel(schedule_id, worker_id=worker_id)
    output.show_answer(answer, options, pretty=lambda: output.note(f"Cancelled {schedule_id}."))


def _show_all(schedules: list[Any]) -> None:
    from handinger.cli import pretty

    table = (
        (
            str(schedule.get("id")),
            _rule(schedule),
            "paused" if schedule.get("paused") else _moment(schedule.get("nextRunAt")),
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


def _show_one(schedule: dict[str, Any]) -> None:
    from handinger.cli import pretty

    _show_all([schedule])
    console = pretty.stdout()
    if error := schedule.get("error"):
        console.print(wording.printable(f"error: {error}"), style="bold red", markup=False)
    if following := schedule.get("nextRuns"):
        console.print("next: " + ", ".join(map(_moment, following)), style="dim")
    told: list[dict[str, Any]] = schedule.get("firings") or []
    firings = [(_moment(firing.get("dueAt")), _outcome(firing)) for firing in told]
    if firings:
        console.print()
        console.print(pretty.rows(firings, "was due", "what came of it"))


def _outcome(firing: dict[str, Any]) -> str:
    """The turn that it started, or why it started none."""
    if (skipped := firing.get("skipped")) is None:
        return str(firing.get("turnId"))
    times = skipped.get("times", 1)
    how_often = f", {times} times" if times > 1 else ""
    return f"{skipped.get('reason')}{how_often}: {wording.one_line(str(skipped.get('message')))}"


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
