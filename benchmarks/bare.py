"""The floors, a process of its own: pydantic-ai without our server, and HTTP without pydantic-ai.

The agent has no tools and no instructions: what ours has more is ours to pay for.
"""

import json
import socketserver
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import httpx2
from pydantic_ai import Agent
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.aside import answer_calls
from benchmarks.connection import Connection, first_seen_at
from benchmarks.turn import Turn


async def _timed(run: Callable[[], Awaitable[str]], expected: str) -> Turn:
    sent_at, cpu_s = time.monotonic(), time.process_time()
    text = await run()
    ended_at, used_s = time.monotonic(), time.process_time() - cpu_s
    return Turn(sent_at, ended_at, text == expected, cpu_ms=used_s * 1000)


@dataclass(slots=True)
class Bare:
    """What `benchmarks.stage` calls by name, once it has said where the model is."""

    url: str = ""
    agent: Agent[None, str] = field(init=False)
    history: list[ModelMessage] = field(default_factory=list[ModelMessage])

    async def connect(self, url: str) -> None:
        """Remember where the model is, and build the agent."""
        self.url = url
        provider = OpenAIProvider(base_url=url, api_key="sk-scripted-0000000000")
        self.agent = Agent(OpenAIChatModel("scripted", provider=provider))

    async def serve_file(self, path: str, size: int) -> str:
        """Serve one file with sendfile from now on, as nginx does; the URL of it."""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()

        class Answer(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while line := self.rfile.readline():
                    if line == b"\r\n":
                        self.connection.sendall(head)
                        with open(path, "rb") as file:
                            self.connection.sendfile(file)

        static = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer)
        static.daemon_threads = True
        threading.Thread(target=static.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{static.server_address[1]}"

    async def agent_turns(self, prompt: str, expected: str, count: int) -> list[Turn]:
        """`agent.run`, so many times."""

        async def run() -> str:
            return (await self.agent.run(prompt)).output

        return [await _timed(run, expected) for _ in range(count)]

    async def agent_conversation(
        self, prompt: str, expected: str, count: int, anew: bool
    ) -> list[Turn]:
        """`agent.run`, so many times, each with all that was said before, unless `anew`."""
        if anew:
            self.history = []

        async def run() -> str:
            result = await self.agent.run(prompt, message_history=self.history)
            self.history = result.all_messages()
            return result.output

        return [await _timed(run, expected) for _ in range(count)]

    async def agent_streams(self, prompt: str, expected: str, count: int) -> list[Turn]:
        """`agent.iter` with each node's stream read to its end, so many times."""
        first_at: list[float] = []

        async def run() -> str:
            first_seen = False
            async with self.agent.iter(prompt) as run:
                async for node in run:
                    if not Agent.is_model_request_node(node):
                        continue
                    async with node.stream(run.ctx) as events:
                        async for event in events:
                            if not first_seen and _has_text(event):
                                first_seen = True
                                first_at.append(time.monotonic())
            return run.result.output if run.result else ""

        turns = [await _timed(run, expected) for _ in range(count)]
        pairs = zip(turns, first_at, strict=True)
        return [replace(turn, first_delta_at=at) for turn, at in pairs]

    async def parsed_streams(self, prompt: str, expected: str, count: int) -> list[Turn]:
        """The same stream, its lines read by an HTTP client and each parsed as JSON."""
        async with httpx2.AsyncClient(verify=False, timeout=60) as client:

            async def run() -> str:
                text = ""
                body = _request(prompt, stream=True)
                url = f"{self.url}/chat/completions"
                async with client.stream("POST", url, json=body) as response:
                    async for line in response.aiter_lines():
                        if line.startswith("data: {"):
                            text += _delta(line)
                return text

            return [await _timed(run, expected) for _ in range(count)]

    async def posts(self, prompt: str, expected: str, count: int) -> list[Turn]:
        """A bare HTTP call to the model, so many times, by the load client's own means."""
        connection = await Connection.open(self.url)
        path = urlsplit(self.url).path + "/chat/completions"

        async def run() -> str:
            answer = await connection.post(path, _request(prompt, stream=False), headers={})
            return json.loads(answer)["choices"][0]["message"]["content"]

        turns = [await _timed(run, expected) for _ in range(count)]
        await connection.close()
        return turns

    async def first_deltas(self, prompt: str, expected: str, count: int) -> list[Turn]:
        """A stream straight from the model, read as the load client reads ours."""
        connection = await Connection.open(self.url)
        path = urlsplit(self.url).path + "/chat/completions"
        marker = b'"content":"' + expected[:1].encode()
        turns: list[Turn] = []
        for _ in range(count):
            sent_at = time.monotonic()
            pieces = connection.stream(path, _request(prompt, stream=True), headers={})
            first_delta_at, told = await first_seen_at(pieces, marker=marker)
            ended_at = time.monotonic()
            text = "".join(map(_delta, told.decode().splitlines()))
            turns.append(Turn(sent_at, ended_at, text == expected, first_delta_at))
        await connection.close()
        return turns


def _has_text(event: AgentStreamEvent) -> bool:
    match event:
        case PartStartEvent(part=TextPart(content=text)):
            return bool(text)
        case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return bool(text)
        case _:
            return False


def _request(prompt: str, *, stream: bool) -> dict[str, object]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "scripted", "messages": messages, "stream": stream}


def _delta(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return choices[0]["delta"].get("content", "") if choices else ""


if __name__ == "__main__":
    bare = Bare()
    answer_calls(
        {
            function.__name__: function
            for function in (
                bare.connect,
                bare.serve_file,
                bare.agent_turns,
                bare.agent_conversation,
                bare.agent_streams,
                bare.parsed_streams,
                bare.posts,
                bare.first_deltas,
            )
        }
    )
