"""SIGTERM: running turns reach a safe point, callers are sent away, and nothing is paid twice."""

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.durability.observing import wait_for
from tests.durability.reading import told
from tests.durability.stand import (
    Stand,
    accept,
    client,
    fresh_key,
    in_background,
    post,
)
from tests.support.model_server import Stall, Step, ToolCall, Usage
from tests.support.server import START_TIMEOUT_S, HandingerServer

EXITS_WITHIN_S = 20.0
INPUT = "[[script:two]] Write it down."
_USAGE = Usage(prompt_tokens=100, completion_tokens=10)
_CALL = ToolCall("write_file", {"path": "note.txt", "content": "Once."})


@pytest.fixture
def terminated() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


def begin_to_stop(stand: Stand, terminated: ThreadPoolExecutor) -> Future[int]:
    """Send SIGTERM, and wait until the server says that it stops; the status of its exit."""
    status = terminated.submit(stand.terminate)
    wait_for(lambda: "Shutting down" in stand.server.log().rpartition("Serving on")[2], "the stop")
    return status


def require_sent_away(response: httpx2.Response) -> None:
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert response.json()["code"] == "unavailable"


@pytest.mark.parametrize(
    ("first_headers", "retry_headers"),
    [
        ({"Idempotency-Key": "{fresh}"}, {"Idempotency-Key": "{fresh}"}),
        ({}, {"X-Stainless-Retry-Count": "1"}),
    ],
    ids=["Idempotency-Key", "X-Stainless-Retry-Count"],
)
def test_a_running_turn_goes_on_after_its_safe_point_and_a_retry_joins_it(
    stand: Stand,
    terminated: ThreadPoolExecutor,
    first_headers: Mapping[str, str],
    retry_headers: Mapping[str, str],
) -> None:
    stand.model.script(
        "two",
        [
            Step(tool_calls=[_CALL], usage=_USAGE, gate="held"),
            Step(text="It is written down.", usage=_USAGE),
        ],
    )
    fresh, worker_id = fresh_key(), stand.new_worker()

    def filled(headers: Mapping[str, str]) -> dict[str, str]:
        return {name: value.format(fresh=fresh) for name, value in headers.items()}

    blocking = in_background(stand.server, f"/{worker_id}", INPUT, headers=filled(first_headers))
    stand.model.wait_for_requests("two", 1)
    began_at = time.monotonic()
    status = begin_to_stop(stand, terminated)
    refused = blocking.result(timeout=5)
    require_sent_away(refused)
    require_sent_away(post(stand.server, "", "[[script:ok]] One more."))
    stand.model.open_gate("held")
    assert status.result(timeout=EXITS_WITHIN_S) == 0
    assert time.monotonic() - began_at < EXITS_WITHIN_S
    stand.start()
    answer = post(stand.server, f"/{worker_id}", INPUT, headers=filled(retry_headers))

    assert answer.status_code == 200
    assert answer.json()["output_text"] == "It is written down."
    turn_id = answer.headers["X-Handinger-Turn-Id"]
    assert turn_id == refused.headers["X-Handinger-Turn-Id"]
    assert stand.observer.turns(worker_id)[1:] == [turn_id]
    assert stand.observer.rows(
        "SELECT crashes, steps, input_tokens FROM turns WHERE id = %s", turn_id
    ) == [(0, 2, 200)]
    made = Counter(request.step for request in stand.model.requests("two"))
    assert made == {0: 1, 1: 1}


def test_a_stream_ends_without_a_last_event_and_goes_on_after_the_restart(
    stand: Stand, terminated: ThreadPoolExecutor
) -> None:
    stand.model.script(
        "two",
        [
            Step(text="I write.", tool_calls=[_CALL]),
            Step(text=["It is ", "written down."], gate_after_chunks=(1, "held")),
        ],
    )
    worker_id = stand.new_worker()
    reader = stand.reader(worker_id, instruction=INPUT)
    try:
        reader.wait_for_event("text-delta", number=2)
        status = begin_to_stop(stand, terminated)
        stand.model.open_gate("held")
        assert status.result(timeout=EXITS_WITHIN_S) == 0
        stand.start()
        (turn_id,) = stand.observer.turns(worker_id)[1:]
        heard = reader.wait_for_end_of(turn_id)
    finally:
        reader.stop()

    story = told(heard)
    assert story.parts == stand.get(worker_id).json()["messages"][-1]["parts"]
    assert story.parts[-1]["text"] == "It is written down."


