"""Server-sent events: a turn, or a whole worker, told to one reader from where it stands.

Each event is `id:` and one `data:` line. The stream ends after its last event; a stream that ends
earlier (a shutdown, a broken line) is resumed with Last-Event-ID.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from starlette.responses import StreamingResponse

from handinger import workers
from handinger.api.deps import Services
from handinger.errors import NotFound
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.live import LiveTurn
from handinger.story import Kind, Place, Story, Take, Told
from handinger.turns import reading
from handinger.turns.reading import Telling

# So long nothing at all may come; the contract says 15 s, and a busy machine is late.
PING_AFTER_S = 12.0
# Text that comes faster than this is told together; nobody reads faster.
_COALESCE_S = 0.02
_PING = b": ping\n\n"

HEADERS = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
}


def response(events: AsyncGenerator[bytes], headers: dict[str, str]) -> StreamingResponse:
    """The HTTP answer that carries these events."""
    return StreamingResponse(
        _until_deleted(events),
        headers={**HEADERS, **headers},
        media_type="text/event-stream; charset=utf-8",
    )


async def _until_deleted(events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """A worker that was deleted while somebody reads has nothing more to tell."""
    async with contextlib.aclosing(events):
        with contextlib.suppress(NotFound):
            async for chunk in events:
                yield chunk


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads, and whether `data-worker` brings the messages."""

    services: Services
    organization_id: OrganizationId
    worker_id: WorkerId
    with_messages: bool = True

    async def turn(self, live: LiveTurn, place: Place) -> AsyncGenerator[bytes]:
        """The rest of one turn, to its terminal event. Ends early when the server shuts down."""
        spoke_at = time.monotonic()
        while True:
            changes = live.changes
            told = live.story.events_after(place)
            if told:
                yield await self._encode(live.story, told)
                place = told[-1].place
                spoke_at = time.monotonic()
            if _is_told(live.story, place):
                return
            waiting_since = time.monotonic()
            # Not all news can be told, so a ping is due by what was sent, not by what happened.
            while not await self._wait(live, changes, spoke_at + PING_AFTER_S - waiting_since):
                if self.services.draining.is_set():
                    return
                yield _PING
                spoke_at = waiting_since = time.monotonic()
            rest_s = _COALESCE_S - (time.monotonic() - waiting_since)
            if rest_s > 0 and _ends_in_text(told):
                await asyncio.sleep(rest_s)

    async def _wait(self, live: LiveTurn, changes: int, timeout_s: float) -> bool:
        """Wait for news of the turn, or for the server to shut down, until a ping is due."""
        news = asyncio.ensure_future(live.wait(max(0.0, timeout_s), since=changes))
        draining = asyncio.ensure_future(self.services.draining.wait())
        try:
            await asyncio.wait({news, draining}, return_when=asyncio.FIRST_COMPLETED)
            return news.done() and news.result()
        finally:
            news.cancel()
            draining.cancel()

    async def _encode(self, story: Story, told: Sequence[Told]) -> bytes:
        lines: list[str] = []
        for place, event in told:
            if story.entries[place.number].kind is Kind.WORKER and event["type"] == "data-worker":
                with contextlib.suppress(NotFound):  # Deleted; only the terminal event is left.
                    lines.append(await self.worker_event(place, story.turn_id))
            else:
                lines.append(f"id: {place}\ndata: {workers.dump(event)}\n\n")
        return "".join(lines).encode()

    async def worker_event(self, place: Place, turn_id: TurnId | None) -> str:
        """`data-worker`: the same object that a call without streaming returns."""
        view = await workers.view(
            self.services.database,
            self.organization_id,
            self.worker_id,
            turn_id=turn_id,
            with_messages=self.with_messages,
        )
        wire = workers.wire(view, self.services.settings)
        return f'id: {place}\ndata: {{"type":"data-worker","data":{wire},"transient":true}}\n\n'


def _ends_in_text(told: Sequence[Told]) -> bool:
    """Whether more of the same is likely to follow; the first word must not wait for that."""
    return bool(told) and told[-1].event["type"].endswith("-delta")


def _is_told(story: Story, place: Place) -> bool:
    return story.ended and place.number == len(story.entries) - 1 and place.offset > 0


