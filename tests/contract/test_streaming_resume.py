"""A reader who was cut off goes on exactly where it was (1.6)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.contract.conftest import Connect
from tests.contract.streams import (
    Received,
    Stream,
    check_same,
    folded,
    post,
    stored_message,
    told,
    watch,
)
from tests.contract.test_streaming import STEPS, gated
from tests.contract.wire import Json
from tests.contract.world import Api, Scripts
from tests.support.fold import TERMINAL
from tests.support.model_server import ModelServer, Step
from tests.support.server import HandingerServer

DELTAS = {"text-delta", "reasoning-delta", "tool-input-delta"}


@dataclass(frozen=True)
class Recording:
    """A worker with three turns, as it was watched from its beginning to its end."""

    worker: Json
    whole: list[Received]  # the worker's stream
    second: Stream  # the answer to the POST of its second turn, which has several steps

    @property
    def id(self) -> str:
        return self.worker["id"]

    def turn_of(self, index: int) -> list[Received]:
        """The events of the turn that the event at this index belongs to, up to that event."""
        begin = index
        while begin > 0 and self.whole[begin - 1].type not in TERMINAL:
            begin -= 1
        return self.whole[begin : index + 1]


def record(api: Api, scripts: Scripts) -> Recording:
    first = scripts.held("one")
    worker_id = api.start(first)["id"]
    first.wait_for(1)
    stream = watch(api, worker_id).wait_for("start")
    second = post(api, scripts(*STEPS), to=worker_id)
    api.queue(worker_id, scripts(Step(text="three")))
    first.open()
    stream.read()
    return Recording(api.worker(worker_id), stream.received, second.read())


@pytest.fixture(scope="module")
def recording(api: Api, scripts: Scripts) -> Recording:
    return record(api, scripts)


def check_rest(recording: Recording, index: int, rest: Sequence[Received]) -> None:
    """Together with all up to this event, it is the whole story, and no event came twice."""
    joined = [*recording.whole[: index + 1], *rest]
    ids = [received.id for received in joined]
    assert len(set(ids)) == len(ids)
    story = told(joined)
    assert story.messages == recording.worker["messages"][::2]
    assert len(story.turns) == 3
    for turn in story.turns:
        fold = folded(turn)
        check_same(fold, recording.worker)
        assert fold.retries == 0


def check_every_place(api: Api, recording: Recording) -> None:
    """Resume the worker's stream after each of its events."""
    for index, received in enumerate(recording.whole):
        stream = watch(api, recording.id, last_event_id=received.id).read()
        assert stream.status == 200
        check_rest(recording, index, stream.received)


def test_both_streams_give_the_same_events_the_same_ids(recording: Recording):
    """Only how a text is cut into deltas may differ."""
    at = next(i for i, each in enumerate(recording.whole) if each == recording.second.received[0])
    watched = recording.whole[at:]
    watched = watched[: next(i for i, each in enumerate(watched) if each.type in TERMINAL) + 1]
    posted = recording.second.received

    def marks(received: Sequence[Received]) -> list[tuple[str, Json]]:
        told = [each for each in received if each.type not in DELTAS]
        # `data-worker` is as of the moment when it is told; by then the next turn may run.
        return [(each.id, {} if each.type == "data-worker" else each.event) for each in told]

    assert marks(watched) == marks(posted)


def test_from_every_event_of_a_worker_the_rest_is_told(api: Api, recording: Recording):
    check_every_place(api, recording)


def test_from_every_event_of_a_post_the_rest_is_told(api: Api, recording: Recording):
    received = recording.second.received
    for index, each in enumerate(received):
        stream = watch(api, recording.id, last_event_id=each.id).read()
        rest = told([*received[: index + 1], *stream.received])
        assert len(rest.turns) == 2
        for turn in rest.turns:
            check_same(folded(turn), recording.worker)


def test_without_messages_the_rest_of_that_turn_is_told(api: Api, recording: Recording):
    for index, received in enumerate(recording.whole):
        stream = watch(api, recording.id, last_event_id=received.id, messages=False).read()
        if received.type in TERMINAL:
            assert stream.status == 204
            continue
        before = recording.turn_of(index)
        fold = folded(stream, into=folded(before))
        assert fold.terminal is not None
        if before[-1].type != "data-worker":
            assert fold.worker is not None
            assert fold.worker["messages"] == []
        check_same(fold, recording.worker)