def test_turns_that_wait_are_carried_out_after_the_restart(
    stand: Stand, terminated: ThreadPoolExecutor
) -> None:
    stand.model.script("held", [Step(text="First.", gate="held")])
    for name in ("second", "third"):
        stand.model.script(name, [Step(text=f"The {name}.")])
    worker_id = accept(stand.server, "", "[[script:held]] Go.").json()["id"]
    for name in ("second", "third"):
        accept(stand.server, f"/{worker_id}", f"[[script:{name}]] Go.")
    stand.model.wait_for_requests("held", 1)
    status = begin_to_stop(stand, terminated)
    stand.model.open_gate("held")
    assert status.result(timeout=EXITS_WITHIN_S) == 0
    stand.start()
    stand.observer.wait_until_idle()

    assert stand.observer.rows(
        "SELECT output->0->'content'->0->>'text', attempt, crashes FROM turns"
        " WHERE worker_id = %s ORDER BY position",
        worker_id,
    ) == [("First.", 1, 0), ("The second.", 1, 0), ("The third.", 1, 0)]


def test_a_server_without_work_exits_at_once(stand: Stand) -> None:
    began_at = time.monotonic()
    assert stand.terminate() == 0
    assert time.monotonic() - began_at < 5


def test_a_model_call_that_never_returns_is_cut_off_and_repeated(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stand.server.environment, "HANDINGER_SHUTDOWN_GRACE_S", "2")
    stand.restart()
    exits_in_spite_of_a_stalled_model(stand, within_s=EXITS_WITHIN_S)
    stand.kill()


@pytest.mark.slow
def test_with_the_default_grace_a_stalled_server_exits_in_time(stand: Stand) -> None:
    exits_in_spite_of_a_stalled_model(stand, within_s=EXITS_WITHIN_S)


def exits_in_spite_of_a_stalled_model(stand: Stand, *, within_s: float) -> None:
    stand.model.script(
        "two",
        [
            Step(tool_calls=[_CALL], usage=_USAGE),
            Step(text="It is written down.", usage=_USAGE, attempts=[Stall()]),
        ],
    )
    key = fresh_key()
    blocking = in_background(stand.server, "", INPUT, key=key)
    stand.model.wait_for_requests("two", 2)
    began_at = time.monotonic()
    assert stand.terminate() == 0
    assert time.monotonic() - began_at < within_s
    require_sent_away(blocking.result(timeout=5))
    stand.start()
    answer = post(stand.server, "", INPUT, key=key).json()

    assert answer["output_text"] == "It is written down."
    assert answer["usage"]["steps"] == 2
    assert stand.observer.rows(
        "SELECT attempt, crashes FROM turns WHERE worker_id = %s", answer["id"]
    ) == [(2, 0)]
    made = Counter(request.step for request in stand.model.requests("two"))
    assert made == {0: 1, 1: 2}


@pytest.mark.slow
def test_an_answer_that_has_begun_is_cut_off_so_that_the_client_retries(
    stand: Stand, terminated: ThreadPoolExecutor
) -> None:
    stand.model.script("two", [Step(text="It is written down.", gate="held")])
    key = fresh_key()
    with (
        client(stand.server) as http,
        http.stream(
            "POST", "/api/workers", json={"input": INPUT}, headers={"Idempotency-Key": key}
        ) as response,
    ):
        assert response.status_code == 200
        pieces = response.iter_raw()
        assert next(pieces).isspace()
        status = begin_to_stop(stand, terminated)
        with pytest.raises(httpx2.RemoteProtocolError):
            list(pieces)
    stand.model.open_gate("held")
    assert status.result(timeout=EXITS_WITHIN_S) == 0
    stand.start()

    assert post(stand.server, "", INPUT, key=key).json()["output_text"] == "It is written down."


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, id="SIGTERM"),
    ],
)
def test_a_server_that_is_stopped_while_it_loads_leaves_no_postgresql(
    tmp_path: Path, number: signal.Signals
) -> None:
    server = HandingerServer(tmp_path / "data", preload=False)
    postmaster = tmp_path / "data" / "postgres" / "postmaster.pid"
    server.start(wait=False)
    wait_for(postmaster.exists, "PostgreSQL to start", timeout_s=START_TIMEOUT_S)
    assert server.stop(number) == 0
    assert not postmaster.exists()
    assert server.log() == ""
