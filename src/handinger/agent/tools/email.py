"""The mail tool: to people whom the organization allows, and to nobody else."""

import functools

from pydantic_ai import RunContext, Tool, ToolFailed

from handinger import mailbox
from handinger.agent.tools.context import IDEMPOTENT, ToolContext, effects
from handinger.email import addresses, outbox
from handinger.email.outbox import AttachedFile, Draft
from handinger.mailbox import Mailbox
from handinger.storage.database import TenantStatements
from handinger.turns import taint

_MAX_BODY_CHARACTERS = 100_000
_MAX_ATTACHMENTS = 20


async def send_email(
    ctx: RunContext[ToolContext],
    to: str,
    subject: str,
    body: str,
    attachments: list[str] = [],  # noqa: B006 # Never changed; the model is shown it.
) -> str:
    """Send a mail to one person, with files of the workspace if you name their paths.

    The body is Markdown. Only recipients that are allowed can be written to. You need not mail your
    answer to the person who instructed you; it reaches them by itself.
    """
    deps = ctx.deps
    try:
        recipient = mailbox.parse(to)
    except ValueError as error:
        raise ToolFailed(f"{error}. Give one address.") from error
    if not outbox.one_line(subject) or not body.strip():
        raise ToolFailed("A mail needs a subject and a body.")
    if len(body) > _MAX_BODY_CHARACTERS:
        raise ToolFailed(f"The body may have {_MAX_BODY_CHARACTERS} characters; attach a file.")
    async with deps.database.tenant(deps.turn.organization_id).statements() as sql:
        await _require_recipient(ctx, sql, recipient)
        sent = await outbox.count_sent(sql, deps.turn.id)
    limit = deps.settings.email_max_sent_per_turn
    if sent >= limit:
        raise ToolFailed(f"This turn has sent {sent} mails, and may send no more than {limit}.")
    draft = Draft(
        kind="sent",
        recipient=recipient,
        subject=subject,
        body=body,
        attachments=await _attached(ctx, attachments),
    )
    effects(ctx).writes.append(
        functools.partial(
            outbox.put,
            settings=deps.settings,
            worker_id=deps.turn.worker_id,
            turn_id=deps.turn.id,
            draft=draft,
        )
    )
    return f"The mail to {recipient} is on its way: {sent + 1} of the {limit} of this turn."


async def _require_recipient(
    ctx: RunContext[ToolContext], sql: TenantStatements, recipient: Mailbox
) -> None:
    """Raises ToolFailed for whom neither the organization nor a proven instruction names."""
    deps = ctx.deps
    mail = deps.turn.email or {}
    if mail.get("verified") and mail.get("from") == str(recipient):
        return
    allowed = (await addresses.allow_list(sql, deps.settings)).entries
    if str(recipient) in allowed:
        return
    if not mailbox.is_allowed(recipient, allowed):
        raise ToolFailed(
            f"{recipient} is not among the recipients that your organization allows. Say so in "
            "your answer."
        )
    # A whole domain is allowed. Whom to write to there must not be a stranger's idea.
    is_tainted = await taint.is_tainted(
        sql, deps.turn.worker_id, turn_id=deps.turn.id, step=deps.step
    )
    if is_tainted and not await taint.was_named(sql, deps.turn.worker_id, str(recipient)):
        raise ToolFailed(
            f"You have read text of strangers, and no instruction names {recipient}, so you cannot "
            "write there. Say in your answer what you wanted to send."
        )


async def _attached(ctx: RunContext[ToolContext], paths: list[str]) -> list[AttachedFile]:
    if len(paths) > _MAX_ATTACHMENTS:
        raise ToolFailed(f"A mail may have {_MAX_ATTACHMENTS} attachments.")
    found = [AttachedFile.of(await ctx.deps.workspace.find(path)) for path in dict.fromkeys(paths)]
    size, limit = sum(file.size for file in found), ctx.deps.settings.email_max_attached_bytes
    if size > limit:
        raise ToolFailed(f"The attachments have {size} bytes; {limit} may be sent.")
    return found


def tools() -> list[Tool[ToolContext]]:
    """It may run again: the mail is written with the call's result, or not at all."""
    return [Tool(send_email, metadata=IDEMPOTENT, sequential=True)]