def test_after_the_last_event_there_is_no_more(api: Api, recording: Recording):
    last = recording.whole[-1].id
    stream = watch(api, recording.id, last_event_id=last).read()
    assert (stream.status, stream.received) == (200, [])
    stream = watch(api, recording.id, last_event_id=last, messages=False).read()
    assert (stream.status, stream.received) == (204, [])


def test_whoever_has_seen_an_idle_worker_is_told_no_more(api: Api, recording: Recording):
    idle = watch(api, recording.id).read()
    for messages in (True, False):
        again = watch(api, recording.id, last_event_id=idle.received[-1].id, messages=messages)
        assert again.read().received == []


def test_from_every_message_of_an_idle_worker_what_follows_is_told(api: Api, recording: Recording):
    messages = recording.worker["messages"]
    idle = watch(api, recording.id).read().received
    for index, received in enumerate(idle[:-1]):
        rest = watch(api, recording.id, last_event_id=received.id).read()
        story = told(rest.received)
        # What was a message in the idle worker's stream now comes as events.
        expected = [message["id"] for message in messages[index + 1 :]]
        turns = [folded(turn) for turn in story.turns if turn[0].type == "start"]
        found = [*(message["id"] for message in story.messages), *(fold.id for fold in turns)]
        assert sorted(map(str, found)) == sorted(expected)
        for fold in turns:
            check_same(fold, recording.worker)
        assert rest.received[-2].type == "data-worker"


def test_a_reader_who_lost_the_last_news_of_an_idle_worker_gets_it(api: Api, recording: Recording):
    before = watch(api, recording.id).read().received[-2]
    rest = watch(api, recording.id, last_event_id=before.id).read()
    assert rest.types == ["data-worker", "finish"]


