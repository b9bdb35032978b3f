"""What time it is: the database says so, to every server and to the queue alike."""

from collections.abc import Awaitable, Callable
from datetime import datetime

from handinger.storage.database import Statements

Clock = Callable[[Statements], Awaitable[datetime]]
"""The time, as somebody who is connected to the database sees it."""


async def database_clock(sql: Statements) -> datetime:
    """The one clock that all servers share. The queue goes by it as well."""
    cursor = await sql.connection.execute("SELECT date_trunc('milliseconds', clock_timestamp())")
    row = await cursor.fetchone()
    assert row is not None
    return row[0]