def after_instruction(story: Story) -> Place:
    """Where a reader stands who knows the instruction, and nothing of the answer."""
    return story.place_of(0)


def before_instruction(story: Story) -> Place:
    """Where a reader stands who knows nothing of the turn."""
    return story.place_of(0, 0)


async def worker_events(
    reader: Reader, tellings: Sequence[Telling], last_event_id: Place | None
) -> AsyncGenerator[bytes]:
    """A whole worker: what has been, then what happens, until the worker is idle."""
    index, place = 0, None
    if last_event_id is not None:
        index, place = await _resumed_at(reader, tellings, last_event_id)
    if place is None:
        ended = [telling for telling in tellings if telling.status == "completed"]
        idle = len(ended) == len(tellings)
        for telling in ended:
            yield _ended_messages(telling, is_last=idle and telling is ended[-1])
        if idle:
            last = tellings[-1]
            yield (await reader.worker_event(_end_of(last), None)).encode()
            return
        index = next(i for i, telling in enumerate(tellings) if telling.status != "completed")
    while True:
        for telling in tellings[index:]:
            async for chunk in _follow(reader, telling, place, with_instruction=True):
                yield chunk
            if reader.services.draining.is_set():
                return
            place = None
        index = len(tellings)
        tellings = await reading.tellings(
            reader.services.database, reader.organization_id, reader.worker_id
        )
        if len(tellings) == index:
            return


async def current_turn_events(
    reader: Reader, telling: Telling, place: Place | None
) -> AsyncGenerator[bytes]:
    """One turn only, without its instruction."""
    async for chunk in _follow(reader, telling, place, with_instruction=False):
        yield chunk


async def place_to_resume(
    reader: Reader, tellings: Sequence[Telling], last_event_id: Place | None
) -> tuple[Telling | None, Place | None]:
    """For a reader of one turn: which turn to tell, and from where. None: there is nothing."""
    if last_event_id is not None:
        index, place = await _resumed_at(reader, tellings, last_event_id)
        if place is not None and not _is_end_of(tellings[index], place):
            return tellings[index], place
    current = next((turn for turn in tellings if turn.status != "completed"), None)
    return current, None


async def _follow(
    reader: Reader, telling: Telling, place: Place | None, *, with_instruction: bool
) -> AsyncGenerator[bytes]:
    async with reader.services.hub.follow(telling.story(), reads=True) as live:
        if place is None:
            begin = before_instruction if with_instruction else after_instruction
            place = begin(live.story)
        async with contextlib.aclosing(reader.turn(live, place)) as chunks:
            async for chunk in chunks:
                yield chunk


async def _resumed_at(
    reader: Reader, tellings: Sequence[Telling], last_event_id: Place
) -> tuple[int, Place | None]:
    """Where in these turns the place is; (0, None) for a place that was never told."""
    for index, telling in enumerate(tellings):
        if telling.id != last_event_id.turn_id:
            continue
        async with reader.services.hub.follow(telling.story(), reads=False) as live:
            if live.story.knows(last_event_id, complete=live.executing):
                return index, last_event_id
    return 0, None


def _end_of(telling: Telling, offset: int = 1) -> Place:
    """The place of an ended turn's terminal event; see `turns.stories.tell_ending`."""
    number = len(telling.story().entries) + telling.entry_count + 1
    return Place(telling.id, Take(telling.attempt, telling.retry), number, offset)


def _is_end_of(telling: Telling, place: Place) -> bool:
    return telling.status == "completed" and place == _end_of(telling)


def _ended_messages(telling: Telling, *, is_last: bool) -> bytes:
    """An ended turn as its two messages; as one, if the agent did nothing."""
    story = telling.story()
    user = workers.dump(story.entries[0].data)
    place = _end_of(telling)
    if is_last:
        # `data-worker` follows; a reader who is cut off before it still gets it.
        place = Place(place.turn_id, place.take, place.number - 1, 0)
    if telling.assistant_message is None:
        return _message_event(place, user)
    return _message_event(story.place_of(0), user) + _message_event(
        place, telling.assistant_message
    )


def _message_event(place: Place, message: str) -> bytes:
    return (
        f'id: {place}\ndata: {{"type":"data-message","data":{message},"transient":true}}\n\n'
    ).encode()
