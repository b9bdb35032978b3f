"""The tools of an organization's MCP servers, offered to its workers as `NAME_TOOL`.

A server that does not answer costs its tools, never the turn: it is left alone for a while, and the
turn goes on without them. What it says is untrusted text, and what it holds as secrets is taken out
of whatever is told on. Nothing here is loaded before an organization has a server.
"""

import asyncio
import contextlib
import hashlib
import importlib
import json
import logging
import mimetypes
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx2
from pydantic_ai import RunContext, ToolFailed
from pydantic_ai import exceptions as ai_errors
from pydantic_ai.messages import BinaryContent, ModelResponse, ToolCallPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_ai.toolsets.external import TOOL_SCHEMA_VALIDATOR

from handinger import mcp_servers
from handinger.agent import taint
from handinger.agent.bounded_http import AnswerBound
from handinger.agent.hooks import StepContext
from handinger.agent.tools import results
from handinger.errors import ConfigurationError
from handinger.ids import OrganizationId, TurnId
from handinger.mcp_servers import ConnectableServer
from handinger.settings import Settings
from handinger.storage.database import Database
from handinger.storage.sealing import open_sealer

if TYPE_CHECKING:
    from mcp.types import Tool as McpTool
    from pydantic_ai.mcp import MCPToolset

logger = logging.getLogger(__name__)

# A changed configuration is noticed after so long; a server's list of tools is read this often.
_CONFIGURATION_S = 3.0
_TOOLS_S = 300.0
# So long is a server that did not answer left alone.
_DOWN_S = 60.0
_CLOSE_S = 5.0

_MAX_TOOLS = 100
_MAX_DESCRIPTION = 4_000
_MAX_SCHEMA = 20_000
_MAX_NAME = 64  # what every provider takes
_URL = re.compile(r"https?://[^\s<>\"']+", re.IGNORECASE)
_PUNCTUATION = ".,;:!?)]}"  # of the sentence that a URL ends
_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")


_UNKNOWN = "{problem}, so the outcome is unknown. Check what the call did before you repeat it."


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """One tool of a server, under the name by which the agent knows it."""

    server: ConnectableServer
    name: str  # the server's own
    definition: ToolDefinition
    reads_only: bool  # so the server says
    reaches_out: bool  # so the server says, as of one that fetches whatever page it is told to

    @property
    def is_allowed(self) -> bool:
        """Whether the organization allows it whatever was read."""
        return self.server.permits(self.name)

    @property
    def permitted(self) -> bool:
        """Whether it may be called also when untrusted text was read."""
        return self.is_allowed or (self.reads_only and not self.reaches_out)

    @classmethod
    def of(cls, server: ConnectableServer, tool: "McpTool") -> "RemoteTool":
        """As the agent gets it; a server that says nothing is taken to write."""
        return cls(
            server,
            tool.name,
            ToolDefinition(
                name=_offered_name(server, tool.name),
                description=server.connection.scrub((tool.description or "")[:_MAX_DESCRIPTION]),
                parameters_json_schema=tool.input_schema,
            ),
            reads_only=bool(tool.annotations and tool.annotations.read_only_hint),
            # By the protocol that is so unless it is denied; but hardly any server denies it.
            reaches_out=bool(tool.annotations and tool.annotations.open_world_hint),
        )


