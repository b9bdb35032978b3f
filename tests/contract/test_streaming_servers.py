"""Readers of one server follow what another one executes (1.6)."""

import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.streams import Stream, check_same, folded, post, watch
from tests.contract.test_streaming import STEPS, gated, repeated
from tests.contract.test_streaming_resume import (
    check_every_place,
    check_every_place_while_running,
    record,
)
from tests.contract.world import Api, Scripted, Scripts
from tests.support.model_server import HangUpAfterChunks, ModelServer, Step, ToolCall
from tests.support.server import HandingerServer


@dataclass(frozen=True)
class Pair:
    """Two servers on one database. Either may execute a turn, whoever accepted it."""

    a: Api
    b: Api

    @property
    def both(self) -> tuple[Api, Api]:
        return self.a, self.b


@contextmanager
def paused(api: Api) -> Generator[None]:
    """This server does nothing meanwhile, so that the other one executes what is accepted."""
    os.kill(api.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(api.server.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def pair(
    new_server: StartServer,
    connect: Connect,
    model: ModelServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    first = new_server("streaming_pair", {"HANDINGER_SHUTDOWN_GRACE_S": "0.5"})
    environment = {
        name: value
        for name, value in first.environment.items()
        if name in ("HANDINGER_PUBLIC_URL", "HANDINGER_SHUTDOWN_GRACE_S")
    }
    folder = tmp_path_factory.mktemp("streaming_pair_b") / "data"
    folder.mkdir()
    second = HandingerServer(
        folder,
        model_url=model.base_url,
        key=first.key,
        database_url=first.environment["HANDINGER_DATABASE_URL"],
        environment=environment,
    )
    second.start()
    yield Pair(connect(first, first.key), connect(second, second.key))
    second.close()


def executed_by(executing: Api, other: Api, scripted: Scripted) -> Stream:
    """A turn that `executing` carries out, read there; its model was asked."""
    with paused(other):
        stream = post(executing, scripted)
        scripted.wait_for(1)
    return stream


def test_from_every_event_on_another_server(pair: Pair, scripts: Scripts):
    recording = record(pair.a, scripts)
    check_every_place(pair.b, recording)
    assert (
        watch(pair.b, recording.id).read().received == watch(pair.a, recording.id).read().received
    )


def test_from_every_event_on_another_server_while_the_turn_runs(pair: Pair, scripts: Scripts):
    check_every_place_while_running(pair.a, scripts, pair.both)


def test_live_text_crosses_while_the_model_still_speaks(pair: Pair, scripts: Scripts):
    scripted = gated(scripts)
    first = executed_by(pair.a, pair.b, scripted)
    joined = [watch(api, first.worker_id, messages=False) for api in pair.both * 2]
    for stream in [first, *joined]:
        stream.wait_for_text("Half a ")
    assert scripted.requests[-1].ended_at is None
    scripted.open()
    worker = pair.a.wait_until_idle(first.worker_id)
    for stream in [first, *joined]:
        fold = folded(stream.read())
        assert fold.retries == 0
        check_same(fold, worker)


def test_what_is_accepted_by_a_server_may_be_told_by_another(pair: Pair, scripts: Scripts):
    """Whoever executes it, the answer to the POST tells it live."""
    for api in pair.both * 2:
        scripted = gated(scripts)
        stream = post(api, scripted).wait_for_text("Half a ")
        assert scripted.requests[-1].ended_at is None
        scripted.open()
        fold = folded(stream.read())
        assert fold.retries == 0
        check_same(fold, api.worker(stream.worker_id))


@pytest.mark.parametrize(
    "alphabet",
    ["plain words ", "Größe und 日本語 ", "👩🏽‍🚀😀𠜎", '\x01\x7f\u2028"\\'],
    ids=["ascii", "multi-byte", "astral", "escapes"],
)
def test_long_texts_cross_to_the_last_character(pair: Pair, scripts: Scripts, alphabet: str):
    """More than a notification of PostgreSQL can carry, and what takes most room in it."""
    scripted = scripts.new()
    chunk = (alphabet * 3000)[:11_000]
    call = ToolCall("write_file", {"path": "a.txt", "content": chunk})
    scripted.model.script(
        scripted.name,
        [
            Step(text=chunk, tool_calls=[call], reasoning=[chunk]),
            Step(text=[chunk, "middle", chunk], gate_after_chunks=(2, scripted.gate())),
        ],
    )
    first = executed_by(pair.a, pair.b, scripted)
    second = watch(pair.b, first.worker_id).wait_for_text("middle")
    assert second.text.endswith(chunk + "middle")
    scripted.open()
    worker = pair.a.wait_until_idle(first.worker_id)
    for stream in (first, second):
        check_same(folded(stream.read()), worker)
    assert worker["output_text"] == f"{chunk}\n\n{chunk}middle{chunk}"


def test_a_step_that_follows_another_at_once_crosses_live(pair: Pair, scripts: Scripts):
    """Its text may arrive before it is known there that the step before it was stored."""
    scripted = scripts.new()
    quick = Step(text=["A ", "step."], tool_calls=[ToolCall("list_files")])
    steps: list[Step] = []
    for number in range(6):
        gate = (1, scripted.gate(number))
        steps += [
            quick,
            Step(
                text=[f"held {number} ", "."],
                tool_calls=[ToolCall("list_files")],
                gate_after_chunks=gate,
            ),
        ]
    scripted.model.script(scripted.name, steps)
    first = executed_by(pair.a, pair.b, scripted)
    second = watch(pair.b, first.worker_id)
    for number in range(6):
        asked_at = time.monotonic()
        second.wait_for_text(f"held {number} ")
        assert time.monotonic() - asked_at < 1.5
        scripted.open(number)
    worker = pair.b.wait_until_idle(first.worker_id)
    for stream in (first, second):
        check_same(folded(stream.read()), worker)


def test_a_withdrawal_crosses_before_the_call_is_repeated(pair: Pair, scripts: Scripts):
    scripted = repeated(scripts, failures=2)
    first = executed_by(pair.a, pair.b, scripted)
    second = watch(pair.b, first.worker_id)
    for stream in (first, second):
        stream.wait_for("data-retry", count=2)
    scripted.open()
    worker = pair.a.wait_until_idle(first.worker_id)
    for stream in (first, second):
        fold = folded(stream.read())
        assert fold.retries == 2
        check_same(fold, worker)


def test_who_goes_to_another_server_in_a_repeated_call_is_told_the_rest(
    pair: Pair, scripts: Scripts
):
    """The other server need not know yet that the call is repeated."""
    scripted = scripts.new()
    text = ["Half ", "a ", "sentence."]
    steps = [
        STEPS[1],
        Step(text=text, attempts=[HangUpAfterChunks(2)], chunk_delay_s=0.5),
    ]
    scripted.model.script(scripted.name, steps)
    first = (
        executed_by(pair.a, pair.b, scripted).wait_for("data-retry").wait_for("text-delta", count=3)
    )
    seen = list(first.received)
    assert not first.has_ended
    moved = watch(pair.b, first.worker_id, last_event_id=seen[-1].id)
    worker = pair.a.wait_until_idle(first.worker_id)
    for fold in (folded(first.read()), folded(moved.read(), into=folded(seen))):
        assert fold.retries == 1
        check_same(fold, worker)


def test_a_cancel_on_another_server_ends_the_story_everywhere(pair: Pair, scripts: Scripts):
    scripted = gated(scripts)
    first = executed_by(pair.a, pair.b, scripted)
    second = watch(pair.b, first.worker_id, messages=False).wait_for_text("Half a ")
    pair.b.client.post(f"/api/workers/{first.worker_id}/cancel").raise_for_status()
    worker = pair.b.worker(first.worker_id)
    for stream in (first, second):
        fold = folded(stream.read())
        assert fold.terminal == {"type": "abort"}
        assert fold.parts[-1]["text"] == "Half a "
        check_same(fold, worker)


def test_a_reader_elsewhere_is_reason_to_stream(pair: Pair, scripts: Scripts):
    scripted = scripts.new()
    steps = [
        Step(text="a", tool_calls=[ToolCall("list_files")], gate=scripted.gate(number))
        for number in range(2)
    ]
    scripted.model.script(scripted.name, [*steps, Step(text="end")])
    with paused(pair.b):
        worker_id = pair.a.start(scripted)["id"]
        scripted.wait_for(1)
    stream = watch(pair.b, worker_id).wait_for("start")
    scripted.open(0)
    stream.wait_for("start-step", count=1)
    scripted.open(1)
    stream.read()
    streamed = [request.stream for request in scripted.requests]
    assert streamed[0] is False  # Nobody read when it began.
    assert streamed[-1] is True


def test_a_server_that_dies_in_mid_sentence_costs_its_readers_nothing(pair: Pair, scripts: Scripts):
    """Last, because it kills the first server for good."""
    scripted = gated(scripts)
    first = executed_by(pair.a, pair.b, scripted)
    survivor = watch(pair.b, first.worker_id).wait_for_text("Half a ")
    first.wait_for_text("Half a ")
    pair.a.server.kill()
    died_at = time.monotonic()
    seen = first.read_what_came().received
    moved = watch(pair.b, first.worker_id, last_event_id=seen[-1].id)

    survivor.wait_for("data-retry")
    moved.wait_for("data-retry")
    assert time.monotonic() - died_at < 15
    assert moved.types[0] == "data-retry"
    survivor.wait_for("text-start", count=3)
    scripted.open()
    folds = [folded(survivor.read()), folded(moved.read(), into=folded(seen))]
    worker = pair.b.worker(first.worker_id)
    for fold in folds:
        assert fold.retries == 1
        check_same(fold, worker)
    assert worker["output_text"].endswith("Half a sentence.")
