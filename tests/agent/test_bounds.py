"""The bound of a call's input holds whatever becomes of the conversation and of the model.

The model here has said that the long instruction is a few tokens, which is credible; then it counts
each byte as one.
"""

from pathlib import Path

import pytest
from pydantic_ai import RunContext, Tool, ToolReturn
from pydantic_ai import exceptions as ai_errors
from pydantic_ai.models import ModelRequestContext
from tests.support.spending import LOOK, ONLY_MONEY, Answer, Stage, stage

from handinger import prices
from handinger.agent.counting import Counter
from handinger.agent.tools.context import ToolContext
from handinger.files import Workspace
from handinger.ids import WorkerId
from handinger.storage.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

LONG = "All of this was said. " * 1500
FEW = Answer(calls=[("look", {})], input_tokens=1000, output_tokens=10)
SUMMARY = Answer("It was said. " * 500, input_tokens=9000, output_tokens=2000)
TOO_LONG = ai_errors.ModelContextWindowExceededError("b", "The conversation is too long.")
REFUSED = ai_errors.ModelHTTPError(status_code=400, model_name="b")


def _is_bounded(here: Stage) -> bool:
    last = here.calls[-1]
    return last.reserved_input is not None and last.reserved_input >= last.bytes_sent


async def test_what_was_counted_is_believed(postgres: EmbeddedPostgres, tmp_path: Path):
    """Otherwise the tests below would say nothing."""
    answers = [FEW, Answer("Done.", output_tokens=10)]
    async with stage(postgres, tmp_path, lambda n: answers[n - 1], budgets=ONLY_MONEY) as here:
        await here.run("high", input=LONG)
    assert len(here.calls) == 2
    assert not _is_bounded(here)


