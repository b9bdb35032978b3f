"""From a request to its place in a script, and from a step to the bytes of an answer.

Nothing here knows about connections or keeps count of anything but rendered bytes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from tests.support.model_scripts import DEFAULT_SCRIPT, Step, to_json

CACHED_RENDERINGS = 512

_MARKER = re.compile(r"\[\[script:([^\[\]\s]+)\]\]")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Place:
    script: str
    turn: int
    step: int
    tool_results: int


def locate(messages: Sequence[Mapping[str, object]]) -> Place:
    """The last user message that has a marker names the script; the answers since then, the step.

    Without any marker the default script counts from the last user message.
    """
    steps = tool_results = 0
    unmarked: Place | None = None
    for position in range(len(messages) - 1, -1, -1):
        message = messages[position]
        match message.get("role"):
            case "assistant":
                steps += 1
            case "tool":
                tool_results += 1
            case "user":
                turn = sum(earlier.get("role") == "user" for earlier in messages[: position + 1])
                if name := _marked(message.get("content")):
                    return Place(name, turn, steps, tool_results)
                unmarked = unmarked or Place(DEFAULT_SCRIPT, turn, steps, tool_results)
            case _:
                pass
    return unmarked or Place(DEFAULT_SCRIPT, 0, steps, tool_results)


def _marked(content: object) -> str | None:
    if isinstance(content, str):
        found = _MARKER.search(content) if "[[script:" in content else None
        return found[1] if found else None
    if isinstance(content, list):
        parts = cast(list[Mapping[str, object]], content)
        return next((name for part in parts if (name := _marked(part.get("text")))), None)
    return None


@dataclass(frozen=True, slots=True)
class Events:
    """A stream's events, each from behind its `id` and `created`, which differ every time."""

    role: bytes
    chunks: Sequence[bytes]
    finish: bytes


class Answer:
    """A step made ready to send: what stays the same from request to request is rendered once."""

    def __init__(self, step: Step) -> None:
        self.step = step
        called = [call.name + call.raw_arguments for call in step.tool_calls]
        told = sum(map(len, step.texts)) + sum(map(len, called))
        self._reasoning_tokens = _tokens(sum(map(len, step.reasoning)))
        self._completion_tokens = _tokens(told) + self._reasoning_tokens
        self._finish_reason = step.finish_reason or ("tool_calls" if called else "stop")
        self._events: dict[tuple[str, str], Events] = {}
        self._messages: dict[tuple[str, str], bytes] = {}

    def events(self, model: str, *, call_prefix: str) -> Events:
        return self._cached(self._events, model, call_prefix, self._render_events)

    def message(self, model: str, *, call_prefix: str) -> bytes:
        """The plain answer, from behind its `id` and `created` up to its usage."""
        return self._cached(self._messages, model, call_prefix, self._render_message)

    def usage(self, request_bytes: int) -> bytes:
        given = self.step.usage
        prompt = _given(given.prompt_tokens, counted=_tokens(request_bytes))
        completion = _given(given.completion_tokens, counted=self._completion_tokens)
        reasoning = _given(given.reasoning_tokens, counted=self._reasoning_tokens)
        return (
            b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
            b'"prompt_tokens_details":{"cached_tokens":%d},'
            b'"completion_tokens_details":{"reasoning_tokens":%d}}'
            % (prompt, completion, prompt + completion, given.cached_tokens, reasoning)
        )

    def _cached(
        self,
        cache: dict[tuple[str, str], _T],
        model: str,
        call_prefix: str,
        render: Callable[[str, str], _T],
    ) -> _T:
        key = (model, call_prefix if self.step.tool_calls else "")
        if (found := cache.get(key)) is None:
            if len(cache) >= CACHED_RENDERINGS:
                cache.clear()
            found = cache[key] = render(model, call_prefix)
        return found

    def _render_events(self, model: str, call_prefix: str) -> Events:
        def event(delta: Mapping[str, object], *, finish_reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            return f',"model":{to_json(model)},"choices":{to_json([choice])}}}\n\n'.encode()

        return Events(
            role=event({"role": "assistant", "content": ""}),
            chunks=[event(delta) for delta in self._deltas(call_prefix)],
            finish=event({}, finish_reason=self._finish_reason),
        )

    def _deltas(self, call_prefix: str) -> Iterator[dict[str, object]]:
        for text in self.step.reasoning:
            yield {"reasoning_content": text}
        for text in self.step.texts:
            yield {"content": text}
        for index, call in enumerate(self.step.tool_calls):
            function = {"name": call.name, "arguments": ""}
            call_id = call.id or f"{call_prefix}{index}"
            opened = {"index": index, "id": call_id, "type": "function", "function": function}
            yield {"tool_calls": [opened]}
            for piece in _pieces(call.raw_arguments):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _render_message(self, model: str, call_prefix: str) -> bytes:
        message: dict[str, object] = {
            "role": "assistant",
            "content": "".join(self.step.texts) or None,
            "refusal": None,
        }
        if self.step.reasoning:
            message["reasoning_content"] = "".join(self.step.reasoning)
        if self.step.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id or f"{call_prefix}{index}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.raw_arguments},
                }
                for index, call in enumerate(self.step.tool_calls)
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self._finish_reason,
        }
        return f',"model":{to_json(model)},"choices":{to_json([choice])},'.encode()


def _tokens(length: int) -> int:
    return -(-length // 4)


def _given(tokens: int | None, *, counted: int) -> int:
    return counted if tokens is None else tokens


def _pieces(text: str) -> list[str]:
    size = max(1, -(-len(text) // 4))
    return [text[start : start + size] for start in range(0, len(text), size)]
