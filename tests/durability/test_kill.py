"""kill -9 at every boundary of a turn: nothing accepted is lost, nothing finished happens twice."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.durability.holding import Write, held
from tests.durability.observing import Journal, Observer
from tests.durability.reading import Heard, told
from tests.durability.stand import (
    Stand,
    fresh_key,
    in_background,
    killed_in,
    outline,
    post,
    require_whole_conversation,
    sent_messages,
)
from tests.support.model_server import HangUpAfterChunks, Step, ToolCall, Usage

# A server that starts on its own database need not wait until the dead one's heartbeat is old.
GOES_ON_WITHIN_S = 6.0
INPUT = "[[script:report]] Write the draft and the notes, and publish the draft."
ANSWER = "The draft and the notes are published."
DRAFT, NOTES = "# Draft\n\nFirst words.", "Remember the milk."
FILES = {"notes.md": NOTES, "scratchpad/draft.md": DRAFT}
_USAGE = Usage(prompt_tokens=100, completion_tokens=10)

_TWO_CALLS = (
    ToolCall("write_file", {"path": "scratchpad/draft.md", "content": DRAFT}),
    ToolCall("write_file", {"path": "notes.md", "content": NOTES}),
)
_ONE_CALL = (ToolCall("publish_file", {"path": "scratchpad/draft.md"}),)


def script(*, gate: tuple[int, int | None] | None = None) -> Sequence[Step]:
    """Three calls of the model; `gate` holds one of them, at its first byte or after some chunks.

    In the chunks of the first two, the tool calls follow the text.
    """
    steps: list[Step] = []
    for number, (texts, calls) in enumerate(
        [(["I write ", "both."], _TWO_CALLS), (["I publish it."], _ONE_CALL), ([ANSWER], ())]
    ):
        chunks = gate[1] if gate and gate[0] == number else None
        steps.append(
            Step(
                text=texts if calls else [ANSWER[:12], ANSWER[12:]],
                tool_calls=calls,
                usage=_USAGE,
                gate="held" if gate == (number, None) else None,
                gate_after_chunks=(chunks, "held") if chunks is not None else None,
            )
        )
    return steps


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where the server is killed, and what that costs."""

    name: str
    write: Write
    # How often each of the three model calls is made: twice if its response was not stored.
    calls: tuple[int, int, int] = (1, 1, 1)
    # Whether the first process had claimed the turn, and had not ended it.
    crashes: int = 0
    answered: bool = False
    # Much like another one, so that the default run can do without it.
    slow: bool = False


def _turn(number: int, *, committed: bool) -> Write:
    return Write("turns", "UPDATE", number, committed=committed)


# Each write of a turn, before its commit and after. Its row is written by the claim, by each
# response and by each result of a tool, in this order.
BOUNDARIES = [
    Boundary("before the accept commits", Write("turns", "INSERT")),
    Boundary("after the accept committed", Write("turns", "INSERT", committed=True)),
    Boundary("before the job is taken", Write("procrastinate_jobs", "UPDATE"), slow=True),
    Boundary(
        "after the job was taken", Write("procrastinate_jobs", "UPDATE", committed=True), slow=True
    ),
    Boundary("before the claim commits", _turn(1, committed=False), slow=True),
    Boundary("claimed, not begun", _turn(1, committed=True), crashes=1),
    Boundary("before response 1 commits", _turn(2, committed=False), (2, 1, 1), crashes=1),
    Boundary("after response 1 committed", _turn(2, committed=True), crashes=1),
    Boundary("tool 1 ended, before its commit", _turn(3, committed=False), crashes=1),
    Boundary("after tool 1 committed", _turn(3, committed=True), crashes=1),
    Boundary("tool 2 ended, before its commit", _turn(4, committed=False), crashes=1, slow=True),
    Boundary(
        "after tool 2 committed, no call made", _turn(4, committed=True), crashes=1, slow=True
    ),
    Boundary(
        "before response 2 commits", _turn(5, committed=False), (1, 2, 1), crashes=1, slow=True
    ),
    Boundary("after response 2 committed", _turn(5, committed=True), crashes=1, slow=True),
    Boundary("tool 3 ended, before its commit", _turn(6, committed=False), crashes=1, slow=True),
    Boundary(
        "after tool 3 committed, no call made", _turn(6, committed=True), crashes=1, slow=True
    ),
    Boundary("before the final commit", _turn(7, committed=False), (1, 1, 2), crashes=1),
    Boundary("after the final commit, not answered", _turn(7, committed=True)),
    Boundary(
        "before the job is removed",
        Write("procrastinate_jobs", "DELETE"),
        answered=True,
        slow=True,
    ),
    Boundary(
        "after the job was removed",
        Write("procrastinate_jobs", "DELETE", committed=True),
        answered=True,
        slow=True,
    ),
]


