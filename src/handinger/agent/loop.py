"""Carries out one turn: model call, tools, model call, until there is an answer.

Nothing here is replayed. A run begins from the journal, wherever that stands, and each step is in
the journal before the next begins. So a repeated model call, a resumed turn and a turn taken over
from another process are the same thing: one more run.
"""

import asyncio
import logging
import random
from dataclasses import replace

from pydantic_ai import Agent, UsageLimits
from pydantic_ai import exceptions as ai_errors
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_graph import End

from handinger import metrics
from handinger.agent import conversation as conversations
from handinger.agent import model as models
from handinger.agent import prompt, tool_calls
from handinger.agent.attempt import Attempt, Node, seconds_until
from handinger.agent.compaction import Compacted, Compactor
from handinger.agent.metering import Remeasured
from handinger.agent.model_calls import CallCutOff, ModelCalls, ModelFailed
from handinger.agent.opening import Opening, Process
from handinger.agent.tool_calls import ToolCalls, ToolsCutOff
from handinger.live import LiveTurn
from handinger.story import Story
from handinger.turns import endings
from handinger.turns.claiming import ClaimedTurn
from handinger.turns.endings import Ending
from handinger.turns.journal import Record

logger = logging.getLogger(__name__)

_MAX_BACKOFF_S = 30.0
_MAX_RETRY_AFTER_S = 120.0
# Answers that have nothing to do with what was sent: who pays, who may, how often.
_NO_MATTER = (401, 402, 403, 429)


class _Released(Exception):
    """The server stops; the turn is at a safe point and is given back."""


