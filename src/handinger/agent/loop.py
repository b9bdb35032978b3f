"""Carries out one turn: model call, tools, model call, until there is an answer.

Nothing here is replayed. A run begins from the journal, wherever that stands, and each step is in
the journal before the next begins. So a repeated model call, a resumed turn and a turn taken over
from another process are the same thing: one more run.
"""

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from pydantic_ai import Agent, UsageLimits
from pydantic_ai import exceptions as ai_errors
from pydantic_ai.messages import (
    FunctionToolResultEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.run import AgentRun
from pydantic_graph import End

from handinger import files, sources
from handinger.agent import compaction, prompt
from handinger.agent import conversation as conversations
from handinger.agent import model as models
from handinger.agent.conversation import Conversation
from handinger.agent.hooks import StepContext
from handinger.agent.metering import MoreInput
from handinger.agent.opening import Opening, Process, for_next_call, open_calls
from handinger.agent.shell import Shell
from handinger.agent.tools.context import Effects
from handinger.agent.ui_events import Teller, clean, plain
from handinger.budgets import Charge, Reservation, Reserve, ledger
from handinger.live import LiveTurn
from handinger.story import Story
from handinger.turns import execution, summaries, taint
from handinger.turns.execution import (
    ClaimedTurn,
    Ending,
    IncompleteReason,
    Journal,
    Record,
    ToolRecord,
    Write,
)
from handinger.turns.summaries import Summary

logger = logging.getLogger(__name__)

_MAX_BACKOFF_S = 30.0
_MAX_RETRY_AFTER_S = 120.0

_CUT_OFF = "This call was cut off, because the time of the turn is nearly used up."
_CANCELLED = "This call was cancelled."
_NOT_RUN = "This call was not run, because the turn ended first."

_Run = AgentRun[StepContext, str]
_Node = Any  # One of pydantic-ai's nodes; their type parameters are private to its graph.


class _Released(Exception):
    """The server stops; the turn is at a safe point and is given back."""


class _ToolsCutOff(Exception):
    """The time for tools is over; the turn concludes."""


class _CallCutOff(Exception):
    """The time for a model call that need not conclude is over; the turn concludes."""


class _Compacted(Exception):
    """The conversation goes on from a summary; the model is called with that."""


class _ModelFailed(Exception):
    """A model call failed; `cause` says how."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.cause = cause


class TurnRun:
    """One attempt at one turn."""

    def __init__(self, process: Process, turn: ClaimedTurn, story: Story, opening: Opening) -> None:
        self._process = process
        self._turn = turn
        self._story = story
        self._live = LiveTurn(story)
        self._journal = Journal(
            process.database, turn, story, nano_per_credit=process.settings.nano_per_credit
        )
        self._teller = Teller(story)
        self._allowance = opening.allowance
        self._conversation = opening.conversation
        self._meter = opening.meter
        # Of a model call that the journal does not have yet: what is reserved while it is under
        # way, and what it cost once that is known.
        self._under_way: Reservation | None = None
        self._unbooked: Charge | None = None
        self._failures = 0  # of the model, since its last answer
        self._commits: set[asyncio.Task[None]] = set()
        self._answering = False  # whether the model has begun to answer a streamed call
        self._stop = asyncio.Event()
        self._told_files: set[str] = set()
        workspace = files.Workspace(
            process.database,
            process.blobs,
            process.settings,
            organization_id=turn.organization_id,
            worker_id=turn.worker_id,
        )
        sandboxes = process.sandboxes
        self._shell = Shell(sandboxes, workspace, process.settings) if sandboxes else None
        self._context = StepContext(
            turn=turn,
            database=process.database,
            settings=process.settings,
            workspace=workspace,
            shell=self._shell,
            tools_end_at=self._allowance.conclude_at,
            meter=self._meter,
            instructions=opening.instructions,
            results=opening.results,
            interrupted=opening.interrupted,
        )

    @property
    def others_wait(self) -> bool:
        """Whether a turn may wait behind this one."""
        return self._journal.others_wait

    def cancel(self) -> None:
        """Somebody asks this turn to stop."""
        self._journal.cancel_requested = True
        self._stop.set()

    async def carry_out(self, live: LiveTurn) -> None:
        """Bring the turn to its end, or to a safe point if the server stops. Raises Superseded."""
        self._live = live
        try:
            await self._carry_out()
        finally:
            if self._shell is not None:
                await self._shell.close()

    async def _carry_out(self) -> None:
        try:
            ending = self._foregone_ending()
            if ending is None:
                ending = await self._work_until_stopped()
            if ending is not None:
                await self._close(ending)
        except asyncio.CancelledError:
            # The grace of a shutdown is over in the middle of a step; that step is repeated later.
            await self._settle_commits()
            await self._journal.release(under_way=self._reserved_under_way())
            raise
        if not self._story.ended:
            await self._journal.release()
            return
        self._conversation.last_id = self._journal.last_message_id or self._conversation.last_id
        self._process.conversations.keep(self._turn.worker_id, self._conversation)

    # Beginning

    def _stand_at_last_response(self) -> None:
        """Tools are known by the step of the response that called them, also after later calls."""
        self._context.step = self._conversation.responses_made
        last = self._conversation.last_response
        if last is not None:
            self._teller.resume_step(self._context.step, last)

    def _foregone_ending(self) -> Ending | None:
        """The ending of a turn that must not be worked on any more."""
        if self._turn.cancel_requested:
            return execution.CANCELLED
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
        work = asyncio.create_task(self._work(), name=f"turn {self._turn.id}")
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait(
                {work, stopped},
                timeout=self._seconds_until(self._allowance.deadline),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done():
                return self._outcome(work)
            await self._interrupt(work)
            if self._story.ended:
                return None  # A commit was under way that has ended it.
            if self._journal.cancel_requested:
                return execution.CANCELLED
            return Ending(incomplete_reason="budget_exhausted")
        finally:
            stopped.cancel()
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
        await self._settle_commits()

    async def _settle_commits(self) -> None:
        """Wait for commits whose caller was cancelled. Raises what one of them raised."""
        while self._commits:
            await self._commits.pop()

    def _seconds_until(self, moment: datetime | None) -> float | None:
        if moment is None:
            return None
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())

    async def _write(
        self,
        record: Record,
        messages: Sequence[ModelMessage] = (),
        *,
        goes_on: Conversation | None = None,
    ) -> None:
        """Journal a step. A caller that is cancelled meanwhile does not tear the transaction.

        `goes_on`: what the conversation becomes with it, if not just longer.
        """
        commit = asyncio.create_task(self._commit(record, messages, goes_on))
        self._commits.add(commit)
        await asyncio.shield(commit)
        self._commits.discard(commit)

    async def _commit(
        self, record: Record, messages: Sequence[ModelMessage], goes_on: Conversation | None
    ) -> None:
        await self._journal.write(record)
        self._under_way = self._unbooked = None
        self._context.granted = self._meter.granted
        self._conversation = goes_on or self._conversation
        self._conversation.messages.extend(messages)
        self._conversation.of_turn += len(messages)
        self._conversation.size += sum(len(payload) for payload in record.messages)
        self._tell()
        if self._journal.cancel_requested:
            self._stop.set()

    def _tell(self) -> None:
        self._process.hub.told(self._live)

    # Working

    async def _work(self) -> Ending | None:
        """Run the agent from the journal, again after each failure that may pass."""
        while True:
            try:
                return await self._run_agent()
            except _ToolsCutOff:
                await self._settle_commits()
                await self._fail_open_tools(_CUT_OFF)
            except _CallCutOff:
                self._teller.withdraw()
                await self._write(Record(charges=self._abandoned(), reserve=self._next_call()))
            except MoreInput:
                # It was not sent; the next plan knows how large it is.
                self._under_way = None
                self._teller.withdraw()
                await self._write(Record(reserve=self._next_call()))
            except ai_errors.OutputTokenLimitExceeded:
                return Ending(incomplete_reason=self._output_limit_reason())
            except _Compacted:
                continue
            except _ModelFailed as error:
                if await self._made_room(error.cause):
                    continue
                ending = await self._back_off(error.cause)
                if ending is not None:
                    return ending
            except ai_errors.AgentRunError as error:
                return _model_error(error)

    async def _back_off(self, error: Exception) -> Ending | None:
        """Wait before the call is repeated; or the ending, if it is not."""
        self._failures += 1
        if not self._answering and not models.may_be_billed(error):
            self._under_way = None
        if not models.is_transient(error) or self._failures > self._process.settings.model_retries:
            return _model_error(error)
        jitter = random.uniform(0.75, 1.25)  # noqa: S311 # Nobody gains by guessing it.
        delay_s = min(_MAX_BACKOFF_S, 0.5 * 2 ** (self._failures - 1)) * jitter
        asked_s = error.retry_after if isinstance(error, ai_errors.ModelAPIError) else None
        if asked_s is not None:
            delay_s = max(delay_s, min(asked_s, _MAX_RETRY_AFTER_S))
        reason = models.explain(error)
        logger.warning("A model call failed and is repeated in %.1f s: %s", delay_s, reason)
        self._teller.withdraw()
        self._tell()
        if self._under_way is not None:
            # The next attempt is paid for as well, and counts as the same step.
            charges = [self._under_way.in_full()]
            await self._write(Record(charges=charges, reserve=self._next_call()))
        await asyncio.sleep(delay_s)
        return None

    # Compaction

    async def _made_room(self, error: Exception) -> bool:
        """Whether a call that the model found too long can be repeated with a shorter one."""
        if not isinstance(error, ai_errors.ModelContextWindowExceededError):
            return False
        self._teller.withdraw()
        self._tell()
        cut = compaction.after_refusal(self._conversation, size=self._context_window)
        if cut is None:
            return False
        with contextlib.suppress(_Compacted):
            await self._compact(cut)
        return True

    @property
    def _context_window(self) -> int | None:
        return compaction.window(self._process.settings, self._process.model)

    async def _compact(self, cut: compaction.Cut) -> None:
        """Let the conversation go on from a summary. Raises _Compacted, or _ModelFailed."""
        turn, step = self._turn, self._conversation.responses_made
        asked = compaction.asked(cut)
        reserve = self._meter.for_summary([asked], output=cut.most_output, step=step)
        await self._write(Record(reserve=reserve))
        self._under_way = self._meter.summary
        text, charges = "", list[Charge]()
        if self._under_way is not None:
            text, charges = await self._summarize(asked, cut, self._under_way)
        head = compaction.head(
            cut, text, model=self._process.settings.model_id, instruction=prompt.instruction(turn)
        )
        goes_on = compaction.compacted(self._conversation, cut, head)
        payload = ",".join(conversations.dump(message) for message in head)
        store = functools.partial(
            summaries.store,
            summary=Summary(payload, len(cut.kept), cut.covered_responses),
            worker_id=turn.worker_id,
            turn_id=turn.id,
        )
        following = for_next_call(self._meter, goes_on, self._context.results, turn=turn)
        record = Record(writes=[store], charges=charges, reserve=following)
        await self._write(record, goes_on=goes_on)
        self._failures = 0
        raise _Compacted

    async def _summarize(
        self, asked: ModelMessage, cut: compaction.Cut, held: Reservation
    ) -> tuple[str, list[Charge]]:
        """The model's summary, "" if it makes none, and what that cost. Raises _ModelFailed."""
        process = self._process
        self._answering = False
        try:
            response = await compaction.call(process.model, process.settings, asked, cut)
        except ai_errors.ModelAPIError as error:
            if models.is_transient(error):
                raise _ModelFailed(error) from error
            # Its conversation loses its details then, and the worker not its life.
            logger.warning("A conversation was not summarized: %s", models.explain(error))
            return "", [held.in_full()] if models.may_be_billed(error) else []
        except Exception as error:
            raise _ModelFailed(error) from error
        charge = models.charge(response, held, process.metering.price).for_platform()
        return clean(response.text or "").strip(), [charge]

    async def _run_agent(self) -> Ending | None:
        """One run of the agent, from what the journal holds to the end of the turn."""
        self._stand_at_last_response()
        begun = self._conversation.of_turn > 0
        async with self._process.agent.iter(
            None if begun else prompt.instruction(self._turn),
            message_history=self._conversation.messages,
            conversation_id=self._turn.worker_id,
            deps=self._context,
            usage_limits=UsageLimits(request_limit=None),
        ) as run:
            node: _Node = run.next_node
            mark: int | None = None
            while not isinstance(node, End):
                if Agent.is_user_prompt_node(node):
                    node = await run.next(node)
                    mark = len(run.ctx.state.message_history)
                elif Agent.is_model_request_node(node):
                    assert mark is not None
                    node, closed = await self._model_step(run, node, mark)
                    if closed:
                        return None
                    mark = len(run.ctx.state.message_history)
                else:
                    node = await self._tool_step(run, node)
        # The run ended by itself on a response that the journal has, but has not closed.
        return execution.COMPLETED

    async def _model_step(self, run: _Run, node: _Node, mark: int) -> tuple[_Node, bool]:
        """Call the model and journal its response; whether that closed the turn."""
        if self._process.stopping.is_set():
            raise _Released
        cut = compaction.due(
            self._conversation,
            node.request,
            instructions=self._context.instructions,
            size=self._context_window,
        )
        if cut is not None:
            await self._compact(cut)
        step = self._conversation.responses_made + 1
        if self._meter.planned_step != step:
            await self._write(Record(reserve=self._next_call()))
        calls_made, now = self._journal.spending.steps, datetime.now(UTC)
        plan = self._meter.plan
        if plan is None or self._allowance.is_spent(calls_made=calls_made, now=now):
            await self._close(self._spent_ending())
            return node, True
        concludes = self._allowance.must_conclude(calls_made=calls_made, now=now)
        self._context.concluding = plan.concludes or concludes
        self._context.step = step
        self._teller.begin_step(step)
        self._under_way = plan.reservation
        next_node = await self._call_model(run, node)
        messages = run.ctx.state.message_history[mark:]
        response = messages[-1]
        assert isinstance(response, ModelResponse)
        self._failures = 0
        self._unbooked = models.charge(response, plan.reservation, self._process.metering.price)
        self._meter.note(response)
        make_storable(response)
        self._teller.response(response)
        ending = self._ending_with(response)
        await self._store_response(messages, response, ending)
        return next_node, ending is not None

    async def _call_model(self, run: _Run, node: _Node) -> _Node:
        """Call the model; with streaming only if somebody reads along.

        Raises _ModelFailed, and _CallCutOff when only time for the concluding call is left.
        """
        end = None if self._context.concluding else self._allowance.conclude_at
        self._answering = False
        timeout = asyncio.timeout(self._seconds_until(end))
        try:
            async with timeout:
                return await self._call_until_answered(run, node)
        except (psycopg.Error, MoreInput):
            raise
        except Exception as error:
            if timeout.expired():
                raise _CallCutOff from error
            # Providers' clients raise errors of their own for what breaks in mid-stream.
            raise _ModelFailed(error) from error

    async def _call_until_answered(self, run: _Run, node: _Node) -> _Node:
        if self._process.hub.has_readers(self._live):
            self._tell()
            async with node.stream(run.ctx) as events:
                async for event in events:
                    self._answering = True
                    if self._teller.stream_event(event):
                        self._tell()
        return await run.next(node)

    async def _store_response(
        self, messages: Sequence[ModelMessage], response: ModelResponse, ending: Ending | None
    ) -> None:
        calls = conversations.tool_calls(response)
        closing: list[ModelMessage] = []
        if not calls:
            self._teller.finish_step()
        elif ending is not None:
            closing.append(self._refuse_calls(calls))
        messages = [*messages, *closing]
        await self._write(
            Record(
                messages=[conversations.dump(message) for message in messages],
                started_tools=[
                    ToolRecord(self._context.step, call.tool_call_id, call.tool_name, None)
                    for call in calls
                ],
                charges=[self._unbooked] if self._unbooked else [],
                reserve=self._after_response(calls, messages),
                ending=ending,
            ),
            messages,
        )

    def _after_response(
        self, calls: Sequence[ToolCallPart], messages: Sequence[ModelMessage]
    ) -> Reserve:
        """Reserves for the tools that a response calls, or else for the next model call."""
        told = [*self._conversation.messages, *messages]
        step = self._context.step
        if calls:
            return self._meter.for_tools(calls, told, step=step)
        return self._meter.for_call(told, step=step + 1)

    def _next_call(self) -> Reserve:
        """Reserves for the model call that follows what is in the journal."""
        return for_next_call(
            self._meter, self._conversation, self._context.results, turn=self._turn
        )

    def _spent_ending(self) -> Ending:
        """The ending of a turn for which no further model call fits."""
        if self._meter.plan is not None or self._conversation.responses_made:
            return Ending(incomplete_reason="budget_exhausted")
        return Ending(
            error_code="budget_too_small",
            error_message=self._meter.too_small(self._journal.spending),
        )

    def _output_limit_reason(self) -> IncompleteReason:
        plan = self._meter.plan
        return "budget_exhausted" if plan and plan.is_lowered else "max_output_tokens"

    def _abandoned(self) -> list[Charge]:
        """The charges for calls that are under way and are given up."""
        if self._unbooked is not None:
            return [self._unbooked]
        held = self._under_way
        return [] if held is None else [held.in_full(steps=int(held.kind == "model"))]

    def _reserved_under_way(self) -> list[Reservation]:
        calls = open_calls(self._conversation, self._context.results)
        held = [self._meter.granted.get(call.tool_call_id) for call in calls]
        return [reservation for reservation in (self._under_way, *held) if reservation]

    def _ending_with(self, response: ModelResponse) -> Ending | None:
        """How this response ends the turn, if it does."""
        calls = any(isinstance(part, ToolCallPart) for part in response.parts)
        if self._context.concluding:
            return Ending(incomplete_reason="budget_exhausted")
        if calls or not (response.text or "").strip():
            return None
        if models.finished_by(response) == "length":
            return Ending(incomplete_reason=self._output_limit_reason())
        return execution.COMPLETED

    def _refuse_calls(self, calls: Sequence[ToolCallPart]) -> ModelRequest:
        """Results for calls of a response that was to conclude; no tool call may stay open."""
        parts = [_failed_result(call, _NOT_RUN) for call in calls]
        for call in calls:
            self._teller.tool_error(call.tool_call_id, _NOT_RUN)
        self._teller.finish_step()
        return ModelRequest(parts=parts)

    # Tools

    async def _tool_step(self, run: _Run, node: _Node) -> _Node:
        """Run the tools of a response, each journaled as it ends. Raises _ToolsCutOff."""
        # Results that are known take no time; those of calls that were cut off must get through.
        end = self._allowance.conclude_at if self._open_calls(node.model_response) else None
        try:
            async with asyncio.timeout(self._seconds_until(end)):
                async with node.stream(run.ctx) as events:
                    async for event in events:
                        if isinstance(event, FunctionToolResultEvent):
                            await self._tool_ended(node.model_response, event.part)
                return await run.next(node)
        except TimeoutError as error:
            raise _ToolsCutOff from error

    async def _tool_ended(self, response: ModelResponse, part: ToolReturnPart) -> None:
        key = (self._context.step, part.tool_call_id)
        if key in self._context.results:
            return  # Told and stored by an earlier attempt.
        self._context.results[key] = part
        effects = self._context.effects.pop(part.tool_call_id, Effects())
        self._tell_result(part, effects)
        still_open = self._open_calls(response)
        if not still_open:
            self._teller.finish_step()
        await self._write(
            Record(
                finished_tools=[self._tool_record(part)],
                writes=self._writes(effects, succeeded=part.outcome == "success"),
                charges=ledger.charges_of(part.tool_name, self._context.step, effects.spending),
                reserve=self._meter.for_open_tools(still_open) if still_open else self._next_call(),
            )
        )

    def _writes(self, effects: Effects, *, succeeded: bool) -> list[Write]:
        turn = self._turn
        let_in: list[Write] = [
            functools.partial(
                taint.record,
                worker_id=turn.worker_id,
                turn_id=turn.id,
                text=text,
                step=self._context.step,
            )
            for text in effects.untrusted
        ]
        if not succeeded:
            return let_in
        used: list[Write] = [
            functools.partial(sources.add, worker_id=turn.worker_id, source=source)
            for source in effects.sources
        ]
        changed: list[Write] = []
        if effects.files:
            changed.append(
                functools.partial(files.apply, worker_id=turn.worker_id, changes=effects.files)
            )
        return [*let_in, *used, *changed, *effects.writes]

    def _tell_result(self, part: ToolReturnPart, effects: Effects) -> None:
        if part.outcome != "success":
            self._teller.tool_error(part.tool_call_id, part.model_response_str(wrap_if_error=False))
            return
        self._teller.tool_output(part.tool_call_id, plain(part.content))
        for source in effects.sources:
            self._teller.source(source.id, source.url, source.title)
        for change in effects.files:
            if not change.published or change.path in self._told_files:
                continue
            self._told_files.add(change.path)
            url = files.url(self._process.settings, self._turn.worker_id, change.path)
            self._teller.file(url, change.media_type)

    def _tool_record(self, part: ToolReturnPart) -> ToolRecord:
        return ToolRecord(self._context.step, part.tool_call_id, part.tool_name, _dump_result(part))

    def _open_calls(self, response: ModelResponse | None) -> list[ToolCallPart]:
        """The calls of a response that have no result yet."""
        return [
            part
            for part in (response.parts if response else ())
            if isinstance(part, ToolCallPart)
            and (self._context.step, part.tool_call_id) not in self._context.results
        ]

    async def _fail_open_tools(self, message: str) -> None:
        calls = self._open_calls(self._conversation.last_response)
        charges = self._abandoned_tools(calls)
        records = self._fail_calls(calls, message)
        if records:
            await self._write(
                Record(finished_tools=records, charges=charges, reserve=self._next_call())
            )

    def _abandoned_tools(self, calls: Sequence[ToolCallPart]) -> list[Charge]:
        """The charges for tools that are cut off: what they say, or else all that was reserved."""
        charges: list[Charge] = []
        for call in calls:
            spent = self._context.effects.pop(call.tool_call_id, Effects()).spending
            held = self._meter.granted.get(call.tool_call_id)
            if spent.cost_nano:
                charges += ledger.charges_of(call.tool_name, self._context.step, spent)
            elif held is not None:
                charges.append(held.in_full())
        return charges

    def _fail_calls(self, calls: Sequence[ToolCallPart], message: str) -> list[ToolRecord]:
        parts = [_failed_result(call, message) for call in calls]
        for part in parts:
            self._context.results[self._context.step, part.tool_call_id] = part
            self._teller.tool_error(part.tool_call_id, message)
        if parts:
            self._teller.finish_step()
        return [self._tool_record(part) for part in parts]

    # Ending

    async def fail(self) -> None:
        """End a turn that this server cannot carry out, for a reason that only its log knows."""
        self._commits.clear()
        # What is told and not stored may be what cannot be stored.
        self._teller.withdraw()
        await self._close(
            Ending(
                error_code="internal_error",
                error_message="The server failed while it carried out this turn; see its log.",
            )
        )

    async def _close(self, ending: Ending) -> None:
        """End the turn with a clean transcript: no open call, and the text so far kept."""
        kept, in_step = self._teller.keep_partial()
        self._stand_at_last_response()
        last = self._conversation.last_response
        if in_step:
            self._teller.finish_step()
        reason = _CANCELLED if ending is execution.CANCELLED else _NOT_RUN
        open_calls = self._open_calls(last)
        charges = [*self._abandoned(), *self._abandoned_tools(open_calls)]
        finished = self._fail_calls(open_calls, reason)
        messages: list[ModelMessage] = []
        if not self._conversation.of_turn:
            messages.append(ModelRequest(parts=[UserPromptPart(prompt.instruction(self._turn))]))
        results = [
            self._context.results[self._context.step, part.tool_call_id]
            for part in (last.parts if last else ())
            if isinstance(part, ToolCallPart)
        ]
        if results:
            messages.append(ModelRequest(parts=results))
        if kept:
            messages.append(ModelResponse(parts=kept, model_name=self._process.settings.model_id))
        await self._write(
            Record(
                messages=[conversations.dump(message) for message in messages],
                finished_tools=finished,
                charges=charges,
                ending=ending,
            ),
            messages,
        )


def make_storable(response: ModelResponse) -> None:
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


def _failed_result(call: ToolCallPart, message: str) -> ToolReturnPart:
    return ToolReturnPart(
        tool_name=call.tool_name,
        content=message,
        tool_call_id=call.tool_call_id,
        outcome="failed",
    )


def _dump_result(part: ToolReturnPart) -> str:
    return conversations.dump(ModelRequest(parts=[part]))


def _model_error(error: Exception) -> Ending:
    code = "timeout" if isinstance(error, ai_errors.ModelTimeoutError) else "model_error"
    return Ending(error_code=code, error_message=models.explain(error))
