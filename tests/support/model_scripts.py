"""What a scripted model is told to say, and what it tells about the requests it got.

All of it is plain data that goes through JSON: the control API takes and gives exactly this.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, field
from typing import Literal, cast

from pydantic import ConfigDict, JsonValue, NonNegativeInt
from pydantic.dataclasses import dataclass

DEFAULT_SCRIPT = "ok"
DEFAULT_TEXT = "OK, that is done."
MODEL_ID = "scripted"

STRICT = ConfigDict(extra="forbid")


def to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True, config=STRICT)
class ToolCall:
    """`arguments` as a string is sent as it is, so it may be invalid JSON.

    Without an `id` the call gets one that is unique per script, turn, step and index, and the same
    again when the request is repeated. Two calls with the same `id` are sent so.
    """

    name: str
    arguments: Mapping[str, JsonValue] | str = field(default_factory=dict[str, JsonValue])
    _: KW_ONLY
    id: str | None = None

    @property
    def raw_arguments(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else to_json(self.arguments)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Usage:
    """What is left out is counted: four bytes of the request, or four characters told, a token."""

    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None
    cached_tokens: NonNegativeInt = 0
    reasoning_tokens: NonNegativeInt | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class HttpError:
    """An answer with an error status; without a `body`, one in the shape that OpenAI uses."""

    status: int
    _: KW_ONLY
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: JsonValue = None


@dataclass(frozen=True, slots=True, config=STRICT)
class HangUp:
    """The connection ends before any byte."""

    hang_up: Literal[True] = True


@dataclass(frozen=True, slots=True, config=STRICT)
class HangUpAfterChunks:
    """The stream ends, unfinished, after this many chunks; a plain answer ends half-way."""

    hang_up_after_chunks: NonNegativeInt


@dataclass(frozen=True, slots=True, config=STRICT)
class Stall:
    """No answer ever, until the client hangs up."""

    stall: Literal[True] = True


@dataclass(frozen=True, slots=True, config=STRICT)
class Malformed:
    """A good chunk, then half a JSON object as if whole; a plain answer is half an object."""

    malformed: Literal[True] = True


BrokenOff = HangUpAfterChunks | Malformed
Failure = HttpError | HangUp | Stall | BrokenOff


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Step:
    """One answer of the model.

    A chunk is one delta: each of `reasoning`, then each of `text` (a string is one chunk) and
    `chunks` times `chunk_text`, then a tool call's opening and up to four pieces of its arguments.
    The delta that opens the stream with the role, and the one that finishes it, do not count.

    `delay_s` and `gate` hold back the first byte of any answer, failures too. `gate_after_chunks`
    and `chunk_delay_s` act within a stream; a plain answer waits as long, then comes at once.
    `paced` sends each chunk by itself, where otherwise a stream without waits is one write.

    `attempts` are served in order, once each; then the step succeeds, or fails with `fail_always`.

    An answer without text and tool calls is no message that a client sends back, so that its next
    request is still at this step.
    """

    text: str | Sequence[str] = ""
    chunks: NonNegativeInt = 0
    chunk_text: str = "word "
    reasoning: Sequence[str] = ()
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: str | None = None
    usage: Usage = Usage()
    delay_s: float = 0
    chunk_delay_s: float = 0
    gate: str | None = None
    gate_after_chunks: tuple[NonNegativeInt, str] | None = None
    paced: bool = False
    attempts: Sequence[Failure] = ()
    fail_always: Failure | None = None

    @property
    def texts(self) -> list[str]:
        told = [self.text] if isinstance(self.text, str) else list(self.text)
        return [text for text in told if text] + [self.chunk_text] * self.chunks

    @property
    def waits_before(self) -> bool:
        return bool(self.delay_s or self.gate)

    @property
    def waits_within(self) -> bool:
        return bool(self.chunk_delay_s or self.gate_after_chunks or self.paced)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Script:
    """`after_last` is what follows the last step: the text "done", or that step again."""

    steps: Sequence[Step]
    after_last: Literal["done", "repeat"] = "done"
    when_tool_choice_none: Step | None = None


Served = Literal["step", "after_last", "concluding", "failure", "unknown_script", "bad_request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """One request for a completion, and what became of it.

    Times are `time.monotonic()`, which all processes of a machine share. `ended_at` is None while
    the answer is under way. `body` is None if the log let go of it; the fields before it never are.
    """

    index: int
    script: str
    step: int
    attempt: int
    served: Served
    at: float
    first_byte_at: float | None
    ended_at: float | None
    client_hung_up: bool
    headers: Mapping[str, str]
    model: str
    stream: bool
    tool_choice: JsonValue
    tool_names: Sequence[str]
    message_count: int
    body: Mapping[str, JsonValue] | None

    @property
    def tools(self) -> JsonValue:
        return self._whole_body.get("tools")

    @property
    def messages(self) -> list[dict[str, JsonValue]]:
        return cast(list[dict[str, JsonValue]], self._whole_body["messages"])

    @property
    def _whole_body(self) -> Mapping[str, JsonValue]:
        if self.body is None:
            raise LookupError("the log did not keep this request's body")
        return self.body