def _offered_name(server: ConnectableServer, tool: str) -> str:
    name = f"{server.name}_{_UNFIT.sub('_', tool)}"
    if len(name) <= _MAX_NAME:
        return name
    # Two long names must not become one.
    digest = hashlib.sha256(tool.encode()).hexdigest()[:8]
    return f"{name[: _MAX_NAME - 9]}_{digest}"


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found out, and until when it is taken for true."""

    until: float
    tools: tuple[RemoteTool, ...] = ()


@dataclass(frozen=True, slots=True)
class _Configured:
    until: float
    servers: tuple[ConnectableServer, ...]


@dataclass(slots=True)
class _Session:
    """One connection; of a turn, so that what a server remembers ends with it."""

    server: ConnectableServer
    toolset: "MCPToolset[Any]"
    bound: AnswerBound | None  # None of a program
    closing: contextlib.AsyncExitStack


@dataclass(slots=True)
class _Sessions:
    """The connections of one turn, each made when it is needed first."""

    by_server: dict[str, _Session] = field(default_factory=dict[str, _Session])
    # Calls of one step may all want to connect.
    connecting: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class McpServers:
    """What this process knows of MCP servers, and the connections of its turns."""

    database: Database
    settings: Settings
    _configured: dict[OrganizationId, _Configured] = field(
        default_factory=dict[OrganizationId, _Configured]
    )
    _known: dict[tuple[OrganizationId, str, datetime], _Known] = field(
        default_factory=dict[tuple[OrganizationId, str, datetime], _Known]
    )
    # One look at a server at a time; the others wait for what it finds.
    _looking: defaultdict[tuple[OrganizationId, str, datetime], asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
    _sessions: dict[TurnId, _Sessions] = field(default_factory=dict[TurnId, _Sessions])

    async def tools(self, organization_id: OrganizationId) -> list[RemoteTool]:
        """The tools of all servers that answer."""
        servers = await self._servers(organization_id)
        if not servers:
            return []
        found = await asyncio.gather(*(self._tools(organization_id, one) for one in servers))
        by_name = {tool.definition.name: tool for tools in found for tool in tools}
        return list(by_name.values())

    async def _servers(self, organization_id: OrganizationId) -> tuple[ConnectableServer, ...]:
        configured = self._configured.get(organization_id)
        if configured is not None and time.monotonic() < configured.until:
            return configured.servers
        try:
            servers = await _load(self.database, self.settings, organization_id)
        except ConfigurationError as error:
            logger.error("The MCP servers of %s cannot be used: %s", organization_id, error)
            servers = ()
        until = time.monotonic() + _CONFIGURATION_S
        self._configured[organization_id] = _Configured(until, servers)
        return servers

    async def _tools(
        self, organization_id: OrganizationId, server: ConnectableServer
    ) -> tuple[RemoteTool, ...]:
        key = (organization_id, server.name, server.created_at)
        known = self._known.get(key)
        if known is not None and time.monotonic() < known.until:
            return known.tools
        async with self._looking[key]:
            known = self._known.get(key)
            if known is None or time.monotonic() >= known.until:
                known = self._known[key] = await self._look(server)
        return known.tools

    async def _look(self, server: ConnectableServer) -> _Known:
        try:
            tools = await list_tools(server, self.settings)
        except McpUnreachable as error:
            logger.warning("%s Its tools are left out for %.0f s.", error, _DOWN_S)
            return _Known(time.monotonic() + _DOWN_S)
        return _Known(time.monotonic() + _TOOLS_S, tools)

    async def call(self, turn_id: TurnId, tool: RemoteTool, arguments: dict[str, Any]) -> Any:
        """What the tool answers. Raises ToolFailed."""
        limit_s = self.settings.mcp_call_timeout_s
        name = tool.server.name
        try:
            session = await self._session(turn_id, tool.server)
        except McpUnreachable as error:
            raise ToolFailed(f"{error} The tool was not called.") from error
        if session.bound is not None:
            session.bound.exceeded = False  # That was another answer.
        try:
            async with asyncio.timeout(limit_s):
                return await session.toolset.direct_call_tool(tool.name, arguments)
        except ai_errors.ToolFailed:
            raise
        except TimeoutError as error:
            await self._drop(turn_id, name)
            problem = f"The MCP server {name!r} did not answer within {limit_s:g} s"
            raise ToolFailed(_UNKNOWN.format(problem=problem)) from error
        except Exception as error:  # Each transport has errors of its own.
            if isinstance(error, ai_errors.ModelRetry) and not _is_broken(error):
                raise
            await self._drop(turn_id, name)
            problem = f"The connection to the MCP server {name!r} broke ({_reason(error)})"
            if session.bound is not None and session.bound.exceeded:
                most = self.settings.mcp_max_bytes
                problem = f"The MCP server {name!r} answered with more than {most} bytes"
            raise ToolFailed(_UNKNOWN.format(problem=problem)) from error

    async def _session(self, turn_id: TurnId, server: ConnectableServer) -> _Session:
        sessions = self._sessions.setdefault(turn_id, _Sessions())
        async with sessions.connecting:
            if server.name not in sessions.by_server:
                sessions.by_server[server.name] = await _connect(server, self.settings)
            return sessions.by_server[server.name]

    async def _drop(self, turn_id: TurnId, name: str) -> None:
        session = self._sessions[turn_id].by_server.pop(name, None)
        if session is not None:
            await _close(session)

    async def end(self, turn_id: TurnId) -> None:
        """The turn is over here: close its connections."""
        sessions = self._sessions.pop(turn_id, _Sessions())
        await asyncio.gather(*(_close(session) for session in sessions.by_server.values()))


class McpUnreachable(Exception):
    """A server cannot be reached or understood; the message holds no secret."""


async def list_tools(server: ConnectableServer, settings: Settings) -> tuple[RemoteTool, ...]:
    """Connect to a server and ask for its tools. Raises McpUnreachable."""
    session = await _connect(server, settings)
    try:
        async with asyncio.timeout(settings.mcp_connect_timeout_s):
            offered = cast("Sequence[McpTool]", await session.toolset.list_tools())
    except Exception as error:
        raise _unreachable(server, error) from error
    finally:
        await _close(session)
    if len(offered) > _MAX_TOOLS:
        logger.warning(
            "The MCP server %s has %d tools; the first %d are offered",
            server.name,
            len(offered),
            _MAX_TOOLS,
        )
    fit = [tool for tool in offered if len(json.dumps(tool.input_schema)) <= _MAX_SCHEMA]
    return tuple(RemoteTool.of(server, tool) for tool in fit[:_MAX_TOOLS])


async def _load(
    database: Database, settings: Settings, organization_id: OrganizationId
) -> tuple[ConnectableServer, ...]:
    found = await mcp_servers.list_servers(database, organization_id)
    if not found:
        return ()
    return tuple(await mcp_servers.load(database, open_sealer(settings), organization_id))


async def _connect(server: ConnectableServer, settings: Settings) -> _Session:
    """An open connection. Raises McpUnreachable."""
    # It takes a second to load, in which everybody else would wait.
    await asyncio.to_thread(importlib.import_module, "pydantic_ai.mcp")
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(settings.mcp_connect_timeout_s):
                toolset, bound = await _toolset(server, settings, stack)
                await stack.enter_async_context(toolset)
        except Exception as error:  # Each transport has errors of its own.
            raise _unreachable(server, error) from error
        return _Session(server, toolset, bound, stack.pop_all())


async def _toolset(
    server: ConnectableServer, settings: Settings, stack: contextlib.AsyncExitStack
) -> "tuple[MCPToolset[Any], AnswerBound | None]":
    from fastmcp.client.transports import StdioTransport  # noqa: PLC0415 # See `_connect`.
    from pydantic_ai.mcp import MCPToolset  # noqa: PLC0415

    connection = server.connection
    if connection.url is None:
        program, *arguments = connection.command
        # Beside PATH, HOME and the like it gets what it was given and nothing of ours.
        transport = StdioTransport(
            program,
            arguments,
            env=dict(connection.environment),
            keep_alive=False,
            log_file=Path("/dev/null"),
        )
        toolset = MCPToolset[Any](
            transport,
            id=server.name,
            tool_error_behavior="failed",
            init_timeout=settings.mcp_connect_timeout_s,
            read_timeout=settings.mcp_call_timeout_s,
        )
        return toolset, None
    bound = AnswerBound(settings.mcp_max_bytes)
    client = await stack.enter_async_context(
        httpx2.AsyncClient(
            headers={**connection.headers, **bound.headers},
            # The headers are secrets; wherever a server points to, they stay here.
            follow_redirects=False,
            timeout=httpx2.Timeout(
                settings.mcp_call_timeout_s, connect=settings.mcp_connect_timeout_s
            ),
            event_hooks={"response": [bound.hold]},
        )
    )
    toolset = MCPToolset[Any](
        connection.url,
        id=server.name,
        tool_error_behavior="failed",
        init_timeout=settings.mcp_connect_timeout_s,
        read_timeout=settings.mcp_call_timeout_s,
        http_client=client,
    )
    return toolset, bound


async def _close(session: _Session) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await session.closing.aclose()
    except Exception as error:  # It is given up either way.
        reason = session.server.connection.scrub(_reason(error))
        logger.info("The connection to %s did not close: %s", session.server.name, reason)


def _unreachable(server: ConnectableServer, error: Exception) -> McpUnreachable:
    reason = server.connection.scrub(_reason(error))
    return McpUnreachable(f"The MCP server {server.name!r} cannot be reached ({reason}).")


def _is_broken(refused: BaseException) -> bool:
    """Whether what looks like the server's refusal is the end of the connection."""
    from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT  # noqa: PLC0415 # See `_connect`.

    return getattr(refused.__cause__, "code", None) in (CONNECTION_CLOSED, REQUEST_TIMEOUT)


