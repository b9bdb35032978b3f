"""What this process did since its start, in numbers for Prometheus (`GET /metrics`).

No label holds text of a caller's making, nor names an organization: whoever may scrape learns how
busy the server is and what it spends, and nothing about whom it works for.
"""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

# A second series for each counter, which no query of ours needs.
disable_created_metrics()
_registry = CollectorRegistry()
ProcessCollector(registry=_registry)
GCCollector(registry=_registry)

requests = Counter(
    "handinger_http_requests",
    "Requests, by the route's template and the answer's status.",
    ["method", "route", "status"],
    registry=_registry,
)
request_seconds = Histogram(
    "handinger_http_request_seconds",
    "From a request's arrival to the first byte of its answer. A POST that waits for its turn "
    "takes as long as the turn.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60),
    registry=_registry,
)
attempts = Counter(
    "handinger_turn_attempts",
    "Turns that this process began or took over; `again` after a crash, a restart or a hand-over.",
    ["kind"],
    registry=_registry,
)
turns = Counter(
    "handinger_turns",
    "Turns that this process ended, by what started them and how they ended.",
    ["source", "outcome"],
    registry=_registry,
)
turn_seconds = Histogram(
    "handinger_turn_seconds",
    "From a turn's acceptance to its end.",
    ["source"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 7200, 86400),
    registry=_registry,
)
steps = Counter("handinger_model_calls", "Model calls of the agent.", registry=_registry)
tokens = Counter(
    "handinger_tokens", "Tokens of those calls, as reported.", ["kind"], registry=_registry
)
cost_usd = Counter(
    "handinger_cost_usd",
    "What was booked to the ledger, in USD, by the kind of cost.",
    ["kind"],
    registry=_registry,
)
model_failures = Counter(
    "handinger_model_failures",
    "Failed model calls, whether they were repeated or ended their turn.",
    registry=_registry,
)
tool_calls = Counter(
    "handinger_tool_calls",
    "Tool calls that ended; tools of MCP servers, and such as do not exist, count as `other`.",
    ["tool", "outcome"],
    registry=_registry,
)

emails_received = Counter(
    "handinger_emails_received",
    "Mails, once for each recipient, by what became of them.",
    ["outcome"],
    registry=_registry,
)
emails_sent = Counter(
    "handinger_emails_sent",
    "Attempts at mails of ours, by how they ended.",
    ["outcome"],
    registry=_registry,
)

_turns_running = Gauge(
    "handinger_turns_running", "Turns that run in this process now.", registry=_registry
)
_turns_waiting = Gauge(
    "handinger_turns_waiting",
    "Turns that wait, of all servers; counted every two seconds, up to HANDINGER_MAX_QUEUED_TURNS.",
    registry=_registry,
)
_stream_readers = Gauge(
    "handinger_stream_readers", "Streams that follow a turn here now.", registry=_registry
)


def count_ending(*, source: str, outcome: str, seconds: float) -> None:
    """A turn has ended, so long after it was accepted."""
    turns.labels(source, outcome).inc()
    turn_seconds.labels(source).observe(seconds)


def observe(
    *,
    turns_running: Callable[[], float],
    turns_waiting: Callable[[], float],
    stream_readers: Callable[[], float],
) -> None:
    """Say where the gauges read their values."""
    _turns_running.set_function(turns_running)
    _turns_waiting.set_function(turns_waiting)
    _stream_readers.set_function(stream_readers)


def text() -> bytes:
    """All of it, in Prometheus' text format."""
    return generate_latest(_registry)
