"""How patient a client is; the rest of the rules is tested over real connections."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from handinger.sdk.exchange import Attempts, Read, Reply, Request, Send, Sleep


def _delay_after(headers: dict[str, str]) -> float:
    """How long is waited after a 503 with these headers; no socket and no clock is needed."""
    flow = Attempts("http://h.test", max_retries=1, jitter=lambda: 0.0).until_answered(
        Request("GET", "/"), streamed=False
    )
    assert isinstance(next(flow), Send)
    response = httpx2.Response(503, headers=headers, json={"error": "No.", "code": "x"})
    assert isinstance(flow.send(Reply(response, iter(()))), Read)
    effect = flow.send(response.content)
    assert isinstance(effect, Sleep)
    return effect.seconds


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        # Nothing is asked: exponential, from half a second.
        ({}, 0.5),
        ({"retry-after": "3"}, 3.0),
        # Less than our own patience changes nothing.
        ({"retry-after": "0"}, 0.5),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:00 GMT"}, 0.5),
        # Nonsense is as good as nothing.
        ({"retry-after": "soon"}, 0.5),
        ({"retry-after": "nan"}, 0.5),
    ],
)
def test_retry_after_says_how_long_to_wait(headers: dict[str, str], expected_s: float):
    assert _delay_after(headers) == pytest.approx(expected_s)


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_retry_after_may_be_a_date(zone: str):
    then = datetime.now(UTC) + timedelta(seconds=30)
    header = format_datetime(then, usegmt=True).replace("GMT", zone)
    # A date has whole seconds only.
    assert 28 < _delay_after({"retry-after": header}) <= 30


def test_delays_double_up_to_a_limit_and_are_spread():
    steady = Attempts("", max_retries=9, jitter=lambda: 0.0)
    assert [steady.delay_s(failures) for failures in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    spread = Attempts("", max_retries=9, jitter=lambda: 1.0)
    assert spread.delay_s(1) == pytest.approx(0.625)
