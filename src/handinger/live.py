"""The hub of live stories: those told by this process, and mirrors of those told by others.

Stored entries are read from the database; what a model says at this moment goes from the executing
process to the others over LISTEN/NOTIFY, and only while somebody there asks for it.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any

import psycopg

from handinger import ids
from handinger.ids import TurnId
from handinger.storage.database import Connection, Database
from handinger.story import BEFORE_ANY_TAKE, Entry, Kind, Place, Story, Take

logger = logging.getLogger(__name__)

CHANNEL = "handinger_live"

# NOTIFY carries less than 8000 bytes; a character takes at most 6 in this JSON.
_SLICE_CHARACTERS = 1_200
_DATA_CHARACTERS = 400
_RELAY_INTERVAL_S = 0.04
_ASK_INTERVAL_S = 5.0
_ASK_EXPIRES_S = 15.0
_ASK_AGAIN_INTERVAL_S = 0.1
# A notice can be lost when a connection breaks; followed stories are re-read this often anyway.
_REFRESH_INTERVAL_S = 2.0
# More can hardly be asked for in the moment from a turn's claim to its begin.
_CANCELS_KEPT = 1000


@dataclass(slots=True, eq=False)
class LiveTurn:
    """One turn's story as it is known here, with those who follow it."""

    story: Story
    executing: bool = False
    accepted: bool = True  # False while its turn may not be in the database yet
    followers: int = 0  # who wait for the turn in any way
    readers: int = 0  # who want each character
    changes: int = 0  # so often it has changed
    _waiters: set[asyncio.Future[None]] = field(default_factory=set[asyncio.Future[None]])

    def changed(self) -> None:
        """Wake everybody who follows."""
        self.changes += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self, timeout_s: float | None = None, *, since: int | None = None) -> bool:
        """Wait for the next change, or for one after so many; False if there was none in time."""
        if since is not None and since != self.changes:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    async def wait_for_end(self) -> None:
        """Wait until the turn has ended."""
        while not self.story.ended:
            await self.wait()


Refresh = Callable[[Story], Awaitable[None]]
"""Brings a story up to what the database has of it."""

Moved = Callable[[Sequence[Story]], Awaitable[set[TurnId]]]
"""Which of these turns the database knows more of."""


@dataclass(slots=True)
class _Asker:
    """Another process with readers, and how far it was told."""

    expires_at: float
    place: Place | None = None
    committed: int = 0  # so many entries it knows to be stored


