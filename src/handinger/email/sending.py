"""The jobs of mail that goes out; what they need is loaded with the first mail."""

from dataclasses import dataclass

from handinger.email import answering
from handinger.ids import TurnId
from handinger.settings import Settings
from handinger.storage.blobs import Blobs
from handinger.storage.database import Database


@dataclass(frozen=True, slots=True)
class Sending:
    """What sending takes, once per process."""

    database: Database
    blobs: Blobs
    settings: Settings

    async def answer(self, lock: str) -> None:
        """Write the answer of the turn of this id into the outbox."""
        await answering.answer(self.database, self.settings, TurnId(lock))

    async def deliver(self, lock: str) -> None:
        """Try to deliver the mail of this id."""
        from handinger.email import delivering  # noqa: PLC0415 # 10 MB, for servers that send.

        await delivering.deliver(self.database, self.blobs, self.settings, lock)
