"""Results that are too long for the model: cut, with the whole of them in the workspace."""

from pydantic_ai import RunContext

from handinger.agent.tools.context import ToolContext, effects, mark
from handinger.files import FileError

MAX_CHARACTERS = 50_000

_FOLDER = "scratchpad/results"


async def fit(ctx: RunContext[ToolContext], text: str, *, name: str, ending: str = ".txt") -> str:
    """The text itself; or its beginning, and where the whole of it lies."""
    if len(text) <= MAX_CHARACTERS:
        return text
    where = await keep(ctx, text.encode(errors="replace"), name=name, ending=ending)
    return (
        f"{text[:MAX_CHARACTERS]}\n[cut after {MAX_CHARACTERS} of {len(text)} characters; {where}]"
    )


async def keep(ctx: RunContext[ToolContext], content: bytes, *, name: str, ending: str) -> str:
    """Put what a call brought into the workspace, unpublished; says where, or why it could not."""
    made = effects(ctx).files
    path = f"{_FOLDER}/{name}-{mark(ctx)}-{len(made) + 1}{ending}"
    try:
        made.append(await ctx.deps.workspace.prepare(path, content))
    except FileError as error:
        return f"not kept, because: {error}"
    return f"all of it is in {path}"