class Hub:
    """Who tells and who follows, in this process."""

    def __init__(self, database: Database, refresh: Refresh, moved: Moved) -> None:
        self.node = ids.new("node")
        self._database = database
        self._refresh = refresh
        self._moved = moved
        self._turns: dict[TurnId, LiveTurn] = {}
        self._askers: dict[TurnId, dict[str, _Asker]] = {}
        self._cancel_callbacks: dict[TurnId, Callable[[], None]] = {}
        # The latest cancels of turns that are not executed here, or not yet: one that is claimed
        # already, and not begun.
        self._cancels = deque[TurnId](maxlen=_CANCELS_KEPT)
        self._dirty: set[TurnId] = set()
        self._relay_wanted = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        # Turns of which something is missing here, and whether that was noticed once more.
        self._asking_again: dict[LiveTurn, bool] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Listen to the other processes, and tell them what they ask for, within this block."""
        ready = asyncio.Event()
        tasks = [
            asyncio.create_task(self._listen(ready), name="live listen"),
            asyncio.create_task(self._relay(), name="live relay"),
            asyncio.create_task(self._keep_asking(), name="live ask"),
        ]
        try:
            await ready.wait()
            yield
        finally:
            for task in [*tasks, *self._background]:
                task.cancel()
            await asyncio.gather(*tasks, *self._background, return_exceptions=True)

    # Telling

    @contextlib.contextmanager
    def executing(self, story: Story, *, on_cancel: Callable[[], None]) -> Generator[LiveTurn]:
        """This process tells the story within this block."""
        live = self._turns.get(story.turn_id)
        if live is None:
            live = self._turns[story.turn_id] = LiveTurn(story)
        else:
            live.story = story
        live.executing = True
        self._cancel_callbacks[story.turn_id] = on_cancel
        if story.turn_id in self._cancels:
            on_cancel()
        self.told(live)
        try:
            yield live
        finally:
            # A later attempt of this process may have taken over already.
            if self._cancel_callbacks.get(story.turn_id) is on_cancel:
                live.executing = False
                del self._cancel_callbacks[story.turn_id]
                self.told(live)
                self._forget_if_unused(live)

    def told(self, live: LiveTurn) -> None:
        """Something was added to a story that is executed here."""
        live.changed()
        if live.story.turn_id in self._askers:
            self._dirty.add(live.story.turn_id)
            self._relay_wanted.set()

    def has_readers(self, live: LiveTurn) -> bool:
        """Whether anybody, here or elsewhere, reads along."""
        if live.readers:
            return True
        now = time.monotonic()
        askers = self._askers.get(live.story.turn_id, {})
        return any(asker.expires_at > now for asker in askers.values())

    @property
    def executing_count(self) -> int:
        """How many turns are executed here."""
        return sum(live.executing for live in self._turns.values())

    @property
    def reader_count(self) -> int:
        """How many readers follow a turn here."""
        return sum(live.readers for live in self._turns.values())

    # Following

    @contextlib.asynccontextmanager
    async def follow(
        self, story: Story, *, reads: bool, new: bool = False
    ) -> AsyncGenerator[LiveTurn]:
        """Follow a turn, whoever executes it. `reads`: each character, not just the end.

        `story` is used if nobody here knows the turn yet. A `new` turn is about to be accepted,
        with `asking` for the other processes; whoever follows it from before that misses nothing,
        and says so by `accepted`.
        """
        live = self._turns.setdefault(story.turn_id, LiveTurn(story, accepted=not new))
        live.followers += 1
        live.readers += reads
        try:
            if not live.executing and not new:
                await self._refresh(live.story)
                if reads and not live.story.ended and not live.executing:
                    await self._notify(self._ask(live.story.turn_id))
            yield live
        finally:
            live.followers -= 1
            live.readers -= reads
            self._forget_if_unused(live)

    def asking(self, turn_id: TurnId) -> str:
        """What asks the process that executes a turn, over CHANNEL, to tell it to this one."""
        return json.dumps(self._ask(turn_id))

    def _ask(self, turn_id: TurnId) -> Mapping[str, object]:
        return {"ask": turn_id, "from": self.node, "new": True}

    def _forget_if_unused(self, live: LiveTurn) -> None:
        turn_id = live.story.turn_id
        if not live.followers and not live.executing and self._turns.get(turn_id) is live:
            del self._turns[turn_id]

    def _refresh_soon(self, turn_id: TurnId, take: Take = BEFORE_ANY_TAKE) -> None:
        live = self._turns.get(turn_id)
        if live is not None and not live.executing and live.accepted:
            self._in_background(self._refresh_and_wake(live, take))

    def _in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _refresh_and_wake(self, live: LiveTurn, take: Take = BEFORE_ANY_TAKE) -> None:
        """`take`: the one that the executing process has begun."""
        try:
            await self._refresh(live.story)
        except psycopg.Error as error:
            logger.warning("A followed turn could not be read again: %s", error)
        if take > live.story.take and not live.story.ended and not live.executing:
            live.story.begin(take)
        live.changed()

    # The wire between processes

    async def _notify(self, *payloads: Mapping[str, object], channel: str = CHANNEL) -> None:
        texts = [json.dumps(payload, ensure_ascii=False) for payload in payloads]
        async with self._database.system().statements() as sql:
            await sql.run(
                "SELECT pg_notify(%(channel)s, payload) FROM unnest(%(payloads)s::text[]) payload",
                channel=channel,
                payloads=texts,
            )

    async def _listen(self, ready: asyncio.Event) -> None:
        while True:
            try:
                connection = await self._database.dedicated_connection()
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    await connection.execute(f"LISTEN {self.node}".encode())
                    ready.set()
                    await self._catch_up()
                    await self._handle_notices(connection)
            except psycopg.Error as error:
                logger.warning("The live connection broke and is made again: %s", error)
                await asyncio.sleep(0.2)

    async def _handle_notices(self, connection: Connection) -> None:
        async for notice in connection.notifies():
            try:
                self._handle(json.loads(notice.payload))
            except (ValueError, KeyError, TypeError) as error:
                # The channel is open to whoever may connect; a foreign notice must not end it.
                logger.warning("A notice on %s is not ours: %r", notice.channel, error)

    def _handle(self, notice: dict[str, Any]) -> None:
        if "ended" in notice:
            self._refresh_soon(notice["ended"])
        elif "cancel" in notice:
            callback = self._cancel_callbacks.get(notice["cancel"])
            if callback is None:
                self._cancels.append(notice["cancel"])
            else:
                callback()
        elif "ask" in notice:
            self._note_asker(notice)
        elif "stored" in notice:
            self._refresh_soon(notice["stored"], Take(*notice["take"]))
        elif "text" in notice and not self._mirror(notice):
            self._ask_again_soon(self._turns[notice["turn"]])

    async def _catch_up(self) -> None:
        """After a break in listening anything may have happened."""
        for live in list(self._turns.values()):
            if live.executing or not live.accepted:
                continue
            await self._ask_anew(live)

    async def _ask_anew(self, live: LiveTurn) -> None:
        """Read what is stored, and ask to be told all that is not."""
        await self._refresh_and_wake(live)
        if live.readers and not live.story.ended and not live.executing:
            await self._notify(self._ask(live.story.turn_id))

    def _ask_again_soon(self, live: LiveTurn) -> None:
        """What was told comes after something that is stored, but was not read here yet."""
        if live in self._asking_again:
            self._asking_again[live] = True
        else:
            self._asking_again[live] = False
            self._in_background(self._ask_again(live))

    async def _ask_again(self, live: LiveTurn) -> None:
        try:
            missing = True
            while missing:
                self._asking_again[live] = False
                await self._ask_anew(live)
                await asyncio.sleep(_ASK_AGAIN_INTERVAL_S)
                # More may have been stored before the answer came, which has a gap again then.
                missing = self._asking_again[live]
        except psycopg.Error as error:
            logger.warning("Another process could not be asked: %s", error)
        finally:
            del self._asking_again[live]

    async def _refresh_moved(self, followed: Sequence[LiveTurn]) -> None:
        """One look at all of them: those that have not moved cost nothing more."""
        if not followed:
            return
        try:
            moved = await self._moved([live.story for live in followed])
        except psycopg.Error as error:
            logger.warning("Followed turns could not be looked at: %s", error)
            return
        for live in followed:
            if live.story.turn_id in moved and not live.executing:
                await self._refresh_and_wake(live)

    async def _keep_asking(self) -> None:
        asked_at = 0.0
        while True:
            await asyncio.sleep(_REFRESH_INTERVAL_S)
            followed = [
                live for live in self._turns.values() if live.accepted and not live.executing
            ]
            await self._refresh_moved(followed)
            self._drop_expired_askers()
            if time.monotonic() - asked_at < _ASK_INTERVAL_S:
                continue
            asked_at = time.monotonic()
            asks = [
                {"ask": live.story.turn_id, "from": self.node, "new": False}
                for live in followed
                if live.readers and not live.story.ended
            ]
            if asks:
                try:
                    await self._notify(*asks)
                except psycopg.Error as error:
                    logger.warning("Other processes could not be asked: %s", error)

    def _drop_expired_askers(self) -> None:
        now = time.monotonic()
        for turn_id in list(self._askers):
            askers = self._askers[turn_id]
            for node in [node for node, asker in askers.items() if asker.expires_at <= now]:
                del askers[node]
            if not askers:
                del self._askers[turn_id]

    # Telling other processes

    def _note_asker(self, notice: dict[str, Any]) -> None:
        if notice["from"] == self.node:
            return
        turn_id = TurnId(notice["ask"])
        askers = self._askers.setdefault(turn_id, {})
        known = askers.get(notice["from"])
        if known is None or notice["new"]:
            known = askers[notice["from"]] = _Asker(0.0)
        known.expires_at = time.monotonic() + _ASK_EXPIRES_S
        live = self._turns.get(turn_id)
        if live is not None and live.executing:
            self._dirty.add(turn_id)
            self._relay_wanted.set()

    async def _relay(self) -> None:
        while True:
            await self._relay_wanted.wait()
            self._relay_wanted.clear()
            dirty, self._dirty = self._dirty, set()
            for turn_id in dirty:
                live = self._turns.get(turn_id)
                if live is None:
                    continue
                for node, asker in list(self._askers.get(turn_id, {}).items()):
                    payloads = self._news_for(asker, live.story)
                    if not payloads:
                        continue
                    try:
                        await self._notify(*payloads, channel=node)
                    except psycopg.Error as error:
                        asker.place = None
                        logger.warning("Another process could not be told: %s", error)
            await asyncio.sleep(_RELAY_INTERVAL_S)

    def _news_for(self, asker: _Asker, story: Story) -> list[dict[str, object]]:
        """What that process does not know yet: that something was stored, or text that is not."""
        news: list[dict[str, object]] = []
        stored_end = story.place_of(story.committed - 1)
        place = asker.place
        if place is None or place.take != story.take or asker.committed != story.committed:
            news.append({"stored": story.turn_id, "take": list(story.take)})
            asker.committed = story.committed
        if place is None or place.take != story.take or place.number < stored_end.number:
            place = stored_end
        for number in range(max(place.number, story.committed), len(story.entries)):
            entry = story.entries[number]
            offset = place.offset if place.number == number else -1
            if len(json.dumps(entry.data)) > _DATA_CHARACTERS:
                break  # A tool's output, say. It will be stored in a moment.
            if offset < entry.told:
                news.extend(_slices(story.turn_id, number, entry, max(offset, 0)))
            place = Place(story.turn_id, entry.take, number, entry.told)
        asker.place = Place(story.turn_id, story.take, place.number, place.offset)
        return news

    def _mirror(self, notice: dict[str, Any]) -> bool:
        """Take over what another process tells; False if something before it is missing here."""
        live = self._turns.get(notice["turn"])
        if live is None or live.executing or live.story.ended:
            return True
        story = live.story
        take = Take(*notice["take"])
        number: int = notice["number"]
        if take < story.take or number < story.committed:
            return True  # Of a withdrawn take, or stored already.
        if take > story.take:
            if number > story.committed:
                return False
            story.begin(take)
        known = story.entries[number].length if number < len(story.entries) else 0
        if number > len(story.entries) or notice["offset"] > known:
            return False
        if number == len(story.entries):
            story.tell(Kind(notice["kind"]), data=notice["data"], closed=False)
        entry = story.entries[number]
        if not entry.closed:
            entry.append(notice["text"][known - notice["offset"] :])
            entry.closed = notice["closed"]
            live.changed()
        return True


def _slices(turn_id: TurnId, number: int, entry: Entry, offset: int) -> Iterator[dict[str, object]]:
    """An entry from an offset on, in pieces that NOTIFY can carry."""
    text = entry.text_from(offset)
    for start in range(0, max(len(text), 1), _SLICE_CHARACTERS):
        yield {
            "text": text[start : start + _SLICE_CHARACTERS],
            "turn": turn_id,
            "take": list(entry.take),
            "number": number,
            "offset": offset + start,
            "kind": entry.kind.value,
            "data": entry.data,
            "closed": entry.closed and start + _SLICE_CHARACTERS >= len(text),
        }


def end_notice(turn_id: TurnId) -> str:
    """What tells every process, over CHANNEL, that this turn has ended."""
    return json.dumps({"ended": turn_id})


async def announce_cancel(connection: Connection, turn_id: TurnId) -> None:
    """Ask the executing process, when this transaction commits, to stop this turn."""
    await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, json.dumps({"cancel": turn_id})])
