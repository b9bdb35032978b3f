"""Answers whose arrival counts: once one went out in full, a request like it is a new one."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from handinger.ids import ScheduleId, TurnId
from handinger.turns.deliveries import Deliveries

_PIECE_BYTES = 64 * 1024

Gone = asyncio.Future[None]
"""Done once the client has hung up."""


class CountedAnswer(Response):
    """JSON about what a request made. What the client did not stay for, its retry is told again."""

    def __init__(
        self,
        content: str | None,
        deliveries: Deliveries,
        made: TurnId | ScheduleId,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(content, status, headers=headers, media_type="application/json")
        self._deliveries = deliveries
        self._made = made
        self._has_begun = False

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        async with hanging_up(receive) as gone:
            await self._deliver(bytes(self.body), gone, send)

    async def _begin(self, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )

    async def _deliver(self, body: bytes, gone: Gone, send: Send) -> None:
        """Send the body, and note it unless the client hangs up before it went out in full.

        In pieces, each sent when the connection has taken most of those before it, so that a client
        that hangs up in the middle is noticed.
        """
        if not self._has_begun:
            self.headers["content-length"] = str(len(body))
        await self._begin(send)
        for start in range(0, len(body), _PIECE_BYTES):
            if gone.done():
                return
            piece = body[start : start + _PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if gone.done():
            return
        await send({"type": "http.response.body", "body": b""})
        self._deliveries.note(self._made)


@contextlib.asynccontextmanager
async def hanging_up(receive: Receive) -> AsyncGenerator[Gone]:
    """Watch whether the client hangs up, within this block, or has done so before."""
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.sleep(0)  # So that it looks once before anything is sent.
        yield gone
    finally:
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
