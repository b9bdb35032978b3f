"""How a turn is told to one reader, where a server in between would take too long to show it."""

import asyncio
import contextlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest

from handinger.api import sse
from handinger.api.deps import Services
from handinger.ids import OrganizationId, TurnId, WorkerId
from handinger.live import LiveTurn
from handinger.turns import stories

TURN = TurnId("trn_" + "0" * 32)
WORKER = WorkerId("wrk_" + "0" * 32)


def test_news_that_cannot_be_told_put_no_ping_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse, "PING_AFTER_S", 0.3)
    assert asyncio.run(_told_while_nothing_is_said()) == b": ping\n\n"


async def _told_while_nothing_is_said() -> bytes:
    """What a reader hears after `start` of a turn that changes all the time and says nothing."""
    story = stories.new_story(
        TURN, WORKER, input="Hello", source="api", created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    live = LiveTurn(story)
    services = cast(Services, SimpleNamespace(draining=asyncio.Event()))
    reader = sse.Reader(services, OrganizationId("org_" + "0" * 32), WORKER)

    async def change() -> None:
        while True:
            live.changed()
            await asyncio.sleep(0.02)

    changing = asyncio.create_task(change())
    try:
        chunks = reader.turn(live, sse.after_instruction(story))
        async with contextlib.aclosing(chunks):
            assert b'"type":"start"' in await anext(chunks)
            return await asyncio.wait_for(anext(chunks), 10)
    finally:
        changing.cancel()
