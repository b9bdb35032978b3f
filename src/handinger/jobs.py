"""The one table of jobs: name to handler."""

from collections.abc import Mapping

from handinger.agent.runner import Runner
from handinger.engine import Handler
from handinger.schedules.changing import FIRE_SCHEDULES
from handinger.schedules.firing import Alarm
from handinger.turns.accept import RUN_WORKER


def handlers(runner: Runner, alarm: Alarm) -> Mapping[str, Handler]:
    """What this process does when a job of that name is its turn."""
    return {RUN_WORKER: runner.drain, FIRE_SCHEDULES: alarm.go_off}
