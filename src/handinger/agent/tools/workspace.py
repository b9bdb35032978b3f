"""The file tools: read, list, write and publish in the worker's workspace."""

from typing import Annotated

from pydantic import Field
from pydantic_ai import RunContext, Tool, ToolReturn

from handinger.agent import pictures, taint
from handinger.agent.tools.context import IDEMPOTENT, ToolContext, effects
from handinger.files import Change, File

_MAX_CHARACTERS = 50_000
_MAX_LISTED = 1_000
_MAX_DUMPED_BYTES = 4_096


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
) -> str | ToolReturn:
    """Read a file: up to `limit` characters from the character `offset` on.

    A picture (PNG, JPEG, GIF or WebP) is shown to you, if you can see. Of another file that is no
    text you get bytes in hexadecimal; `offset` and `limit` count bytes then.
    """
    file = await ctx.deps.workspace.find(path)
    content = await ctx.deps.workspace.read(file)
    kind = pictures.media_type(content)
    if kind is not None and (offset, limit) == (0, _MAX_CHARACTERS):
        await taint.shown(ctx, file, "")
        return pictures.result(ctx, file, kind)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        dump = _hexadecimal(file, content, offset, min(limit, _MAX_DUMPED_BYTES))
        await taint.shown(ctx, file, dump)
        return dump
    piece = text[offset : offset + limit]
    await taint.shown(ctx, file, piece)
    rest = len(text) - offset - len(piece)
    if rest <= 0:
        return piece
    return f"{piece}\n[{rest} more characters; go on with offset={offset + len(piece)}]"


def _hexadecimal(file: File, content: bytes, offset: int, limit: int) -> str:
    piece = content[offset : offset + limit]
    lines = [
        f"{offset + start:08x}  {piece[start : start + 16].hex(' ')}"
        for start in range(0, len(piece), 16)
    ]
    rest = len(content) - offset - len(piece)
    if rest > 0:
        lines.append(f"[{rest} more bytes; go on with offset={offset + len(piece)}]")
    head = f"{file.path} is no text ({file.media_type}, {file.size} bytes):"
    return "\n".join((head, *lines))


async def list_files(ctx: RunContext[ToolContext], path: str = ".") -> str:
    """List the files under a folder of the workspace, with their sizes in bytes.

    The path may be a pattern: `*.csv`, or `**/*.csv` in all folders.
    """
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
