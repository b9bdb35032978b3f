"""A process beside the benchmark that does what it is told: the load client, the bare agent.

So neither costs the other's time, and each one's CPU is its own. Calls are lines of JSON.
"""

import asyncio
import json
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import uvloop
from pydantic import TypeAdapter, validate_call
from pydantic_core import to_json

T = TypeVar("T")


class Aside:
    """The process as the benchmark holds it, for the length of a `with` block."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stdin, stdout = self._pipes()
        stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        stdout.close()

    def call(self, function: str, returns: type[T], **arguments: object) -> T:
        """Have a function run there. Raises RuntimeError with the trace of what went wrong."""
        stdin, stdout = self._pipes()
        stdin.write(to_json({"function": function, "arguments": arguments}) + b"\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended in the middle of {function}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._module}.{function} failed:\n{answer['error']}")
        return TypeAdapter(returns).validate_python(answer["result"])

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def answer_calls(functions: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
    """Do what `Aside.call` asks for, until the benchmark closes the pipe."""
    uvloop.run(_answer_calls({name: validate_call(f) for name, f in functions.items()}))


async def _answer_calls(functions: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        try:
            answer = {"result": await functions[asked["function"]](**asked["arguments"])}
        except Exception:
            answer = {"error": traceback.format_exc()}
        sys.stdout.write(to_json(answer).decode() + "\n")
        sys.stdout.flush()
