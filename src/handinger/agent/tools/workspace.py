"""The file tools: read, list, write and publish in the worker's workspace."""

from typing import Annotated

from pydantic import Field
from pydantic_ai import RunContext, Tool

from handinger.agent import taint
from handinger.agent.tools.context import IDEMPOTENT, ToolContext, effects
from handinger.files import Change, FileError

_MAX_CHARACTERS = 50_000
_MAX_LISTED = 1_000


async def write_file(ctx: RunContext[ToolContext], path: str, content: str) -> str:
    """Create or replace a text file in the workspace.

    It is published to the person who instructed you, unless it is under scratchpad/ or inbox/ or
    hidden.
    """
    change = await ctx.deps.workspace.prepare(path, content.encode())
    effects(ctx).files.append(change)
    published = "published" if change.published else "not published"
    return f"Wrote {change.path} ({change.size} bytes, {published})."


async def read_file(
    ctx: RunContext[ToolContext],
    path: str,
    offset: Annotated[int, Field(ge=0)] = 0,
    limit: Annotated[int, Field(ge=1, le=_MAX_CHARACTERS)] = _MAX_CHARACTERS,
) -> str:
    """Read a text file: up to `limit` characters from the character `offset` on."""
    file = await ctx.deps.workspace.find(path)
    content = await ctx.deps.workspace.read(file)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise FileError(
            f"{file.path!r} is not a text file ({file.media_type}, {file.size} bytes)."
        ) from error
    piece = text[offset : offset + limit]
    await taint.shown(ctx, file, piece)
    rest = len(text) - offset - len(piece)
    if rest <= 0:
        return piece
    return f"{piece}\n[{rest} more characters; go on with offset={offset + len(piece)}]"


async def list_files(ctx: RunContext[ToolContext], path: str = ".") -> str:
    """List the files under a folder of the workspace, with their sizes in bytes."""
    found = await ctx.deps.workspace.list(path)
    if not found:
        return "There are no files here."
    lines = [
        f"{file.path}\t{file.size}\t{'published' if file.published else 'not published'}"
        for file in found[:_MAX_LISTED]
    ]
    if len(found) > _MAX_LISTED:
        lines.append(f"[{len(found) - _MAX_LISTED} more files; list a folder of them]")
    return "\n".join(lines)


async def publish_file(ctx: RunContext[ToolContext], path: str) -> str:
    """Publish an existing file of the workspace to the person who instructed you."""
    file = await ctx.deps.workspace.find(path)
    published = Change(
        path=file.path,
        sha256=file.sha256,
        size=file.size,
        media_type=file.media_type,
        published=True,
    )
    effects(ctx).files.append(published)
    return f"Published {file.path}."


def tools() -> list[Tool[ToolContext]]:
    """All of them may run again: the same call leaves the same files.

    One at a time, though: each looks at files that the one before it may have written.
    """
    return [
        Tool(write_file, metadata=IDEMPOTENT, sequential=True),
        Tool(read_file, metadata=IDEMPOTENT, sequential=True),
        Tool(list_files, metadata=IDEMPOTENT, sequential=True),
        Tool(publish_file, metadata=IDEMPOTENT, sequential=True),
    ]