@pytest.mark.parametrize(
    "boundary",
    [
        pytest.param(boundary, id=boundary.name, marks=[pytest.mark.slow] if boundary.slow else [])
        for boundary in BOUNDARIES
    ],
)
def test_a_server_killed_at_a_commit_goes_on_from_there(stand: Stand, boundary: Boundary) -> None:
    """Somebody reads along, so the model is called with streaming."""
    worker_id = new_worker(stand)
    reader = stand.reader(worker_id)
    try:
        answer = kill_and_restart(stand, boundary, worker_id)
        heard = reader.wait_for_end_of(stand.observer.turns(worker_id)[1])
    finally:
        reader.stop()
    check_story(answer, heard)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda boundary: boundary.name)
def test_and_so_does_one_whose_turn_nobody_reads(stand: Stand, boundary: Boundary) -> None:
    """The model is called without streaming."""
    kill_and_restart(stand, boundary, new_worker(stand))


@pytest.mark.parametrize(
    ("write", "crashes"),
    [
        (Write("turns", "INSERT"), 0),
        # From here on its job is one that the dead server ran, and the turn is claimed.
        (Write("turns", "INSERT", committed=True), 1),
    ],
    ids=["before it commits", "claimed, not begun"],
)
def test_a_server_killed_as_it_takes_the_first_turn_of_a_worker(
    stand: Stand, write: Write, crashes: int
) -> None:
    stand.model.script("first", [Step(text="Once.")])
    key = fresh_key()
    with killed_in(stand, write):
        blocking = in_background(stand.server, "", "[[script:first]] Go.", key=key)
    with pytest.raises(httpx2.TransportError):
        blocking.result(timeout=10)
    stand.start()
    began_at = time.monotonic()
    worker = post(stand.server, "", "[[script:first]] Go.", key=key).json()
    assert time.monotonic() - began_at < GOES_ON_WITHIN_S
    assert worker["output_text"] == "Once."
    assert len(stand.model.requests("first")) == 1
    assert stand.observer.rows(
        "SELECT crashes, status FROM turns WHERE worker_id = %s", worker["id"]
    ) == [(crashes, "completed")]


def new_worker(stand: Stand) -> str:
    stand.model.script("report", script())
    return stand.new_worker()


def kill_and_restart(stand: Stand, boundary: Boundary, worker_id: str) -> dict[str, Any]:
    """What the worker is after its second turn was killed at the boundary, and checked."""
    key = fresh_key()
    with held(stand.observer.url, boundary.write) as hold:
        blocking = in_background(stand.server, f"/{worker_id}", INPUT, key=key)
        backend = hold.wait()
        if boundary.answered:
            assert blocking.result(timeout=10).status_code == 200
        stand.kill()
        hold.release_of_dead(backend)
    if not boundary.answered:
        with pytest.raises(httpx2.TransportError):
            blocking.result(timeout=10)
    before = Before.of(stand.observer, worker_id)
    stand.start()
    began_at = time.monotonic()
    retried = post(stand.server, f"/{worker_id}", INPUT, key=key)
    assert time.monotonic() - began_at < GOES_ON_WITHIN_S

    assert stand.observer.turns(worker_id)[1:] == [retried.headers["X-Handinger-Turn-Id"]]
    worker = retried.json()
    check_answer(stand, worker)
    before.check(stand.observer, worker_id)
    check_bookkeeping(stand, worker_id, calls=boundary.calls, crashes=boundary.crashes)
    check_next_turn(stand, worker_id)
    return worker


@pytest.mark.parametrize(
    ("call", "chunks", "heard_type"),
    [
        pytest.param(0, None, "start-step", marks=pytest.mark.slow),
        pytest.param(0, 1, "text-delta", marks=pytest.mark.slow),
        (0, 4, "tool-input-delta"),  # half of the first call's arguments
        (1, None, "tool-output-available"),
        pytest.param(2, None, "file", marks=pytest.mark.slow),
        (2, 1, "text-delta"),
    ],
)
def test_a_server_killed_in_a_model_call_repeats_that_call_only(
    stand: Stand, call: int, chunks: int | None, heard_type: str
) -> None:
    stand.model.script("report", script(gate=(call, chunks)))
    worker_id = stand.new_worker()
    reader = stand.reader(worker_id, instruction=INPUT)
    try:
        stand.model.wait_for_requests("report", call + 1)
        reader.wait_for_event(heard_type)
        stand.kill()
        before = Before.of(stand.observer, worker_id)
        stand.model.open_gate("held")
        stand.start()
        (turn_id,) = stand.observer.turns(worker_id)[1:]
        heard = reader.wait_for_end_of(turn_id)
    finally:
        reader.stop()

    worker = stand.get(worker_id).json()
    check_answer(stand, worker)
    before.check(stand.observer, worker_id)
    calls = [2 if number == call else 1 for number in range(3)]
    check_bookkeeping(stand, worker_id, calls=calls, crashes=1)
    check_story(worker, heard)
    check_next_turn(stand, worker_id)