def test_turns_that_ended_since_come_as_events(api: Api, scripts: Scripts):
    stream = post(api, scripts(*STEPS)).read()
    for text in ("two", "three"):
        api.go_on(stream.worker_id, scripts(Step(text=text)))
    worker = api.worker(stream.worker_id)
    for index in (0, len(stream.received) // 2, -1):
        rest = watch(api, stream.worker_id, last_event_id=stream.received[index].id).read()
        story = told(rest.received)
        assert story.messages == worker["messages"][2::2]
        for turn in story.turns[-2:]:
            check_same(folded(turn), worker)


def foreign_ids(recording: Recording, other: Recording) -> list[str]:
    known = recording.whole[len(recording.whole) // 2].id
    return [
        "",
        "nonsense",
        "0",
        known[:-1] + "x",
        known + "0" * 9,  # far beyond the text
        known.replace("trn_", "wrk_"),
        known[:-1] + "é",
        other.whole[3].id,  # of another worker
        "trn_" + "f" * 32 + "-1.0.3.0",  # of no turn
        recording.second.received[0].id.rpartition("-")[0] + "-9.9.9.9",  # of no attempt
    ]


def test_an_unknown_id_is_told_from_the_beginning(api: Api, scripts: Scripts, recording: Recording):
    other = record(api, scripts)
    idle = watch(api, recording.id).read().received
    for unknown in foreign_ids(recording, other):
        id = unknown.encode("utf-8").decode("latin-1")
        assert watch(api, recording.id, last_event_id=id).read().received == idle, unknown
        stream = watch(api, recording.id, last_event_id=id, messages=False).read()
        assert stream.status == 204


def test_an_unknown_id_while_a_turn_runs(api: Api, scripts: Scripts, recording: Recording):
    scripted = gated(scripts)
    first = post(api, scripted).wait_for_text("Half a")
    ids = foreign_ids(recording, recording)[:4]
    ids.append(first.received[-1].id + "0")  # beyond what is told so far
    streams = [
        watch(api, first.worker_id, last_event_id=unknown, messages=messages)
        for unknown in ids
        for messages in (True, False)
    ]
    for stream in streams:
        stream.wait_for_text("Half a")
    scripted.open()
    first.read()
    for stream in streams:
        fold = folded(stream.read())
        assert fold.retries == 0
        check_same(fold, api.worker(first.worker_id))


def check_every_place_while_running(api: Api, scripts: Scripts, others: Sequence[Api]) -> None:
    """Resume after each event of a turn that stands still in the middle of a text."""
    scripted = gated(scripts)
    first = post(api, scripted).wait_for_text("Half a")
    seen = list(first.received)
    resumed = [
        (index, watch(at, first.worker_id, last_event_id=received.id, messages=messages))
        for index, received in enumerate(seen)
        for at in others
        for messages in (True, False)
    ]
    scripted.open()
    first.read()
    worker = api.wait_until_idle(first.worker_id)
    for index, stream in resumed:
        fold = folded(stream.read(), into=folded(seen[: index + 1]))
        assert fold.retries == 0
        check_same(fold, worker)


def test_from_every_event_while_the_turn_runs(api: Api, scripts: Scripts):
    check_every_place_while_running(api, scripts, [api])


def test_a_reader_who_is_cut_off_after_every_event(api: Api, scripts: Scripts):
    """One event per connection."""
    whole = post(api, scripts(*STEPS)).read()
    received: list[Received] = whole.received[:1]
    while received[-1].type not in TERMINAL:
        stream = watch(api, whole.worker_id, last_event_id=received[-1].id).read()
        received.append(stream.received[0])
    check_same(folded(received), api.worker(whole.worker_id))


# Restarts.


@pytest.fixture(scope="module")
def restarted(
    model: ModelServer, connect: Connect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """A server that these tests stop, kill and start again; it carries out one turn at a time."""
    environment = {"HANDINGER_SHUTDOWN_GRACE_S": "0.5", "HANDINGER_MAX_CONCURRENT_TURNS": "1"}
    server = HandingerServer(
        tmp_path_factory.mktemp("restarted") / "data",
        model_url=model.base_url,
        environment=environment,
    )
    server.start()
    yield connect(server, server.key)
    server.close()


def test_without_messages_the_turn_that_waits_first(restarted: Api, scripts: Scripts):
    """Of a worker that nothing is done for yet."""
    elsewhere, waiting, last = scripts.held(), scripts.held("first"), scripts.held("last")
    restarted.start(elsewhere)
    elsewhere.wait_for(1)
    worker = restarted.start(waiting)
    restarted.queue(worker["id"], last)
    assert worker["status"] == "pending"
    stream = watch(restarted, worker["id"], messages=False).wait_for("start")
    for scripted in (elsewhere, waiting, last):
        scripted.open()
    fold = folded(stream.read())
    assert fold.parts[-1]["text"] == "first"
    check_same(fold, restarted.wait_until_idle(worker["id"]))


def test_from_every_event_after_a_restart(restarted: Api, scripts: Scripts):
    recording = record(restarted, scripts)
    assert restarted.server.terminate() == 0
    restarted.server.start()
    assert watch(restarted, recording.id).read().events[-1]["data"] == recording.worker
    check_every_place(restarted, recording)


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_turn_that_a_restart_interrupts_is_told_to_its_end(
    restarted: Api, scripts: Scripts, how: str
):
    scripted = gated(scripts)
    first = post(restarted, scripted).wait_for_text("Half a")
    getattr(restarted.server, how)()
    first.read_what_came()
    assert first.types[-1] == "text-delta"

    restarted.server.start()
    seen = list(first.received)
    resumed = [
        (index, watch(restarted, first.worker_id, last_event_id=received.id))
        for index, received in enumerate(seen)
    ]
    scripted.open()
    begun = max(index for index, received in enumerate(seen) if received.type == "finish-step")
    for index, stream in resumed:
        fold = folded(stream.read(), into=folded(seen[: index + 1]))
        assert fold.retries == (index > begun), f"after event {index}"
        check_same(fold, restarted.worker(first.worker_id))
        assert fold.parts[-1]["text"] == "Half a sentence."
    worker = restarted.worker(first.worker_id)
    assert stored_message(worker, seen[0].event["messageId"])["parts"]