class TurnRun:
    """Carries out one attempt at one turn."""

    def __init__(self, process: Process, turn: ClaimedTurn, story: Story, opening: Opening) -> None:
        self._process = process
        self._turn = turn
        self._attempt = Attempt(process, turn, story, opening)
        self._tools = ToolCalls(self._attempt)
        self._model = ModelCalls(self._attempt, self._tools)
        self._compactor = Compactor(self._attempt)
        self._failures = 0  # of the model, since its last answer

    @property
    def others_wait(self) -> bool:
        """Whether a turn may wait behind this one."""
        return self._attempt.journal.others_wait

    def cancel(self) -> None:
        """Somebody asks this turn to stop."""
        self._attempt.cancel()

    async def carry_out(self, live: LiveTurn) -> None:
        """Bring the turn to its end, or to a safe point if the server stops. Raises Superseded."""
        self._attempt.live = live
        try:
            await self._carry_out()
        finally:
            shell = self._attempt.context.shell
            if shell is not None:
                await shell.close()

    async def _carry_out(self) -> None:
        attempt = self._attempt
        try:
            ending = self._foregone_ending()
            if ending is None:
                ending = await self._work_until_stopped()
            if ending is not None:
                await self._close(ending)
        except asyncio.CancelledError:
            # The grace of a shutdown is over in the middle of a step; that step is repeated later.
            await attempt.settle()
            await attempt.release()
            raise
        if not attempt.ended:
            await attempt.release()
            return
        conversation = attempt.conversation
        conversation.last_id = attempt.journal.last_message_id or conversation.last_id
        self._process.conversations.keep(self._turn.worker_id, conversation)

    def _foregone_ending(self) -> Ending | None:
        """The ending of a turn that must not be worked on any more."""
        if self._attempt.journal.cancel_requested:
            return endings.CANCELLED
        crashes = self._turn.crashes
        if crashes < self._process.settings.max_attempts:
            return None
        return Ending(
            error_code="internal_error",
            error_message=(
                f"The server died {crashes} times while it carried out this turn, so the turn "
                "was given up. Try again, with a smaller instruction if you can."
            ),
        )

    # Stopping

    async def _work_until_stopped(self) -> Ending | None:
        """How the turn is to be closed; None if it is closed already, or given back."""
        attempt = self._attempt
        work = asyncio.create_task(self._work(), name=f"turn {self._turn.id}")
        cancelled = asyncio.create_task(attempt.cancelled.wait())
        try:
            await asyncio.wait(
                {work, cancelled},
                timeout=seconds_until(attempt.allowance.deadline),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done():
                return self._outcome(work)
            await self._interrupt(work)
            if attempt.ended:
                return None  # A commit was under way that has ended it.
            if attempt.journal.cancel_requested:
                return endings.CANCELLED
            return Ending(incomplete_reason="budget_exhausted")
        finally:
            cancelled.cancel()
            if not work.done():
                await self._interrupt(work)

    def _outcome(self, work: asyncio.Task[Ending | None]) -> Ending | None:
        try:
            return work.result()
        except _Released:
            return None

    async def _interrupt(self, work: asyncio.Task[Ending | None]) -> None:
        """End the work, but never in the middle of a transaction."""
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await self._attempt.settle()

    # Working

    async def _work(self) -> Ending | None:
        """Run the agent from the journal, again after each failure that may pass."""
        attempt = self._attempt
        while True:
            try:
                return await self._run_agent()
            except ToolsCutOff:
                await attempt.settle()
                await self._tools.cut_off()
            except CallCutOff:
                attempt.teller.withdraw()
                attempt.give_up_call()
                await attempt.write(Record(reserve=attempt.next_call()))
            except Remeasured:
                # It was not sent; the next plan knows how large it is.
                attempt.teller.withdraw()
                await attempt.write(Record(reserve=attempt.next_call()))
            except ai_errors.OutputTokenLimitExceeded:
                return Ending(incomplete_reason=self._model.output_limit_reason())
            except Compacted:
                self._failures = 0
            except ModelFailed as error:
                if self._compactor.can_make_room(error.cause):
                    continue
                ending = await self._back_off(error)
                if ending is not None:
                    return ending
            except ai_errors.AgentRunError as error:
                return _model_error(error)

    async def _run_agent(self) -> Ending | None:
        """One run of the agent, from what the journal holds to the end of the turn.

        None if the turn's end is in the journal already.
        """
        attempt = self._attempt
        attempt.stand_at_last_response()
        begun = attempt.conversation.of_turn > 0
        async with self._process.agent.iter(
            None if begun else prompt.instruction(self._turn),
            message_history=attempt.conversation.messages,
            conversation_id=self._turn.worker_id,
            deps=attempt.context,
            usage_limits=UsageLimits(request_limit=None),
        ) as run:
            node: Node = run.next_node
            mark: int | None = None  # So many messages of the run are in the journal.
            while not isinstance(node, End):
                if Agent.is_user_prompt_node(node):
                    node = await run.next(node)
                    mark = len(run.ctx.state.message_history)
                elif Agent.is_model_request_node(node):
                    assert mark is not None
                    await self._pass_safe_point(node.request)
                    plan = await self._model.planned()
                    if isinstance(plan, Ending):
                        return plan
                    node = await self._model.make(run, node, plan, mark=mark)
                    self._failures = 0
                    attempt.context.pictures.was_taken()
                    if attempt.ended:
                        return None
                    mark = len(run.ctx.state.message_history)
                else:
                    node = await self._tools.run(run, node)
        # The run ended by itself on a response that the journal has, but has not closed.
        return endings.COMPLETED

    async def _pass_safe_point(self, request: ModelMessage) -> None:
        """Before a model call: leave if the server stops, compact if the conversation is too long.

        Raises _Released, Compacted, and ModelFailed.
        """
        if self._process.stopping.is_set():
            raise _Released
        await self._compactor.compact_if_due(request)

    async def _back_off(self, failure: ModelFailed) -> Ending | None:
        """Wait before the call is repeated; or the ending, if it is not."""
        attempt, error = self._attempt, failure.cause
        self._failures += 1
        metrics.model_failures.inc()
        if not failure.was_answering and not models.may_be_billed(error):
            attempt.context.under_way = None
        if models.is_transient(error) and self._failures <= self._process.settings.model_retries:
            delay_s = self._delay_s(error)
        elif self._withholds_pictures(error):
            delay_s = self._failures = 0
        else:
            return _model_error(error)
        # The time that is kept for the concluding call is not spent waiting for another one.
        delay_s = min(delay_s, seconds_until(attempt.allowance.conclude_at) or delay_s)
        reason = models.explain(error)
        logger.warning("A model call failed and is repeated in %.1f s: %s", delay_s, reason)
        attempt.teller.withdraw()
        attempt.tell()
        if attempt.context.under_way is not None:
            attempt.give_up_call(is_repeated=True)
            await attempt.write(Record(reserve=attempt.next_call()))
        await asyncio.sleep(delay_s)
        return None

    def _delay_s(self, error: Exception) -> float:
        """How long to wait: longer with each failure, and as long as the provider asks for."""
        jitter = random.uniform(0.75, 1.25)  # noqa: S311 # Nobody gains by guessing it.
        delay_s = min(_MAX_BACKOFF_S, 0.5 * 2 ** (self._failures - 1)) * jitter
        asked_s = error.retry_after if isinstance(error, ai_errors.ModelAPIError) else None
        return delay_s if asked_s is None else max(delay_s, min(asked_s, _MAX_RETRY_AFTER_S))

    def _withholds_pictures(self, error: Exception) -> bool:
        """Whether a call that failed for good may succeed without pictures that it had."""
        if not isinstance(error, ai_errors.ModelHTTPError) or error.status_code in _NO_MATTER:
            return False
        return self._attempt.context.pictures.withhold()

    # Ending

    async def fail(self) -> None:
        """End a turn that this server cannot carry out, for a reason that only its log knows."""
        # What is told and not stored may be what cannot be stored.
        self._attempt.teller.withdraw()
        await self._close(
            Ending(
                error_code="internal_error",
                error_message="The server failed while it carried out this turn; see its log.",
            )
        )

    async def _close(self, ending: Ending) -> None:
        """End the turn with a clean transcript: no open call, and the text so far kept."""
        attempt = self._attempt
        kept, in_step = attempt.teller.keep_partial()
        attempt.stand_at_last_response()
        if in_step:
            attempt.teller.finish_step()
        attempt.give_up_call()
        reason = tool_calls.CANCELLED if ending is endings.CANCELLED else tool_calls.NOT_RUN
        failed = await self._tools.fail_open(reason)
        messages: list[ModelMessage] = []
        if not attempt.conversation.of_turn:
            messages.append(ModelRequest(parts=[UserPromptPart(prompt.instruction(self._turn))]))
        results = [
            attempt.context.results[attempt.context.step, call.tool_call_id]
            for call in conversations.tool_calls(attempt.conversation.last_response)
        ]
        if results:
            messages.append(ModelRequest(parts=results))
        if kept:
            messages.append(ModelResponse(parts=kept, model_name=self._process.settings.model_id))
        await attempt.write(
            replace(
                failed,
                messages=[conversations.dump(message) for message in messages],
                ending=ending,
            ),
            messages,
        )


def _model_error(error: Exception) -> Ending:
    code = "timeout" if isinstance(error, ai_errors.ModelTimeoutError) else "model_error"
    return Ending(error_code=code, error_message=models.explain(error))
