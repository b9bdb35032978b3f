"""The load client, a process of its own: sends instructions, and checks every answer."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.aside import answer_calls
from benchmarks.connection import Connection, first_seen_at
from benchmarks.turn import Turn

TEXT_DELTA = b'"type":"text-delta"'


@dataclass(slots=True)
class Conversation:
    """Where its next turn is sent, and how many it has had."""

    path: str = "/api/workers"
    turns: int = 0


@dataclass(slots=True)
class Client:
    """What `benchmarks.stage` calls by name, once it has said where the server is."""

    url: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    conversations: dict[bool, Conversation] = field(default_factory=dict[bool, Conversation])
    reading: list[asyncio.Task[bytes]] = field(default_factory=list[asyncio.Task[bytes]])

    async def connect(self, url: str, key: str) -> None:
        """Remember where to send to, and with which key."""
        self.url = url
        self.headers = {"authorization": f"Bearer {key}"}

    async def turns(
        self,
        prompt: str,
        expected: str,
        count: int,
        concurrency: int = 1,
        budget: str = "standard",
    ) -> list[Turn]:
        """So many new workers, each with one turn; so many at a time."""
        left = iter(range(count))
        body = {"input": prompt, "budget": budget}

        async def caller() -> list[Turn]:
            connection = await Connection.open(self.url)
            told = [await self._turn(connection, body, expected) for _ in left]
            await connection.close()
            return told

        callers = await asyncio.gather(*(caller() for _ in range(concurrency)))
        return sorted((turn for told in callers for turn in told), key=lambda turn: turn.sent_at)

    async def streamed_turns(self, prompt: str, expected: str, count: int) -> list[Turn]:
        """So many new workers, one after the other, each with one turn that is streamed."""
        connection = await Connection.open(self.url)
        turns = [await self._streamed_turn(connection, prompt, expected) for _ in range(count)]
        await connection.close()
        return turns

    async def conversation(
        self, prompt: str, expected: str, count: int, messages: bool, anew: bool
    ) -> list[Turn]:
        """So many turns of one worker: of a new one, or the next ones of the latest such."""
        if anew:
            self.conversations[messages] = Conversation()
        conversation = self.conversations[messages]
        connection = await Connection.open(self.url)
        query = "" if messages else "?messages=false"
        turns: list[Turn] = []
        for _ in range(count):
            path = conversation.path + query
            sent_at = time.monotonic()
            answer = await connection.post(path, {"input": prompt}, headers=self.headers)
            ended_at = time.monotonic()
            worker = json.loads(answer)
            conversation.path = f"/api/workers/{worker['id']}"
            conversation.turns += 1
            told = 2 * conversation.turns if messages else 0
            is_right = worker["output_text"] == expected and len(worker["messages"]) == told
            turns.append(Turn(sent_at, ended_at, is_right))
        await connection.close()
        return turns

    async def accepted(self, prompt: str, count: int, budget: str = "standard") -> list[str]:
        """So many new workers, whose turns are not waited for; their ids."""
        connection = await Connection.open(self.url)
        headers = {**self.headers, "prefer": "respond-async"}
        body = {"input": prompt, "budget": budget}
        workers = [
            json.loads(await connection.post("/api/workers", body, headers=headers))
            for _ in range(count)
        ]
        await connection.close()
        return [worker["id"] for worker in workers]

    async def cancelled(self, worker_ids: list[str]) -> list[str]:
        """Stop the turns of these workers, and return their status when all have ended."""
        connection = await Connection.open(self.url)
        for worker_id in worker_ids:
            await connection.post(f"/api/workers/{worker_id}/cancel", {}, headers=self.headers)
        ended = [await self._ended(connection, worker_id) for worker_id in worker_ids]
        await connection.close()
        return ended

    async def reads(self, count: int) -> list[Turn]:
        """So many reads of a worker that has nothing to do, one after the other."""
        connection = await Connection.open(self.url)
        answer = await connection.post("/api/workers", {"input": "Hello"}, headers=self.headers)
        path = f"/api/workers/{json.loads(answer)['id']}"
        reads: list[Turn] = []
        for _ in range(count):
            sent_at = time.monotonic()
            pieces = [piece async for piece in connection.stream(path, headers=self.headers)]
            is_right = json.loads(b"".join(pieces))["status"] == "completed"
            reads.append(Turn(sent_at, time.monotonic(), is_right))
        await connection.close()
        return reads

    async def file_reads(self, size: int, count: int) -> list[Turn]:
        """So many reads of the largest file that the latest worker published."""
        connection = await Connection.open(self.url)
        listed = [piece async for piece in connection.stream("/api/workers", headers=self.headers)]
        (worker, *_) = json.loads(b"".join(listed))["workers"]
        path = f"/api/workers/{worker['id']}/files/published.bin"
        reads = [await _read_file(connection, path, self.headers, size) for _ in range(count)]
        await connection.close()
        return reads

    async def static_reads(self, url: str, size: int, count: int) -> list[Turn]:
        """The same of a server that serves one file."""
        connection = await Connection.open(url)
        reads = [await _read_file(connection, "/", {}, size) for _ in range(count)]
        await connection.close()
        return reads

    async def open_streams(self, worker_ids: list[str]) -> None:
        """Read each of these workers' streams; returns once every one has begun."""
        begun = [asyncio.Event() for _ in worker_ids]
        for worker_id, event in zip(worker_ids, begun, strict=True):
            self.reading.append(asyncio.create_task(self._read(worker_id, event.set)))
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), 60)

    async def finish_streams(self) -> int:
        """Wait for the end of each open stream; how many ended as a turn that went well does."""
        told = await asyncio.wait_for(asyncio.gather(*self.reading), 120)
        self.reading.clear()
        return sum(b'"type":"finish"' in stream for stream in told)

    async def _ended(self, connection: Connection, worker_id: str) -> str:
        while True:
            pieces = connection.stream(f"/api/workers/{worker_id}", headers=self.headers)
            worker = json.loads(b"".join([piece async for piece in pieces]))
            if not worker["running"]:
                return worker["status"]
            await asyncio.sleep(0.05)

    async def _turn(self, connection: Connection, body: Mapping[str, str], expected: str) -> Turn:
        sent_at = time.monotonic()
        answer = await connection.post("/api/workers", body, headers=self.headers)
        ended_at = time.monotonic()
        worker = json.loads(answer)
        is_right = worker["status"] == "completed" and worker["output_text"] == expected
        return Turn(sent_at, ended_at, is_right)

    async def _streamed_turn(self, connection: Connection, prompt: str, expected: str) -> Turn:
        sent_at = time.monotonic()
        body = {"input": prompt, "stream": True}
        pieces = connection.stream("/api/workers", body, headers=self.headers)
        first_delta_at, told = await first_seen_at(pieces, marker=TEXT_DELTA)
        ended_at = time.monotonic()
        events = list(_events(told))
        text = "".join(event["delta"] for event in events if event["type"] == "text-delta")
        is_right = text == expected and events[-1]["type"] == "finish"
        return Turn(sent_at, ended_at, is_right, first_delta_at)

    async def _read(self, worker_id: str, begun: Callable[[], None]) -> bytes:
        connection = await Connection.open(self.url)
        told = bytearray()
        pieces: AsyncGenerator[bytes] = connection.stream(
            f"/api/workers/{worker_id}/stream", headers=self.headers
        )
        async for piece in pieces:
            told += piece
            begun()
        await connection.close()
        return bytes(told[-100:])


def _events(told: bytes) -> Iterator[dict[str, str]]:
    for line in told.decode().splitlines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def _read_file(
    connection: Connection, path: str, headers: Mapping[str, str], size: int
) -> Turn:
    sent_at, got = time.monotonic(), 0
    async for piece in connection.stream(path, headers=headers):
        got += len(piece)
    return Turn(sent_at, time.monotonic(), is_right=got >= size)


if __name__ == "__main__":
    client = Client()
    answer_calls(
        {
            function.__name__: function
            for function in (
                client.connect,
                client.turns,
                client.streamed_turns,
                client.conversation,
                client.accepted,
                client.cancelled,
                client.reads,
                client.file_reads,
                client.static_reads,
                client.open_streams,
                client.finish_streams,
            )
        }
    )
