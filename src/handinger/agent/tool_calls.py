"""The tool calls of an attempt: run, told, and journaled one by one as they end.

No call stays open: one that is cut off, cancelled or refused gets a result that says so.
"""

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import replace

from pydantic_ai.messages import (
    FunctionToolResultEvent,
    ModelRequest,
    ToolCallPart,
    ToolReturnPart,
)

from handinger import files, metrics, sources
from handinger.agent import conversation as conversations
from handinger.agent.attempt import Attempt, Node, Run, seconds_until
from handinger.agent.tools import commands
from handinger.agent.tools.context import Effects
from handinger.agent.ui_events import plain
from handinger.budgets import ledger
from handinger.turns import taint
from handinger.turns.journal import Record, ToolRecord, Write

CUT_OFF = "This call was cut off, because the time of the turn is nearly used up."
CANCELLED = "This call was cancelled."
NOT_RUN = "This call was not run, because the turn ended first."
_SALVAGED = "What commands had done to the files by then is kept."


class ToolsCutOff(Exception):
    """The time for tools is over; the turn concludes."""


class ToolCalls:
    """Makes the tool calls of one attempt."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._told_files: set[str] = set()

    async def run(self, run: Run, node: Node) -> Node:
        """Run the tools of the last response, each journaled as it ends. Raises ToolsCutOff."""
        attempt = self._attempt
        # Results that are known take no time; those of calls that were cut off must get through.
        end = attempt.allowance.conclude_at if attempt.open_calls() else None
        try:
            async with asyncio.timeout(seconds_until(end)):
                async with node.stream(run.ctx) as events:
                    async for event in events:
                        if isinstance(event, FunctionToolResultEvent):
                            await self._ended(event.part)
                return await run.next(node)
        except TimeoutError as error:
            raise ToolsCutOff from error

    async def cut_off(self) -> None:
        """Fail the calls that are open, for the time is over."""
        failed = await self.fail_open(CUT_OFF)
        if failed.finished_tools:
            await self._attempt.write(replace(failed, reserve=self._attempt.next_call()))

    async def fail_open(self, message: str) -> Record:
        """Fail the calls that are open: what the journal has to know of them.

        Of a command that was cut off the files are kept as it left them.
        """
        context = self._attempt.context
        calls = self._attempt.open_calls()
        self._book_abandoned(calls)
        effects = Effects()
        if context.shell is not None:
            effects = commands.effects_of(
                self._attempt.turn.worker_id, await context.shell.salvage()
            )
        if effects.files or effects.writes:
            message = f"{message} {_SALVAGED}"
        parts = [_failed_result(call, message) for call in calls]
        for part in parts:
            context.results[context.step, part.tool_call_id] = part
        self._tell_failed(calls, message, effects)
        return Record(
            finished_tools=[self._record(part) for part in parts],
            writes=self._writes(effects, succeeded=True),
        )

    def refuse(self, calls: Sequence[ToolCallPart]) -> list[ToolReturnPart]:
        """Results for calls of a response that was to conclude."""
        self._tell_failed(calls, NOT_RUN, Effects())
        return [_failed_result(call, NOT_RUN) for call in calls]

    # One call ends

    async def _ended(self, part: ToolReturnPart) -> None:
        attempt, context = self._attempt, self._attempt.context
        key = (context.step, part.tool_call_id)
        if key in context.results:
            return  # Told and stored by an earlier attempt.
        context.results[key] = part
        effects = self._end(part.tool_name, part.tool_call_id)
        self._tell(part, effects)
        still_open = attempt.open_calls()
        if not still_open:
            attempt.teller.finish_step()
        reserve = attempt.meter.for_open_tools(still_open) if still_open else attempt.next_call()
        await attempt.write(
            Record(
                finished_tools=[self._record(part)],
                writes=self._writes(effects, succeeded=part.outcome == "success"),
                reserve=reserve,
            )
        )
        self._count(part.tool_name, succeeded=part.outcome == "success")

    def _writes(self, effects: Effects, *, succeeded: bool) -> list[Write]:
        turn = self._attempt.turn
        let_in: list[Write] = [
            functools.partial(
                taint.record,
                worker_id=turn.worker_id,
                turn_id=turn.id,
                text=text,
                step=self._attempt.context.step,
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

    def _record(self, part: ToolReturnPart) -> ToolRecord:
        result = conversations.dump(ModelRequest(parts=[part]))
        return ToolRecord(self._attempt.context.step, part.tool_call_id, part.tool_name, result)

    def _end(self, tool: str, call_id: str) -> Effects:
        """A call is over: what it did, the costs of which are booked from now on."""
        effects = self._attempt.context.effects.pop(call_id, Effects())
        step = self._attempt.context.step
        self._attempt.unbooked += ledger.charges_of(tool, step, effects.spending)
        return effects

    def _book_abandoned(self, calls: Sequence[ToolCallPart]) -> None:
        """What calls that are cut off say that they cost, or else all that was reserved."""
        for call in calls:
            at_most = self._attempt.spent_at_most(call)
            effects = self._end(call.tool_name, call.tool_call_id)
            if at_most is not None and not effects.spending.cost_nano:
                self._attempt.unbooked.append(at_most.in_full())

    # Telling

    def _tell(self, part: ToolReturnPart, effects: Effects) -> None:
        teller = self._attempt.teller
        if part.outcome != "success":
            teller.tool_error(part.tool_call_id, part.model_response_str(wrap_if_error=False))
            return
        teller.tool_output(part.tool_call_id, plain(part.content))
        for source in effects.sources:
            teller.source(source.id, source.url, source.title)
        self._tell_files(effects)

    def _tell_files(self, effects: Effects) -> None:
        for change in effects.files:
            if not change.published or change.path in self._told_files:
                continue
            self._told_files.add(change.path)
            settings, turn = self._attempt.process.settings, self._attempt.turn
            url = files.url(settings, turn.worker_id, change.path)
            self._attempt.teller.file(url, change.media_type)

    def _tell_failed(self, calls: Sequence[ToolCallPart], message: str, effects: Effects) -> None:
        for call in calls:
            self._attempt.teller.tool_error(call.tool_call_id, message)
            self._count(call.tool_name, succeeded=False)
        self._tell_files(effects)
        if calls:
            self._attempt.teller.finish_step()

    def _count(self, tool: str, *, succeeded: bool) -> None:
        # Other names are those of MCP servers, or what the model made up.
        known = tool in self._attempt.process.metering.tools
        outcome = "success" if succeeded else "failed"
        metrics.tool_calls.labels(tool if known else "other", outcome).inc()


def _failed_result(call: ToolCallPart, message: str) -> ToolReturnPart:
    return ToolReturnPart(
        tool_name=call.tool_name,
        content=message,
        tool_call_id=call.tool_call_id,
        outcome="failed",
    )
