"""The durable job queue: enqueue by name, run, rescue. It knows no noun of the product."""

from handinger.engine.queue import Engine, Handler, drop_waiting, enqueue

__all__ = ["Engine", "Handler", "drop_waiting", "enqueue"]
