"""The taint rule: what tools may do once text from outside has reached their worker.

Whatever a tool brings in from outside is `untrusted`. A tool that reaches outward asks here before
it does: `require_url`, `require_permission`. A refusal is a result that the
model can act on.
"""

from pydantic_ai import RunContext, ToolFailed

from handinger.agent.tools.context import ToolContext, effects
from handinger.attachments import INBOX
from handinger.files import File
from handinger.turns import taint
from handinger.turns.taint import Origin, UntrustedText
from handinger.web.urls import WebUrl

_SEEN = (
    "URLs that stand, exactly so, in an instruction, in search results or on a page that was "
    "fetched, with nothing added to them"
)


def untrusted(
    ctx: RunContext[ToolContext],
    text: str,
    *,
    origin: Origin,
    host: str | None = None,
    links: frozenset[str] | None = None,
) -> None:
    """The running call hands text from outside to the model: the worker is tainted from then on.

    `links`: addresses that the text links to without spelling them out; `host` served it. Stored
    with the call's result, whether that is a success or a failure.
    """
    read = UntrustedText.read(text, origin=origin, host=host, links=links)
    effects(ctx).untrusted.append(read)


async def shown(ctx: RunContext[ToolContext], file: File, text: str) -> None:
    """The running call shows text of a file; what came with an instruction is untrusted.

    What the agent wrote there itself is not, so that it cannot name an address to itself.
    """
    if not file.path.startswith(f"{INBOX}/"):
        return
    turn = ctx.deps.turn
    async with ctx.deps.database.tenant(turn.organization_id).statements() as sql:
        came_along = await taint.came_along(sql, turn.worker_id, file.sha256)
    if came_along:
        untrusted(ctx, text, origin="upload")


async def is_tainted(ctx: RunContext[ToolContext]) -> bool:
    """Whether text from outside had reached this worker when the model chose the running call."""
    turn = ctx.deps.turn
    async with ctx.deps.database.tenant(turn.organization_id).statements() as sql:
        return await taint.is_tainted(sql, turn.worker_id, turn_id=turn.id, step=ctx.deps.step)


async def require_url(ctx: RunContext[ToolContext], url: str, *, same_host: bool = False) -> None:
    """Let a tainted turn reach only a URL that it did not make up itself.

    `same_host`: a page counts only if the URL's own host served it. Raises ToolFailed.
    """
    if await is_tainted(ctx) and not await _is_pointed_at(ctx, url, same_host=same_host):
        raise ToolFailed(
            f"Refused: {url!r} is not one of the {_SEEN}. Since this conversation has read text "
            "from outside, only those may be reached. Use one as it stands, or find the page with "
            "web_search. If neither works, say in your answer that it could not be reached."
        )


async def require_permission(ctx: RunContext[ToolContext], action: str, *, permitted: bool) -> None:
    """Let a tainted turn act on the outside world only if its organization said so.

    `action`: what was to be done, as in "Calling the tool 'crm_update'". Raises ToolFailed.
    """
    if not permitted and await is_tainted(ctx):
        raise ToolFailed(
            f"Refused: {action} may change something outside, or reach out to anywhere, and this "
            "conversation has read text from outside, which may have asked for it. The "
            "organization has not allowed that. "
            "Go on without it, and say in your answer what was left undone."
        )


async def _is_pointed_at(
    ctx: RunContext[ToolContext], url: str, *, same_host: bool = False
) -> bool:
    parsed = WebUrl.parse(url)
    if parsed is None:
        return False
    address, host = parsed.address, parsed.host
    turn = ctx.deps.turn
    async with ctx.deps.database.tenant(turn.organization_id).statements() as sql:
        return await taint.was_instructed(
            sql, turn.worker_id, address, host=host
        ) or await taint.was_read(sql, turn.worker_id, address, on_host=host if same_host else None)