def test_a_reader_who_was_cut_off_in_a_repeated_call_hears_each_word_once(stand: Stand) -> None:
    words = ["One, ", "two, ", "three, ", "four, ", "five, ", "six, ", "seven."]
    # Slowly, so that the reader hears what is withdrawn, and is cut off before the end.
    step = Step(text=words, chunk_delay_s=0.15, attempts=[HangUpAfterChunks(1)])
    stand.model.script("report", [step])
    worker_id = stand.new_worker()
    reader = stand.reader(worker_id, instruction=INPUT)
    try:
        reader.wait_for_event("data-retry")
        reader.wait_for_event("text-delta", number=2)
        stand.kill()
        stand.start()
        (turn_id,) = stand.observer.turns(worker_id)[1:]
        heard = reader.wait_for_end_of(turn_id)
    finally:
        reader.stop()

    story = told(heard)
    assert story.parts == stand.get(worker_id).json()["messages"][-1]["parts"]
    assert story.parts[-1]["text"] == "".join(words)
    assert story.retries == 2


@pytest.mark.parametrize(
    "committed",
    [pytest.param(False, id="before", marks=pytest.mark.slow), pytest.param(True, id="after")],
)
def test_a_retry_of_creating_a_worker_makes_one_worker(stand: Stand, committed: bool) -> None:
    stand.model.script("report", script())
    key, note = fresh_key(), fresh_key()
    with killed_in(stand, Write("turns", "INSERT", committed=committed)):
        creating = in_background(stand.server, "", INPUT, key=key, metadata={"note": note})
    with pytest.raises(httpx2.TransportError):
        creating.result(timeout=10)
    stand.start()
    worker = post(stand.server, "", INPUT, key=key, metadata={"note": note}).json()

    assert worker["output_text"].endswith(ANSWER)
    made = stand.observer.rows("SELECT id FROM workers WHERE metadata->>'note' = %s", note)
    assert made == [(worker["id"],)]
    assert len(stand.observer.turns(worker["id"])) == 1


@dataclass(frozen=True, slots=True)
class Before:
    """What there was of the turn when its process died."""

    journal: Journal | None
    blobs: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, observer: Observer, worker_id: str) -> "Before":
        turns = observer.turns(worker_id)
        return cls(
            observer.journal(turns[1]) if len(turns) > 1 else None,
            observer.blob_versions(worker_id),
        )

    def check(self, observer: Observer, worker_id: str) -> None:
        """All of that is still there, and was not made again."""
        if self.journal is not None:
            (_, turn_id) = observer.turns(worker_id)
            assert observer.journal(turn_id).begins_with(self.journal)
        assert self.blobs.items() <= observer.blob_versions(worker_id).items()


def check_answer(stand: Stand, worker: dict[str, Any]) -> None:
    assert worker["status"] == "completed"
    assert (worker["error"], worker["incomplete_details"]) == (None, None)
    assert worker["output_text"] == f"I write both.\n\nI publish it.\n\n{ANSWER}"
    assert sorted(file["filename"] for file in worker["files"]) == sorted(FILES)
    for path, content in FILES.items():
        assert stand.get(f"{worker['id']}/files/{path}").text == content


def check_bookkeeping(stand: Stand, worker_id: str, *, calls: Sequence[int], crashes: int) -> None:
    """Each response was paid once, each tool ran once, and each model call that was needed."""
    observer = stand.observer
    turn_id = observer.turns(worker_id)[1]
    assert observer.rows(
        "SELECT steps, input_tokens, output_tokens, crashes FROM turns WHERE id = %s", turn_id
    ) == [(3, 300, 30, crashes)]
    assert observer.rows(
        "SELECT sum(t.steps) = w.steps, sum(t.input_tokens) = w.input_tokens,"
        " sum(t.output_tokens) = w.output_tokens FROM turns t JOIN workers w ON w.id = t.worker_id"
        " WHERE w.id = %s GROUP BY w.id",
        worker_id,
    ) == [(True, True, True)]
    assert observer.rows(
        "SELECT step, tool_name, result IS NOT NULL FROM tool_calls WHERE turn_id = %s"
        " ORDER BY step, tool_call_id",
        turn_id,
    ) == [(1, "write_file", True), (1, "write_file", True), (2, "publish_file", True)]
    made = Counter(request.step for request in stand.model.requests("report"))
    assert [made[step] for step in range(3)] == list(calls)


def check_story(worker: dict[str, Any], heard: list[Heard]) -> None:
    """What the reader was told, cut or not, is the message that was stored."""
    story, stored = told(heard), worker["messages"][-1]
    assert (story.id, story.parts) == (stored["id"], stored["parts"])
    assert story.terminal == {"type": "finish"}
    assert story.worker is not None
    assert story.worker["output_text"] == worker["output_text"]


def check_next_turn(stand: Stand, worker_id: str) -> None:
    """The conversation is one that a model can go on with."""
    stand.model.script("next", [Step(text="Gladly.")])
    worker = post(stand.server, f"/{worker_id}", "[[script:next]] Go on.").json()
    assert worker["output_text"] == "Gladly."
    messages = sent_messages(stand.model.requests("next"))
    require_whole_conversation(messages)
    assert outline(messages) == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant write_file write_file",
        "tool",
        "tool",
        "assistant publish_file",
        "tool",
        "assistant",
        "user",
    ]
