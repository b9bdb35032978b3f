"""The MCP servers of an organization: how to reach them, what they may do; secrets stay sealed.

Only an operator configures them. What is needed to connect is sealed as a whole, since a URL or an
argument may hold a secret, too; what is shown of a server has none.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from handinger.errors import Conflict, InvalidInput, NotFound
from handinger.ids import OrganizationId
from handinger.storage.database import Database
from handinger.storage.sealing import Sealer

# No underscore: the first one in a tool's name ends the server's.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
# What the agent's own tools begin with; `web` and a tool `search` would be `web_search`.
_RESERVED = frozenset(
    ("web", "run", "read", "list", "write", "publish", "schedule", "cancel", "send", "final")
)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Shorter ones would be found everywhere.
_MIN_SECRET_CHARACTERS = 6

EVERY_TOOL = "*"


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a server: over HTTP if there is a URL, else by running a command."""

    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def target(self) -> str:
        """What it may be shown as: a URL without its query and password, a program's name."""
        if self.url is None:
            program, *arguments = self.command
            return f"{program} ..." if arguments else program
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        query = "?..." if parts.query else ""
        return f"{parts.scheme}://{host}{parts.path}{query}"

    def scrub(self, text: str) -> str:
        """A text without the secrets that this connection holds."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text

    def _secrets(self) -> list[str]:
        values = [*self.headers.values(), *self.environment.values()]
        # `Bearer abc`: the token alone is as secret.
        found = [*values, *(word for value in values for word in value.split())]
        if self.url is not None:
            parts = urlsplit(self.url)
            found += [parts.query, parts.password or ""]
            found += [pair.partition("=")[2] for pair in parts.query.split("&")]
        return sorted(
            {secret for secret in found if len(secret) >= _MIN_SECRET_CHARACTERS},
            key=len,
            reverse=True,
        )


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server as it may be shown at any time."""

    name: str
    target: str
    may_write: list[str]  # names of tools, or EVERY_TOOL
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    target: str
    may_write: list[str]
    created_at: datetime
    sealed: bytes


@dataclass(frozen=True, slots=True)
class ConnectableServer:
    """A server with all that it takes to connect; never shown, never logged."""

    name: str
    may_write: frozenset[str]
    created_at: datetime
    connection: Connection = field(repr=False)

    def permits(self, tool: str) -> bool:
        """Whether the organization lets this tool change things outside."""
        return EVERY_TOOL in self.may_write or tool in self.may_write


def read_connection(
    target: str, *, headers: Mapping[str, str], environment: Mapping[str, str]
) -> Connection:
    """What an operator wrote: a URL, or a command line. Raises InvalidInput."""
    if target.startswith(("http://", "https://")):
        if environment:
            raise InvalidInput("--env is for a command; a server at a URL takes --header.")
        return _http_connection(target, headers)
    if "://" in target:
        raise InvalidInput("The URL of an MCP server begins with http:// or https://.")
    if headers:
        raise InvalidInput("--header is for a URL; a command takes --env.")
    try:
        command = tuple(shlex.split(target))
    except ValueError as error:
        raise InvalidInput(f"The command cannot be read: {error}.") from error
    if not command:
        raise InvalidInput("Give the URL of an MCP server, or the command that runs one.")
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise InvalidInput(f"{name[:80]!r} cannot be an environment variable.")
    return Connection(command=command, environment=dict(environment))


def _http_connection(url: str, headers: Mapping[str, str]) -> Connection:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or any(character.isspace() for character in url):
        raise InvalidInput("The URL of the MCP server is not valid.")
    for name, value in headers.items():
        unsendable = any(ord(c) < 32 or ord(c) > 126 for c in value)
        if not _HEADER.fullmatch(name) or unsendable:
            raise InvalidInput(f"{name[:80]!r} cannot be sent as a header with this value.")
    return Connection(url=url, headers=dict(headers))


async def add(
    database: Database,
    sealer: Sealer,
    organization_id: OrganizationId,
    name: str,
    *,
    connection: Connection,
    may_write: list[str],
) -> McpServer:
    """Configure a server for all workers of an organization. Raises InvalidInput, Conflict."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "A server's name has 1 to 31 lower-case letters, digits and hyphens, and begins with "
            "a letter: its tools are called NAME_TOOL."
        )
    if name in _RESERVED:
        raise InvalidInput(f"{name!r} begins names of the agent's own tools; choose another name.")
    content = json.dumps(
        {
            "url": connection.url,
            "headers": dict(connection.headers),
            "command": list(connection.command),
            "environment": dict(connection.environment),
        }
    )
    async with database.tenant(organization_id).statements() as sql:
        added = await sql.first(
            McpServer,
            "INSERT INTO mcp_servers (organization_id, name, target, may_write, sealed)"
            " VALUES (%(organization_id)s, %(name)s, %(target)s, %(may_write)s, %(sealed)s)"
            " ON CONFLICT DO NOTHING RETURNING name, target, may_write, created_at",
            name=name,
            target=connection.target,
            may_write=may_write,
            sealed=sealer.seal(content.encode()),
        )
    if added is None:
        raise Conflict(
            f"There is an MCP server {name!r} already; remove it first, or choose another name."
        )
    return added


async def list_servers(database: Database, organization_id: OrganizationId) -> list[McpServer]:
    """The servers of an organization, by name."""
    async with database.tenant(organization_id).statements() as sql:
        return await sql.all(
            McpServer,
            "SELECT name, target, may_write, created_at FROM mcp_servers"
            " WHERE organization_id = %(organization_id)s ORDER BY name",
        )


async def remove(database: Database, organization_id: OrganizationId, name: str) -> None:
    """Forget a server; its tools are gone from the next model call on. Raises NotFound."""
    async with database.tenant(organization_id).statements() as sql:
        removed = await sql.run(
            "DELETE FROM mcp_servers WHERE organization_id = %(organization_id)s"
            " AND name = %(name)s",
            name=name,
        )
    if not removed:
        raise NotFound(f"There is no MCP server {name[:80]!r}; see `handinger mcp list`.")


async def load(
    database: Database, sealer: Sealer, organization_id: OrganizationId
) -> list[ConnectableServer]:
    """The servers of an organization, opened. Raises ConfigurationError for another key's."""
    async with database.tenant(organization_id).statements() as sql:
        rows = await sql.all(
            _Row,
            "SELECT name, target, may_write, created_at, sealed FROM mcp_servers"
            " WHERE organization_id = %(organization_id)s ORDER BY name",
        )
    return [_opened(row, sealer) for row in rows]


def _opened(row: _Row, sealer: Sealer) -> ConnectableServer:
    content = json.loads(sealer.open(bytes(row.sealed)))
    connection = Connection(
        url=content["url"],
        headers=content["headers"],
        command=tuple(content["command"]),
        environment=content["environment"],
    )
    return ConnectableServer(row.name, frozenset(row.may_write), row.created_at, connection)


def is_offered_name(tool: str) -> bool:
    """Whether a tool of this name can only be one of an MCP server's."""
    server, underscore, _ = tool.partition("_")
    return bool(underscore and _NAME.fullmatch(server)) and server not in _RESERVED
