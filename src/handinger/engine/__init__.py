"""The durable job queue: enqueue by name, run, rescue. It knows no noun of the product."""

from handinger.engine.queue import (
    ENQUEUE_NEW,
    SEAT_NEW,
    SHORT_QUEUE,
    Engine,
    Handler,
    drop_waiting,
    enqueue,
    enqueue_all,
    new_job,
)
from handinger.engine.worker import Seat

__all__ = [
    "ENQUEUE_NEW",
    "SEAT_NEW",
    "SHORT_QUEUE",
    "Engine",
    "Handler",
    "Seat",
    "drop_waiting",
    "enqueue",
    "enqueue_all",
    "new_job",
]
