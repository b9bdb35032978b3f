"""What our server adds to every run of the agent: memory of finished tools, and a last word."""

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_ai import RunContext, ToolFailed, ToolReturn
from pydantic_ai import exceptions as ai_errors
from pydantic_ai.capabilities.abstract import AbstractCapability, WrapToolExecuteHandler
from pydantic_ai.messages import ModelRequest, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from handinger import files
from handinger.agent import pictures, prompt
from handinger.agent.metering import Meter
from handinger.agent.tools.context import ToolContext
from handinger.agent.ui_events import plain
from handinger.budgets import Reservation
from handinger.storage.database import is_connection_error

logger = logging.getLogger(__name__)

_OUTCOME_UNKNOWN = (
    "The server was interrupted while this call ran, so its outcome is unknown, and it was not "
    "repeated. Check what it did before you call it again."
)
_FAILED = "The tool failed inside the server ({}); its log says why."


@dataclass(slots=True, kw_only=True)
class StepContext(ToolContext):
    """What the hooks and the tools of one turn share with its execution."""

    meter: Meter
    instructions: str = ""
    concluding: bool = False
    # By step and id: results of this turn's tools, and calls that an earlier attempt left open.
    results: dict[tuple[int, str], ToolReturnPart] = field(
        default_factory=dict[tuple[int, str], ToolReturnPart]
    )
    interrupted: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    # What is reserved for a model call from when it may have gone out, and the tool calls, by step
    # and id, that have begun. What never did costs nothing.
    under_way: Reservation | None = None
    begun: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])


class Hooks(AbstractCapability[StepContext]):
    """A finished tool never runs again; the last call that fits concludes."""

    async def prepare_model_request(
        self, ctx: RunContext[StepContext], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Keep the request within what is reserved for it. Raises Remeasured.

        In the concluding call, forbid tools and say so. The note is sent, but not remembered.
        """
        meter, messages = ctx.deps.meter, request_context.messages
        meter.bounds.know(request_context.model_request_parameters.function_tools)
        if meter.wants_count:
            shown = await pictures.shown(ctx, messages)
            counted = replace(request_context, messages=shown)
            await meter.count(counted, of=messages, is_whole=ctx.deps.pictures.is_complete)
        settings = ModelSettings(**(request_context.model_settings or {}))
        plan = meter.plan
        if plan is not None:
            messages = plan.sent(messages)
            if plan.max_tokens is not None:
                settings["max_tokens"] = plan.max_tokens
        meter.require(messages)
        request_context.messages = await pictures.shown(ctx, messages)
        if ctx.deps.concluding:
            settings["tool_choice"] = "none"
            note = ModelRequest(parts=[UserPromptPart(prompt.CONCLUDE)])
            request_context.messages = [*request_context.messages, note]
        request_context.model_settings = settings
        ctx.deps.under_way = plan.reservation if plan else None
        return request_context

    async def wrap_tool_execute(
        self,
        ctx: RunContext[StepContext],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: WrapToolExecuteHandler,
    ) -> Any:
        """Answer from the journal what is there; turn every failure into a result."""
        key = (ctx.deps.step, call.tool_call_id)
        known = ctx.deps.results.get(key)
        if known is not None:
            if known.outcome == "success":
                return _result(known.content, known.metadata)
            raise ToolFailed(known.model_response_str(wrap_if_error=False))
        # First, for it may have been made.
        if key in ctx.deps.interrupted and not (tool_def.metadata or {}).get("idempotent"):
            raise ToolFailed(_OUTCOME_UNKNOWN)
        refusal = ctx.deps.meter.refusal(call)
        if refusal is not None:
            raise ToolFailed(refusal)
        ctx.deps.begun.add(key)
        try:
            value = await handler(args)
            if isinstance(value, ToolReturn):
                return _result(plain(value.return_value), value.metadata)
            return plain(value)
        except files.FileError as error:
            raise ToolFailed(str(error)) from error
        except (
            ai_errors.ModelRetry,
            ai_errors.ToolFailed,
            ai_errors.ToolRetryError,
            ai_errors.ToolFailedError,
        ):
            raise
        except Exception as error:
            if is_connection_error(error):
                raise  # Of the database: the turn goes on from its journal when that is back.
            logger.exception("The tool %s failed", call.tool_name)
            # What it says may tell of the server, and the model tells it on.
            raise ToolFailed(_FAILED.format(type(error).__name__)) from error


def _result(content: Any, metadata: Any) -> Any:
    return content if metadata is None else ToolReturn(content, metadata=metadata)
