"""The one table of jobs: name to handler."""

from collections.abc import Mapping

from handinger.agent.runner import Runner
from handinger.email.outbox import DELIVER_EMAIL
from handinger.email.sending import Sending
from handinger.engine import Handler
from handinger.schedules.changing import FIRE_SCHEDULES
from handinger.schedules.firing import Alarm
from handinger.turns.accept import RUN_WORKER
from handinger.turns.endings import TURN_ENDED


def handlers(runner: Runner, alarm: Alarm, sending: Sending) -> Mapping[str, Handler]:
    """What this process does when a job of that name is its turn."""
    return {
        RUN_WORKER: runner.drain,
        FIRE_SCHEDULES: alarm.go_off,
        TURN_ENDED: sending.answer,
        DELIVER_EMAIL: sending.deliver,
    }
