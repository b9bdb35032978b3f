"""Untrusted text that has reached a worker, and where its turns may reach since.

Whoever writes a page, a mail or a tool's answer may put instructions of his own into it. What such
text could make an agent do is limited here, by what is stored, not by what the model was told. The
text stays in the conversation, so a worker stays tainted from its first turn that read some to its
last.
"""

import re
from dataclasses import dataclass
from typing import Literal

from psycopg.types.json import Jsonb

from handinger.ids import TurnId, WorkerId
from handinger.storage.database import TenantStatements
from handinger.web import urls

Origin = Literal["page", "search", "mcp", "upload", "instruction"]
"""Where it came from. `instruction`: the turn's own, whose sender nobody has proven."""


@dataclass(frozen=True, slots=True)
class UntrustedText:
    """What is kept of one such text: where it came from, and which addresses it names."""

    origin: Origin
    addresses: frozenset[str]
    host: str | None = None  # that served it

    @classmethod
    def read(
        cls,
        text: str,
        *,
        origin: Origin,
        host: str | None = None,
        links: frozenset[str] | None = None,
    ) -> "UntrustedText":
        """Of a text, and the addresses that it links to without spelling them out.

        A foreign tool may repeat what it was given, in whatever form, so what it names does not
        count: else the agent could have any address named to itself.
        """
        if origin == "mcp":
            return cls(origin, frozenset(), host)
        return cls(origin, frozenset(urls.addresses_in(text) | (links or frozenset())), host)


async def record(
    sql: TenantStatements,
    worker_id: WorkerId,
    turn_id: TurnId,
    text: UntrustedText,
    *,
    step: int = 0,
) -> None:
    """A text has reached a turn, in the transaction that lets it in.

    `step`: of the model call that asked for it; 0 for what came with the instruction.
    """
    await sql.run(
        "INSERT INTO untrusted_texts"
        " (organization_id, worker_id, turn_id, step, origin, host, addresses)"
        " VALUES (%(organization_id)s, %(worker_id)s, %(turn_id)s, %(step)s, %(origin)s,"
        " %(host)s, %(addresses)s)",
        worker_id=worker_id,
        turn_id=turn_id,
        step=step,
        origin=text.origin,
        host=text.host,
        addresses=sorted(text.addresses),
    )


async def is_tainted(
    sql: TenantStatements, worker_id: WorkerId, *, turn_id: TurnId, step: int
) -> bool:
    """Whether untrusted text had reached the worker when the model made this step's calls.

    What the step's own calls have read meanwhile is not counted: the model chose them all before.
    Files that came with an instruction count from their turn on, read or not: commands read them
    without telling.
    """
    return bool(
        await sql.value(
            "SELECT EXISTS (SELECT 1 FROM untrusted_texts"
            " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
            " AND NOT (turn_id = %(turn_id)s AND step = %(step)s AND step > 0))"
            " OR EXISTS (SELECT 1 FROM turns WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s AND attachments @> '[{\"delivered\": true}]')",
            worker_id=worker_id,
            turn_id=turn_id,
            step=step,
        )
    )


async def was_read(
    sql: TenantStatements, worker_id: WorkerId, address: str, *, on_host: str | None = None
) -> bool:
    """Whether a text that the worker has read names this address.

    `on_host`: only a text that this host itself served.
    """
    return bool(
        await sql.value(
            "SELECT EXISTS (SELECT 1 FROM untrusted_texts"
            " WHERE organization_id = %(organization_id)s AND worker_id = %(worker_id)s"
            " AND %(address)s = ANY(addresses)"
            " AND (%(host)s::text IS NULL OR host = %(host)s))",
            worker_id=worker_id,
            address=address,
            host=on_host,
        )
    )


async def came_along(sql: TenantStatements, worker_id: WorkerId, sha256: str) -> bool:
    """Whether these bytes came with an instruction of the worker's, whatever their name is now."""
    return bool(
        await sql.value(
            "SELECT EXISTS (SELECT 1 FROM turns WHERE organization_id = %(organization_id)s"
            " AND worker_id = %(worker_id)s AND attachments @> %(file)s)",
            worker_id=worker_id,
            file=Jsonb([{"sha256": sha256, "delivered": True}]),
        )
    )


@dataclass(frozen=True, slots=True)
class _Instruction:
    input: str


async def was_instructed(
    sql: TenantStatements, worker_id: WorkerId, address: str, *, host: str
) -> bool:
    """Whether an instruction of the worker's, of this turn or before, names this address.

    One that the agent gave itself is not asked, nor one whose sender nobody has proven.
    """
    # An international name may stand there in its own letters.
    instructions = await _instructions_with(sql, worker_id, "" if "xn--" in host else host)
    return any(address in urls.addresses_named(row.input) for row in instructions)


async def was_named(sql: TenantStatements, worker_id: WorkerId, mail_address: str) -> bool:
    """The same of a mail address."""
    # The whole of it: where `ada@example.com` stands, `a@example.com` is not named.
    whole = re.compile(rf"(?<![\w.+%-]){re.escape(mail_address)}(?![\w-]|\.\w)")
    instructions = await _instructions_with(sql, worker_id, mail_address)
    return any(whole.search(row.input.lower()) for row in instructions)


async def _instructions_with(
    sql: TenantStatements, worker_id: WorkerId, text: str
) -> list[_Instruction]:
    """The instructions of somebody trusted that have this text, in lower case, somewhere."""
    return await sql.all(
        _Instruction,
        "SELECT input FROM turns WHERE organization_id = %(organization_id)s"
        " AND worker_id = %(worker_id)s AND source <> 'agent'"
        " AND strpos(lower(input), %(text)s) > 0"
        " AND NOT EXISTS (SELECT 1 FROM untrusted_texts u"
        " WHERE u.organization_id = %(organization_id)s AND u.turn_id = turns.id"
        " AND u.origin = 'instruction')",
        worker_id=worker_id,
        text=text,
    )
