"""The model calls of an attempt: planned so that they fit, made, and journaled with what they cost.

A failure that may pass is for the loop to repeat; nothing is repeated here.
"""

import asyncio
import contextlib
from collections.abc import Generator, Sequence
from datetime import UTC, datetime

import psycopg
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)

from handinger.agent import conversation as conversations
from handinger.agent import model as models
from handinger.agent.attempt import Attempt, Node, Run, seconds_until
from handinger.agent.metering import Plan, Remeasured
from handinger.agent.tool_calls import ToolCalls
from handinger.agent.ui_events import clean
from handinger.budgets import Reserve
from handinger.turns import endings
from handinger.turns.endings import Ending, IncompleteReason
from handinger.turns.journal import Record, ToolRecord

_TELL_AFTER_S = 0.02


class CallCutOff(Exception):
    """The time for a model call that need not conclude is over; the turn concludes."""


class ModelFailed(Exception):
    """A model call failed; `cause` says how, `was_answering` whether its answer had begun."""

    def __init__(self, cause: Exception, *, was_answering: bool = False) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.cause = cause
        self.was_answering = was_answering


class ModelCalls:
    """Makes the model calls of one attempt."""

    def __init__(self, attempt: Attempt, tools: ToolCalls) -> None:
        self._attempt = attempt
        self._tools = tools

    async def planned(self) -> Plan | Ending | None:
        """How the next call is made; or the ending of the turn, if no further call fits.

        None: none fits as far as is known, but the provider may count less.
        """
        attempt = self._attempt
        meter, allowance = attempt.meter, attempt.allowance
        step = attempt.conversation.responses_made + 1
        if meter.planned_step != step:
            await attempt.write(Record(reserve=attempt.next_call()))
        calls_made, now = attempt.journal.spending.steps, datetime.now(UTC)
        plan = meter.plan
        is_spent = allowance.is_spent(calls_made=calls_made, now=now)
        if is_spent or (plan is None and not meter.wants_count):
            return self._spent_ending()
        concludes = allowance.must_conclude(calls_made=calls_made, now=now)
        attempt.context.concluding = concludes or (plan is not None and plan.concludes)
        attempt.context.step = step
        return plan

    async def make(self, run: Run, node: Node, plan: Plan | None, *, mark: int) -> Node:
        """Call the model and journal its response, and the turn's end if that is its last word.

        `mark`: so many messages of the run are in the journal. Raises ModelFailed; CallCutOff when
        only time for the concluding call is left; Remeasured, always without a plan.
        """
        attempt = self._attempt
        attempt.teller.begin_step(attempt.context.step)
        next_node = await self._call(run, node)
        assert plan is not None
        messages = run.ctx.state.message_history[mark:]
        response = messages[-1]
        assert isinstance(response, ModelResponse)
        price = attempt.process.metering.price
        attempt.answered(models.charge(response, plan.reservation, price))
        # The request of a conclusion may leave out results, and some providers' the tools.
        if attempt.context.pictures.is_complete and not attempt.context.concluding:
            attempt.meter.bounds.note(response)
        _make_storable(response)
        attempt.teller.response(response)
        await self._store(messages, response)
        return next_node

    # Calling

    async def _call(self, run: Run, node: Node) -> Node:
        """Call the model; with streaming only if somebody reads along."""
        attempt = self._attempt
        is_answering = False
        timeout = asyncio.timeout(
            None if attempt.context.concluding else seconds_until(attempt.allowance.conclude_at)
        )
        try:
            async with timeout:
                if attempt.process.hub.has_readers(attempt.live):
                    with self._telling_soon():
                        async with node.stream(run.ctx) as events:
                            async for event in events:
                                is_answering = True
                                if attempt.teller.stream_event(event):
                                    attempt.tell()
                return await run.next(node)
        except (psycopg.Error, Remeasured):
            raise
        except Exception as error:
            if timeout.expired():
                raise CallCutOff from error
            # Providers' clients raise errors of their own for what breaks in mid-stream.
            raise ModelFailed(error, was_answering=is_answering) from error

    @contextlib.contextmanager
    def _telling_soon(self) -> Generator[None]:
        """Tell that a call begins; but first the request goes out, which would wait for it."""
        telling = asyncio.get_running_loop().call_later(_TELL_AFTER_S, self._attempt.tell)
        try:
            yield
        finally:
            telling.cancel()

    # Journaling

    async def _store(self, messages: Sequence[ModelMessage], response: ModelResponse) -> None:
        attempt = self._attempt
        ending = self._ending_with(response)
        calls = conversations.tool_calls(response)
        closing: list[ModelMessage] = []
        if not calls:
            attempt.teller.finish_step()
        elif ending is not None:
            closing.append(ModelRequest(parts=self._tools.refuse(calls)))
        messages = [*messages, *closing]
        await attempt.write(
            Record(
                messages=[conversations.dump(message) for message in messages],
                started_tools=[
                    ToolRecord(attempt.context.step, call.tool_call_id, call.tool_name, None)
                    for call in calls
                ],
                reserve=self._reserve_after(calls, messages),
                ending=ending,
            ),
            messages,
        )

    def _reserve_after(
        self, calls: Sequence[ToolCallPart], messages: Sequence[ModelMessage]
    ) -> Reserve:
        """Reserves for the tools that a response calls, or else for the next model call."""
        attempt = self._attempt
        told = [*attempt.conversation.messages, *messages]
        step = attempt.context.step
        if calls:
            return attempt.meter.for_tools(calls, told, step=step)
        return attempt.meter.for_call(told, step=step + 1)

    # Endings

    def _ending_with(self, response: ModelResponse) -> Ending | None:
        """How this response ends the turn, if it does."""
        if self._attempt.context.concluding:
            return Ending(incomplete_reason="budget_exhausted")
        if conversations.tool_calls(response) or not (response.text or "").strip():
            return None
        if models.finished_by(response) == "length":
            return Ending(incomplete_reason=self.output_limit_reason())
        return endings.COMPLETED

    def _spent_ending(self) -> Ending:
        attempt = self._attempt
        if attempt.meter.plan is not None or attempt.conversation.responses_made:
            return Ending(incomplete_reason="budget_exhausted")
        return Ending(
            error_code="budget_too_small",
            error_message=attempt.meter.too_small(),
        )

    def output_limit_reason(self) -> IncompleteReason:
        """Why an answer is cut short that has reached its output limit."""
        plan = self._attempt.meter.plan
        return "budget_exhausted" if plan and plan.is_lowered else "max_output_tokens"


def _make_storable(response: ModelResponse) -> None:
    """Clean what the database cannot hold, and give every call an id of its own.

    Some models give several calls of one response the same id; results are matched by it.
    """
    seen: set[str] = set()
    for part in response.parts:
        if isinstance(part, TextPart | ThinkingPart):
            part.content = clean(part.content)
        if not isinstance(part, ToolCallPart):
            continue
        part.tool_name = clean(part.tool_name)  # pyright: ignore[reportAttributeAccessIssue] # Fixed only for the library's own tools.
        part.tool_call_id = clean(part.tool_call_id)
        if isinstance(part.args, str):
            part.args = clean(part.args)
        call_id, number = part.tool_call_id, 2
        while part.tool_call_id in seen:
            part.tool_call_id = f"{call_id}-{number}"
            number += 1
        seen.add(part.tool_call_id)
