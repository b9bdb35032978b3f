"""The answers to the two POSTs that run a turn: blocking, streaming, or at once."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from handinger import attachments, workers
from handinger.api import sse
from handinger.api.delivery import CountedAnswer, Gone, hanging_up
from handinger.api.deps import Services
from handinger.api.errors import request_error_response
from handinger.errors import NotFound, Unavailable
from handinger.ids import OrganizationId
from handinger.live import LiveTurn
from handinger.story import Story
from handinger.turns import reading, stories
from handinger.turns.accept import Accepted, NewTurn

logger = logging.getLogger(__name__)

# From here on a blocking answer begins with white space, so that nothing between takes it for dead.
_KEEP_ALIVE_AFTER_S = 20.0
_KEEP_ALIVE_INTERVAL_S = 10.0

SHUTTING_DOWN = "The server is shutting down; send this again and it goes on where it was."


async def run_turn(
    request: Request,
    services: Services,
    organization_id: OrganizationId,
    *,
    turn: NewTurn,
    stream: bool,
    with_messages: bool,
    accepting: Callable[[NewTurn], Awaitable[Accepted]],
) -> Response:
    """Accept a turn, or join it, and answer as the request wants it."""
    async with contextlib.AsyncExitStack() as stack:
        live = await stack.enter_async_context(
            services.hub.follow(_new_story(turn), reads=stream, new=True)
        )
        if stream:
            turn = replace(turn, asking=services.hub.asking(turn.id))
        accepted = await accepting(turn)
        live.accepted = True
        reader = sse.Reader(services, organization_id, accepted.worker_id, with_messages)
        headers: dict[str, str] = {
            "X-Handinger-Worker-Id": accepted.worker_id,
            "X-Handinger-Turn-Id": accepted.turn_id,
        }
        if _responds_async(request):
            return await _at_once(reader, accepted, headers)
        if accepted.joined:
            await stack.aclose()
            joined = await _joined_story(reader, accepted)
            live = await stack.enter_async_context(services.hub.follow(joined, reads=stream))
        held = stack.pop_all()
        if stream:
            return sse.response(_turn_events(held, reader, live), headers)
        return BlockingAnswer(held, reader, live, headers)


def _new_story(turn: NewTurn) -> Story:
    """It begins before the turn is accepted, so that nobody can miss a word."""
    return stories.new_story(
        turn.id,
        turn.worker_id,
        input=turn.instruction.input,
        source=turn.instruction.source,
        created_at=turn.created_at,
        attached=turn.instruction.attachments,
    )


def _responds_async(request: Request) -> bool:
    """RFC 7240, section 4.1."""
    preferences = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(preference.split(";")[0].strip() == "respond-async" for preference in preferences)


async def _at_once(reader: sse.Reader, accepted: Accepted, headers: dict[str, str]) -> Response:
    view = await workers.view(
        reader.services.database,
        reader.organization_id,
        accepted.worker_id,
        with_messages=reader.with_messages,
    )
    body = workers.wire(view, reader.services.settings)
    headers = {**headers, "Preference-Applied": "respond-async"}
    deliveries = reader.services.deliveries
    return CountedAnswer(body, deliveries, accepted.turn_id, status=202, headers=headers)


async def _joined_story(reader: sse.Reader, accepted: Accepted) -> Story:
    turn = await reading.view(
        reader.services.database, reader.organization_id, accepted.worker_id, accepted.turn_id
    )
    return stories.new_story(
        turn.id,
        turn.worker_id,
        input=turn.input,
        source=turn.source,
        created_at=turn.created_at,
        attached=attachments.of_rows(turn.attachments),
    )


async def _turn_events(
    held: contextlib.AsyncExitStack, reader: sse.Reader, live: LiveTurn
) -> AsyncGenerator[bytes]:
    async with held:
        async with contextlib.aclosing(
            reader.turn(live, sse.after_instruction(live.story))
        ) as chunks:
            async for chunk in chunks:
                yield chunk
        if live.story.ended:
            reader.services.deliveries.note(live.story.turn_id)


class BlockingAnswer(CountedAnswer):
    """The worker as JSON, once the turn has ended; white space keeps the connection until then."""

    def __init__(
        self,
        held: contextlib.AsyncExitStack,
        reader: sse.Reader,
        live: LiveTurn,
        headers: dict[str, str],
    ) -> None:
        super().__init__(None, reader.services.deliveries, live.story.turn_id, headers=headers)
        del self.headers["content-length"]
        self._held = held
        self._reader = reader
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client hangs up first; the turn goes on either way."""
        async with self._held, hanging_up(receive) as gone:
            if await self._wait_for_end(gone, send):
                await self._deliver(await self._told(), gone, send)
            else:
                await self._give_up(gone, scope, receive, send)

    async def _wait_for_end(self, gone: Gone, send: Send) -> bool:
        draining = self._reader.services.draining
        ended = asyncio.ensure_future(self._live.wait_for_end())
        stopped = asyncio.ensure_future(draining.wait())
        timeout_s = _KEEP_ALIVE_AFTER_S
        try:
            while True:
                await asyncio.wait(
                    {ended, gone, stopped},
                    timeout=timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if ended.done():
                    ended.result()
                    return True
                if gone.done() or stopped.done():
                    return False
                timeout_s = _KEEP_ALIVE_INTERVAL_S
                await self._begin(send)
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
        finally:
            ended.cancel()
            stopped.cancel()

    async def _told(self) -> bytes:
        try:
            view = await self._view()
        except NotFound as error:
            if not self._has_begun:
                raise
            # Deleted while its answer was awaited; the status is told already.
            return workers.dump({"error": error.message, "code": error.code}).encode()
        return workers.wire(view, self._reader.services.settings).encode()

    async def _view(self) -> workers.WorkerView:
        return await workers.view(
            self._reader.services.database,
            self._reader.organization_id,
            self._reader.worker_id,
            turn_id=self._live.story.turn_id,
            with_messages=self._reader.with_messages,
        )

    async def _give_up(self, gone: Gone, scope: Scope, receive: Receive, send: Send) -> None:
        if gone.done():
            return
        if not self._has_begun:
            refusal = request_error_response(Unavailable(SHUTTING_DOWN, retry_after_s=1))
            for name in ("X-Handinger-Worker-Id", "X-Handinger-Turn-Id"):
                refusal.headers[name] = self.headers[name]
            await refusal(scope, receive, send)
        # Else the answer has begun as a 200: returning without its end cuts the connection, so that
        # the client notices, sends the request again, and joins.
