"""`handinger workers:emails ...`: what came to a worker by mail, and what it sent."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from handinger.cli import contents, wording
from handinger.cli.examples import example
from handinger.cli.listing import Listing
from handinger.cli.parameters import Cursor, Given, Limit, MaxItems, WorkerId

if TYPE_CHECKING:
    from handinger.sdk.models import EmailPage

app = App(name="workers:emails", help_format="plaintext")


@app.command(name="list", help_epilogue=example('handinger workers:emails list "$WORKER"'))
def list_(
    worker_id: WorkerId,
    *,
    limit: Limit = None,
    cursor: Cursor = None,
    max_items: MaxItems = None,
    options: Given,
) -> None:
    """List the mails of a worker, newest first; also those that started no turn."""
    with options.client() as client:
        listing = Listing("emails", limit, cursor, max_items, options)
        page = listing.show(
            lambda limit, cursor: client.workers.emails.with_raw_response.list(
                worker_id, limit=limit, cursor=cursor
            )
        )
    if page is not None:
        from handinger.sdk.models import EmailPage

        _show(EmailPage.model_validate(page), worker_id)


@app.command(
    help_epilogue=example('handinger workers:emails retrieve "$WORKER" "$EMAIL" -o mail.eml')
)
def retrieve(
    worker_id: WorkerId,
    email_id: Annotated[str, Parameter(help="The mail's id.")],
    *,
    target: contents.Target = None,
    options: Given,
) -> None:
    """Fetch a mail that came in, as it came."""
    with options.client() as client:
        mail = client.workers.emails.retrieve(email_id, worker_id=worker_id)
    if target is not None and contents.is_file(target):
        with contents.writing(target):
            mail.write_to_file(target)
        contents.told(target, len(mail.content))
    elif contents.is_for_a_person(target):
        contents.print_text(mail.content)
    else:
        sys.stdout.buffer.write(mail.content)
        sys.stdout.buffer.flush()


def _show(page: EmailPage, worker_id: str) -> None:
    from handinger.cli import output, pretty

    table = (
        (
            email.id,
            email.status,
            f"from {email.from_}" if email.direction == "in" else f"to {email.to}",
            "" if email.created_at is None else _moment(email.created_at),
            wording.one_line(email.subject, limit=60),
        )
        for email in page.emails
    )
    console = pretty.stdout()
    if page.emails:
        console.print(pretty.rows(table, "mail", "status", "who", "when", "subject"))
    else:
        console.print("No mails.")
    if page.next_cursor:
        output.note(f"More: handinger workers:emails list {worker_id} --cursor {page.next_cursor}")


def _moment(at: str) -> str:
    return wording.moment(datetime.fromisoformat(at))
