"""Pictures that the model is shown: named in the journal, loaded when a request is made.

A result that shows a picture says so in words, and names its bytes in the result's metadata, which
no model is sent. So neither the journal nor the told story holds a picture, and a turn that was
resumed shows it as well. A later turn has the words only; its agent can read the file again.

A provider may refuse a picture that looked like one. Then the call is repeated without the pictures
that it had not taken before, and the model is told that it cannot see them.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from obstore.exceptions import BaseError
from pydantic_ai import RunContext, ToolReturn
from pydantic_ai.messages import BinaryContent, ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models import Model

from handinger.agent.tools.context import ToolContext
from handinger.agent.tools.showing import Showing
from handinger.files import File

logger = logging.getLogger(__name__)

# What every provider takes: 5 MiB in base64.
MAX_BYTES = 3_900_000

_MOST_SHOWN = 8  # in one request, the newest ones
_PICTURE = "picture"
_WITHHELD = "The model's provider refused it, so you cannot see it. Commands can still work on it."


def media_type(content: bytes) -> str | None:
    """Of content that is a picture of a kind that models are shown, whatever its name says."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return None


def result(ctx: RunContext[ToolContext], file: File, kind: str) -> str | ToolReturn:
    """What the running call tells of a picture: it is shown, or why it cannot be."""
    what = f"{file.path} is a picture ({kind}, {file.size} bytes)"
    if not _are_seen(ctx):
        return f"{what}. You cannot see pictures; commands can tell its size and work on it."
    if file.size > MAX_BYTES:
        return (
            f"{what}, too large to be shown: {MAX_BYTES} bytes may be. Make a smaller one of it "
            "with a command."
        )
    named = {"sha256": file.sha256, "mediaType": kind, "turn": ctx.deps.turn.id}
    return ToolReturn(f"{what}; it is shown with this result.", metadata={_PICTURE: named})


def shows(part: ToolReturnPart) -> bool:
    """Whether a result names a picture."""
    return _named(part) is not None


async def shown(
    ctx: RunContext[ToolContext], messages: Sequence[ModelMessage]
) -> list[ModelMessage]:
    """The messages as they are sent: with the newest pictures of this turn."""
    if not _are_seen(ctx):
        return list(messages)
    told = list(messages)
    left = _MOST_SHOWN
    ctx.deps.pictures.sent.clear()
    ctx.deps.pictures.is_complete = True
    for place in range(len(told) - 1, -1, -1):
        message = told[place]
        if not isinstance(message, ModelRequest):
            continue
        parts = list(message.parts)
        for number in range(len(parts) - 1, -1, -1):
            part = parts[number]
            if left and isinstance(part, ToolReturnPart) and _is_of_turn(ctx, part):
                parts[number] = await _with_picture(ctx, part)
                left -= 1
        told[place] = replace(message, parts=parts)
    return told


async def _with_picture(ctx: RunContext[ToolContext], part: ToolReturnPart) -> ToolReturnPart:
    named = _named(part)
    assert named is not None
    showing = ctx.deps.pictures
    if named["sha256"] in showing.refused:
        return _without_picture(showing, part, _WITHHELD)
    try:
        content = await ctx.deps.workspace.read_picture(named["sha256"])
    except FileNotFoundError:  # Replaced meanwhile, and removed since nothing uses it.
        return _without_picture(showing, part, "It is gone since.")
    except (OSError, BaseError) as error:
        # The next request may have it; the model has nothing to do with it, and need not fail.
        logger.warning("A picture cannot be loaded, so the model is told so: %s", error)
        return _without_picture(showing, part, "It cannot be loaded at this moment.")
    showing.sent.add(named["sha256"])
    picture = BinaryContent(content, media_type=named["mediaType"])
    return replace(part, content=[part.content, picture])


def _without_picture(showing: Showing, part: ToolReturnPart, why: str) -> ToolReturnPart:
    showing.is_complete = False
    return replace(part, content=f"{part.content} [{why}]")


def _is_of_turn(ctx: RunContext[ToolContext], part: ToolReturnPart) -> bool:
    named = _named(part)
    return named is not None and named["turn"] == ctx.deps.turn.id


def _named(part: ToolReturnPart) -> dict[str, Any] | None:
    if not isinstance(part.metadata, dict):
        return None
    return cast("dict[str, Any]", part.metadata).get(_PICTURE)


def _are_seen(ctx: RunContext[ToolContext]) -> bool:
    stated = ctx.deps.settings.image_input
    if stated is not None:
        return stated
    profile = cast("Model", ctx.model).profile
    return profile.get("supports_image_input", True)
