"""What servers answer with that want to be heard out for ever, or unpacked."""

import gzip

import httpx2
import pytest
from tests.support.site import Reply, Site

from handinger.agent.bounded_http import AnswerBound

pytestmark = pytest.mark.anyio

PACKED = Reply(gzip.compress(b"x" * 1000), headers={"Content-Encoding": "gzip"})


def client_of(bound: AnswerBound) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(headers=bound.headers, event_hooks={"response": [bound.hold]})


async def test_an_answer_is_left_at_the_limit():
    with Site({"/fits": Reply("x" * 1000), "/larger": Reply("x" * 1001)}) as site:
        bound = AnswerBound(1000)
        async with client_of(bound) as client:
            assert len((await client.get(f"{site.origin}/fits")).content) == 1000
            assert not bound.exceeded
            with pytest.raises(httpx2.ReadError, match="larger than 1000 bytes"):
                await client.get(f"{site.origin}/larger")
            assert bound.exceeded


async def test_nothing_is_asked_for_or_taken_that_has_to_be_unpacked():
    with Site({"/": PACKED}) as site:
        async with client_of(AnswerBound(1000)) as client:
            with pytest.raises(httpx2.DecodingError):
                await client.get(site.origin)
        assert site.headers[-1]["accept-encoding"] == "identity"