async def test_what_was_counted_before_a_summary_is_not_believed_after_it(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    answers = [FEW, Answer(fails=TOO_LONG), SUMMARY, Answer("Done.", output_tokens=10)]
    async with stage(postgres, tmp_path, lambda n: answers[n - 1], budgets=ONLY_MONEY) as here:
        turn = await here.run("high", input=LONG)
    assert (turn["error"], len(here.calls)) == (None, 4)
    assert here.calls[-1].bytes_sent > len(LONG)
    assert _is_bounded(here)


async def test_nor_by_another_process_that_reads_the_conversation(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    answers = [FEW, Answer(fails=TOO_LONG), SUMMARY, Answer(fails=REFUSED), Answer("Done.")]
    async with stage(postgres, tmp_path, lambda n: answers[n - 1], budgets=ONLY_MONEY) as here:
        failed = await here.run("high", input=LONG)
        assert failed["error"]["code"] == "model_error"
        turn = await here.run("high", worker=WorkerId(failed["worker_id"]))
    assert (turn["error"], len(here.calls)) == (None, 5)
    assert here.calls[-1].bytes_sent > len(LONG)
    assert _is_bounded(here)


async def test_what_another_model_counted_is_not_believed(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    answers = [FEW, Answer("Done.", input_tokens=1000, output_tokens=10), Answer("Done.")]
    rates = {"*": {"input": 3, "output": 15}}
    async with stage(
        postgres, tmp_path, lambda n: answers[n - 1], budgets=ONLY_MONEY, prices=rates
    ) as here:
        first = await here.run("high", input=LONG)
        here.configured = here.configured.model_copy(update={"model": "a:c"})
        here.price = prices.of(here.configured)
        await here.run("high", worker=WorkerId(first["worker_id"]))
    assert len(here.calls) == 3
    assert _is_bounded(here)


async def show(ctx: RunContext[ToolContext]) -> ToolReturn:
    """Show a picture."""
    named = {"sha256": "0" * 64, "mediaType": "image/gif", "turn": ctx.deps.turn.id}
    return ToolReturn("Here it is.", metadata={"picture": named})


def _loads(monkeypatch: pytest.MonkeyPatch, *, is_loaded_at_once: bool) -> list[str]:
    """Every load of a picture from now on; the first may find the disk away."""
    loads: list[str] = []

    async def read(workspace: Workspace, sha256: str) -> bytes:
        loads.append(sha256)
        if not is_loaded_at_once and len(loads) == 1:
            raise OSError("The disk is away.")
        return b"GIF89a"

    monkeypatch.setattr(Workspace, "read_picture", read)
    return loads


@pytest.mark.parametrize("is_loaded_at_once", [True, False])
async def test_a_call_without_a_picture_bounds_none_with_it(
    postgres: EmbeddedPostgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_loaded_at_once: bool,
):
    """It could not be loaded for the call whose input was counted."""
    answers = [Answer(calls=[("show", {})], output_tokens=10), FEW, Answer("Done.")]
    loads = _loads(monkeypatch, is_loaded_at_once=is_loaded_at_once)

    async with stage(
        postgres,
        tmp_path,
        lambda n: answers[n - 1],
        tools=[LOOK, Tool(show)],
        budgets=ONLY_MONEY,
        image_input=True,
    ) as here:
        turn = await here.run("high")
    assert (turn["error"], len(here.calls), len(loads)) == (None, 3, 2)
    reserved = here.calls[-1].reserved_input
    assert reserved is not None
    assert (reserved >= 50_000) is not is_loaded_at_once


@pytest.mark.parametrize("is_loaded_at_once", [True, False])
async def test_nor_does_a_count_that_was_asked_for_without_it(
    postgres: EmbeddedPostgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_loaded_at_once: bool,
):
    """The disk was away when the request was made to be counted, and is back when it is sent."""
    answers = [Answer(calls=[("show", {})], output_tokens=10), Answer("Done.", output_tokens=10)]
    loads = _loads(monkeypatch, is_loaded_at_once=is_loaded_at_once)
    counted: list[int] = []

    async def count(counter: Counter, request: ModelRequestContext) -> int:
        counted.append(len(loads))
        return 2000

    monkeypatch.setattr(Counter, "count", count)
    # So that little can be answered by what is known without a count: each call is 0.16 USD.
    budgets = {"low": {"modelCalls": None, "usd": 0.36, "seconds": None}}
    async with stage(
        postgres,
        tmp_path,
        lambda n: answers[n - 1],
        tools=[Tool(show)],
        budgets=budgets,
        image_input=True,
    ) as here:
        here.counter = Counter(counts_all=True)
        turn = await here.run("low")
    assert (turn["error"], turn["incomplete_reason"], len(here.calls)) == (None, None, 2)
    assert counted == ([1] if is_loaded_at_once else [])
    assert len(loads) == 2
    reserved = here.calls[-1].reserved_input
    assert reserved is not None
    assert (reserved >= 50_000) is not is_loaded_at_once


async def test_a_call_that_concludes_is_bounded_with_the_note_that_it_sends_on_top(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """Also right behind a call that had no such note, and whose input was counted."""
    caps = {"low": {"modelCalls": 2, "usd": 5}}
    async with stage(postgres, tmp_path, lambda _: FEW, budgets=caps) as here:
        await here.run("low")
    first, last = here.calls
    assert (first.concluding, last.concluding) == (False, True)
    assert FEW.input_tokens is not None
    assert last.reserved_input is not None
    assert last.reserved_input - FEW.input_tokens >= last.bytes_sent - first.bytes_sent


async def test_what_was_counted_for_a_conclusion_is_not_believed(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """It may have left out results, and with some providers the tools."""
    caps = {**ONLY_MONEY, "low": {"modelCalls": 1, "usd": 5}}
    told = Answer("Done.", input_tokens=1000, output_tokens=10)
    async with stage(postgres, tmp_path, lambda _: told, budgets=caps) as here:
        first = await here.run("low", input=LONG)
        await here.run("high", worker=WorkerId(first["worker_id"]))
    assert [call.concluding for call in here.calls] == [True, False]
    assert _is_bounded(here)
