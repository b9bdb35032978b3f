"""The file tools: read, list, write and publish in the worker's workspace."""

import codecs
import contextlib
from typing import Annotated

from pydantic import Field
from pydantic_ai import RunContext, Tool, ToolReturn

from handinger.agent import pictures, taint
from handinger.agent.tools.context import IDEMPOTENT, ToolContext, effects
from handinger.files import Change, File, Workspace
from handinger.files.paths import HEAD_BYTES, looks_like_text, spelled

_MAX_CHARACTERS = 50_000
_MAX_LISTED = 1_000
_MAX_DUMPED_BYTES = 4_096
_MAX_CHARACTER_BYTES = 4  # in UTF-8


async def write_file(ctx: RunContext[ToolContext], path: str, content: str) -> str:
    """Create or replace a text file in the workspace.

    It is published to the person who instructed you, unless it is under scratchpad/ or inbox/ or
    hidden.
    """
    change = await ctx.deps.workspace.prepare(path, content.encode())
    effects(ctx).files.append(change)
    published = "published" if change.published else "not published"
    return f"Wrote {spelled(change.path)} ({change.size} bytes, {published})."


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
    head = b"".join([piece async for piece in ctx.deps.workspace.pieces(file, end=HEAD_BYTES)])
    kind = pictures.media_type(head)
    if kind is not None and (offset, limit) == (0, _MAX_CHARACTERS):
        await taint.shown(ctx, file, "")
        return pictures.result(ctx, file, kind)
    if looks_like_text(head):
        shown, told = await _text(ctx.deps.workspace, file, offset, limit)
    else:
        shown = told = await _hexadecimal(
            ctx.deps.workspace, file, offset, min(limit, _MAX_DUMPED_BYTES)
        )
    await taint.shown(ctx, file, shown)
    return told


async def _text(workspace: Workspace, file: File, offset: int, limit: int) -> tuple[str, str]:
    """Characters from `offset` on, alone and as the model is told; no more is read than needed.

    What is in front of them has to be read to count its characters, but is not kept.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    kept = ""
    ahead = offset  # characters in front of what is wanted
    end = (offset + limit + 1) * _MAX_CHARACTER_BYTES
    async with contextlib.aclosing(workspace.pieces(file, end=end)) as pieces:
        async for piece in pieces:
            text = decoder.decode(piece)
            kept += text[ahead:]
            ahead = max(0, ahead - len(text))
            if len(kept) > limit:
                break
        else:
            kept += decoder.decode(b"", final=True)[ahead:]
    shown = kept[:limit]
    notes: list[str] = []
    if "\ufffd" in shown:
        notes.append("bytes that are not UTF-8 are shown as \ufffd")
    if len(kept) > limit:
        notes.append(f"the file has {file.size} bytes; go on with offset={offset + limit}")
    return shown, f"{shown}\n[{'; '.join(notes)}]" if notes else shown


async def _hexadecimal(workspace: Workspace, file: File, offset: int, limit: int) -> str:
    pieces = workspace.pieces(file, start=offset, end=offset + limit)
    content = b"".join([piece async for piece in pieces])
    lines = [
        f"{offset + start:08x}  {content[start : start + 16].hex(' ')}"
        for start in range(0, len(content), 16)
    ]
    rest = file.size - offset - len(content)
    if rest > 0:
        lines.append(f"[{rest} more bytes; go on with offset={offset + len(content)}]")
    head = f"{spelled(file.path)} is no text ({file.media_type}, {file.size} bytes):"
    return "\n".join((head, *lines))


async def list_files(ctx: RunContext[ToolContext], path: str = ".") -> str:
    """List the files under a folder of the workspace, with their sizes in bytes.

    The path may be a pattern: `*.csv`, or `**/*.csv` in all folders.
    """
    found = await ctx.deps.workspace.list(path)
    if not found:
        return "There are no files here."
    lines = [
        f"{spelled(file.path)}\t{file.size}\t{'published' if file.published else 'not published'}"
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
    return f"Published {spelled(file.path)}."


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
