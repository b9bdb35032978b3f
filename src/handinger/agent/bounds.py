"""How many tokens a request has at most, known before it is sent.

A bound is the smallest that is known: the bytes of all that is sent, or what the provider has
counted already, in an earlier call or when asked, and the bytes that were added since.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.tools import ToolDefinition

from handinger.agent import prompt, sizes
from handinger.agent.counting import Counter

# A count is believed if a token would not stand for more bytes than this.
_MOST_BYTES_PER_TOKEN = 64

# The last call of a turn sends this as well; any may turn out to be the last.
_NOTE_BYTES = sizes.FRAME + sizes.text_bytes(prompt.CONCLUDE)

_MOST_LEARNED = 1000


@dataclass(frozen=True, slots=True)
class Bound:
    """The most tokens that a request can have, and how many of them the provider counted."""

    tokens: int
    counted: int

    @property
    def uncounted(self) -> int:
        return self.tokens - self.counted


@dataclass(slots=True)
class Prefixes:
    """What the requests of one process begin with, instructions and tools, and what that counts."""

    tools: Mapping[str, ToolDefinition]  # that every request defines
    tool_bytes: int = field(init=False)
    _told: str = field(init=False)
    _learned: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self.tool_bytes = sizes.definition_bytes(self.tools.values())
        self._told = _told(self.tools.values())

    def name(self, instructions: str, more: Iterable[ToolDefinition] = ()) -> str:
        """Of the prefix with these instructions, and `more` than the usual tools."""
        told = "\0".join([instructions, self._told, _told(more)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def learn(self, prefix: str, input_tokens: int) -> None:
        """A call that began with this prefix had so many tokens; so the prefix has no more."""
        if prefix not in self._learned and len(self._learned) >= _MOST_LEARNED:
            self._learned.clear()
        self._learned[prefix] = min(input_tokens, self._learned.get(prefix, input_tokens))

    def learned(self, prefix: str, most: int) -> int:
        """The smallest known bound of a prefix."""
        return min(most, self._learned.get(prefix, most))


def _told(tools: Iterable[ToolDefinition]) -> str:
    return "\0".join(sizes.definition(tool).decode() for tool in tools)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A request that the provider counted when it was asked: a bound, and the request's bytes."""

    tokens: int
    content_bytes: int


class Bounds:
    """Of the requests of one attempt at a turn."""

    def __init__(self, prefixes: Prefixes, *, model: str, instructions: str) -> None:
        self._prefixes = prefixes
        self._model = model
        self._instructions = instructions
        self._fixed_bytes = (
            sizes.FRAME_OF_REQUEST + sizes.text_bytes(instructions) + prefixes.tool_bytes
        )
        self._more_bytes = 0  # of tools that only this turn knows
        self._prefix = prefixes.name(instructions)
        self._counted: _Counted | None = None

    @property
    def _prefix_bytes(self) -> int:
        return self._fixed_bytes + self._more_bytes

    def of(self, messages: Sequence[ModelMessage]) -> Bound:
        """A call that sends these messages, by all that is known."""
        bound = self.of_history(messages)
        if self._counted is None:
            return bound
        size = sum(sizes.content_bytes(message) for message in messages)
        since = max(0, size - self._counted.content_bytes)
        tokens = self._counted.tokens + since + _NOTE_BYTES
        return _least(bound, Bound(tokens, self._counted.tokens))

    def of_history(self, messages: Sequence[ModelMessage]) -> Bound:
        """By bytes, and by what the provider reported for the calls before this one."""
        each = [sizes.content_bytes(message) for message in messages]
        prefix = self._prefixes.learned(self._prefix, self._prefix_bytes)
        known = prefix if prefix < self._prefix_bytes else 0
        bound = Bound(prefix + sum(each) + _NOTE_BYTES, known)
        covered, since = self._prefix_bytes + sum(each), 0
        for message, size in zip(reversed(messages), reversed(each), strict=True):
            covered -= size
            since += size
            if not isinstance(message, ModelResponse):
                continue
            noted: Mapping[str, Any] = message.metadata or {}
            counted = message.usage.input_tokens
            if noted.get("model") != self._model or not _is_credible(counted, covered):
                continue
            is_same = noted.get("prefix") == self._prefix
            tokens = counted + since + _NOTE_BYTES + (0 if is_same else prefix)
            return _least(bound, Bound(tokens, counted + (0 if is_same else known)))
        return bound

    def note(self, response: ModelResponse) -> None:
        """Remember what a response tells of the size of its request.

        Other models count otherwise, and so do requests that began otherwise; so it says of what
        model and of what prefix its count is.
        """
        response.metadata = {
            **(response.metadata or {}),
            "model": self._model,
            "prefix": self._prefix,
        }
        counted = response.usage.input_tokens
        if _is_credible(counted, self._prefix_bytes):
            self._prefixes.learn(self._prefix, counted)

    def know(self, tools: Sequence[ToolDefinition]) -> None:
        """A request of this turn defines these tools; some may be known to its turn alone."""
        more = [tool for tool in tools if tool.name not in self._prefixes.tools]
        size = sizes.definition_bytes(more)
        if size > self._more_bytes:
            self._more_bytes = size
            self._prefix = self._prefixes.name(self._instructions, more)

    def believe(self, counted: int, counter: Counter, *, of: Sequence[ModelMessage]) -> bool:
        """Take what the provider counted for a request with these messages, if that can be."""
        content = sum(sizes.content_bytes(message) for message in of)
        covered = content + (self._prefix_bytes if counter.counts_all else 0)
        if not _is_credible(counted, covered):
            return False
        prefix = self._prefixes.learned(self._prefix, self._prefix_bytes)
        tokens = counter.bound(counted) + (0 if counter.counts_all else prefix)
        self._counted = _Counted(tokens, content)
        return True

    def forget_count(self) -> None:
        """The conversation becomes another one than that which was counted."""
        self._counted = None


def _is_credible(counted: int, size_bytes: int) -> bool:
    return counted * _MOST_BYTES_PER_TOKEN >= size_bytes


def _least(one: Bound, other: Bound) -> Bound:
    return min(one, other, key=lambda each: each.tokens)