def _reason(error: BaseException) -> str:
    """The first of the errors that a group may hold, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


class McpTools(AbstractToolset[StepContext]):
    """The toolset of every agent: whatever the organization of its turn has configured."""

    def __init__(self, servers: McpServers) -> None:
        self._servers = servers

    @property
    def id(self) -> str | None:
        """Its name in messages about it."""
        return "mcp"

    async def get_tools(self, ctx: RunContext[StepContext]) -> dict[str, ToolsetTool[StepContext]]:
        """The tools of the servers that answer, and of those whose calls have to be settled."""
        tools = await self._servers.tools(ctx.deps.turn.organization_id)
        offered: dict[str, ToolsetTool[StepContext]] = {
            tool.definition.name: _McpTool(
                toolset=self,
                tool_def=tool.definition,
                max_retries=ctx.max_retries,
                args_validator=TOOL_SCHEMA_VALIDATOR,
                remote=tool,
            )
            for tool in tools
        }
        for call in _called_before(ctx):
            if call.tool_name not in offered and mcp_servers.is_offered_name(call.tool_name):
                offered[call.tool_name] = ToolsetTool(
                    toolset=self,
                    tool_def=ToolDefinition(name=call.tool_name),
                    max_retries=ctx.max_retries,
                    args_validator=TOOL_SCHEMA_VALIDATOR,
                )
        return offered

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: RunContext[StepContext],
        tool: ToolsetTool[StepContext],
    ) -> Any:
        """Call it, if it may be called. Raises ToolFailed."""
        if not isinstance(tool, _McpTool):
            raise ToolFailed(f"The tool {name!r} is not there any more.")
        remote = tool.remote
        action = f"Calling the tool {name!r}"
        await taint.require_permission(ctx, action, permitted=remote.permitted)
        if not remote.is_allowed:
            for url in _urls(tool_args):
                await taint.require_url(ctx, url)
        try:
            answer = await self._servers.call(ctx.deps.turn.id, remote, tool_args)
        except (ai_errors.ToolFailed, ai_errors.ModelRetry) as error:
            message = remote.server.connection.scrub(str(error))[: results.MAX_CHARACTERS]
            taint.untrusted(ctx, message, origin="mcp")
            raise ToolFailed(message) from error
        return await _told(ctx, remote, answer)


@dataclass(kw_only=True)
class _McpTool(ToolsetTool[StepContext]):
    """A tool that can be called now."""

    remote: RemoteTool


def _urls(value: object) -> list[str]:
    """Web addresses among the arguments of a call, to which its server may go."""
    if isinstance(value, str):
        return [url.rstrip(_PUNCTUATION) for url in _URL.findall(value)]
    if isinstance(value, dict):
        items = cast("dict[str, object]", value)
        return _urls([*items.keys(), *items.values()])
    if isinstance(value, list):
        return [url for item in cast("list[object]", value) for url in _urls(item)]
    return []


def _called_before(ctx: RunContext[StepContext]) -> list[ToolCallPart]:
    """Calls of an earlier attempt whose results are known, or lost; they are not made again.

    They need their tool to be settled, also when its server is gone since.
    """
    last = ctx.messages[-1] if ctx.messages else None
    if not isinstance(last, ModelResponse):
        return []
    settled = {*ctx.deps.results, *ctx.deps.interrupted}
    return [
        part
        for part in last.parts
        if isinstance(part, ToolCallPart) and (ctx.deps.step, part.tool_call_id) in settled
    ]


async def _told(ctx: RunContext[StepContext], tool: RemoteTool, answer: Any) -> Any:
    """An answer as the model gets it: scrubbed, recorded as untrusted, and not too long."""
    told = await _plain(ctx, tool, answer)
    text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False, default=str)
    taint.untrusted(ctx, text, origin="mcp")
    fitting = await results.fit(ctx, text, name=tool.definition.name)
    return told if fitting is text else fitting


async def _plain(ctx: RunContext[StepContext], tool: RemoteTool, value: Any) -> Any:
    """Bytes become files of the workspace."""
    if isinstance(value, str):
        return tool.server.connection.scrub(value)
    if isinstance(value, BinaryContent):
        ending = mimetypes.guess_extension(value.media_type) or ".bin"
        where = await results.keep(ctx, value.data, name=tool.definition.name, ending=ending)
        return f"[{value.media_type}, {len(value.data)} bytes: {where}]"
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {
            tool.server.connection.scrub(str(key)): await _plain(ctx, tool, item)
            for key, item in items
        }
    if isinstance(value, list | tuple):
        return [await _plain(ctx, tool, item) for item in cast("Sequence[object]", value)]
    return value
