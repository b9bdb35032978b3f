"""What the next call may cost, known before it is made: bounds of its size, and what is reserved.

A bound of the input holds because every token of a text stands for at least one of its bytes. Where
the provider has counted most of the text already, its count takes the place of those bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import cast

from pydantic_ai.messages import (
    BinaryContent,
    FilePart,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    SpeechPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition

from handinger import prices
from handinger.agent import pictures, prompt
from handinger.agent.tools.context import ToolPrice
from handinger.budgets import Allowance, Reservation, Reserve, Spending
from handinger.prices import Price
from handinger.settings import Settings

# What providers add around a text or a call, and around all of them (such as the instructions that
# some of them send along with tools); in tokens.
_FRAME = 32
_FRAME_OF_TOOL = 64
_FRAME_OF_REQUEST = 1024

# Pictures cost by their size in pixels, at most about this many tokens with any provider; what a
# document or a sound holds cannot be told from its bytes.
_IMAGE_TOKENS = 50_000
_MEDIA_TOKENS = 1_000_000

# A reported count is believed if a token would not stand for more bytes than this.
_MOST_BYTES_PER_TOKEN = 64

# The answer that is kept for the end, and room for the results that come before it; in tokens.
_KEPT_ANSWER = 512
_KEPT_RESULTS = 512

# A call that may call tools, or the last one, is made if it may answer with so many tokens.
_LEAST_WORKING = 512
_LEAST_ANSWER = 256

# The output limit where nobody knows what the model allows.
_USUAL_OUTPUT = 8192

_MOST_LEARNED = 1000


class MoreInput(Exception):
    """A request is larger than what was reserved for it; it was not sent."""

    def __init__(self, bound: int) -> None:
        super().__init__(f"A request may have {bound} tokens, more than were reserved.")
        self.bound = bound


_CUT = "\n[cut off here: the budget of this turn does not cover more]"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the next model call is made, so that it fits into what is left."""

    concludes: bool
    max_tokens: int | None  # None: none is sent
    is_lowered: bool  # the limit is lower than it would be with more money
    reservation: Reservation
    results_bytes: int | None = None  # so much of the last results is sent; None: all


@dataclass(slots=True)
class Metering:
    """What a process knows of its model's price, and has learned of its requests."""

    settings: Settings
    price: Price | None
    output_limit: int | None  # of the model
    tools: Mapping[str, ToolDefinition] = field(default_factory=dict[str, ToolDefinition])
    tool_bytes: int = field(init=False)  # of the definitions that every call sends
    _told: str = field(init=False)
    _learned: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self.tool_bytes = definition_bytes(self.tools.values())
        self._told = "\0".join(_definition(tool).decode() for tool in self.tools.values())

    @property
    def usual_output(self) -> int:
        """The output limit of a call for which there is money enough."""
        return self.settings.max_output_tokens or self.output_limit or _USUAL_OUTPUT

    def prefix(self, text: str) -> str:
        """What names the beginning of calls with these instructions, and the same tools."""
        return hashlib.sha256(f"{text}\0{self._told}".encode()).hexdigest()[:16]

    def learn(self, prefix: str, input_tokens: int) -> None:
        """A call that began with this prefix had so many tokens; so the prefix has no more."""
        if prefix not in self._learned and len(self._learned) >= _MOST_LEARNED:
            self._learned.clear()
        self._learned[prefix] = min(input_tokens, self._learned.get(prefix, input_tokens))

    def learned(self, prefix: str, most: int) -> int:
        """The smallest known bound of a prefix."""
        return min(most, self._learned.get(prefix, most))


def definition_bytes(tools: Iterable[ToolDefinition]) -> int:
    """Of what the model is told of its tools."""
    return sum(_FRAME_OF_TOOL + len(_definition(tool)) for tool in tools)


def _definition(tool: ToolDefinition) -> bytes:
    told = [tool.name, tool.description, tool.parameters_json_schema]
    return json.dumps(told, ensure_ascii=False).encode()


def content_bytes(message: ModelMessage) -> int:
    """A bound of the tokens that one message adds to a request."""
    return sum(_FRAME + _part_bytes(part) for part in message.parts)


def _part_bytes(part: object) -> int:
    match part:
        case TextPart():
            return _bytes(part.content)
        case ThinkingPart():
            return _bytes(part.content) + _bytes(part.signature or "") + _bytes(part.id or "")
        case ToolCallPart():
            return _bytes(part.args_as_json_str()) + _bytes(part.tool_name + part.tool_call_id)
        case ToolReturnPart():
            result = cast(ToolReturnPart, part)
            return _result_bytes(result) + _bytes(part.tool_name + part.tool_call_id)
        case RetryFeedbackPart():
            return _bytes(part.model_response())
        case SystemPromptPart():
            return _bytes(part.content)
        case UserPromptPart():
            if isinstance(part.content, str):
                return _bytes(part.content)
            return sum(_item_bytes(item) for item in part.content)
        case FilePart() | SpeechPart():
            return _MEDIA_TOKENS
        case _:
            return _bytes(repr(part))  # It says all that is in it.


def _result_bytes(part: ToolReturnPart) -> int:
    """Of what a tool answered, with the picture that may be shown with it."""
    picture = _IMAGE_TOKENS if pictures.shows(part) else 0
    return _bytes(part.model_response_str(wrap_if_error=False)) + picture


def _item_bytes(item: object) -> int:
    if isinstance(item, str):
        return _bytes(item)
    if isinstance(item, ImageUrl) or (isinstance(item, BinaryContent) and item.is_image):
        return _IMAGE_TOKENS
    return _MEDIA_TOKENS


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


class Meter:
    """What one attempt at a turn may still spend, and what it has reserved."""

    def __init__(
        self, metering: Metering, allowance: Allowance, *, model: str, instructions: str
    ) -> None:
        self.plan: Plan | None = None
        self.granted: dict[str, Reservation] = {}  # by the id of the tool's call
        self.planned_step: int | None = None
        self.summary: Reservation | None = None
        self._bound = self._least_bound = 0
        self._available_nano: int | None = None
        self._metering = metering
        self._allowance = allowance
        self._model = model
        text = instructions + prompt.CONCLUDE
        self._prefix_bytes = _FRAME_OF_REQUEST + _bytes(text) + metering.tool_bytes
        self._prefix = metering.prefix(text)

    # Bounds

    def input_bound(self, messages: Sequence[ModelMessage]) -> int:
        """How many tokens a call with these messages sends at most."""
        sizes = [content_bytes(message) for message in messages]
        prefix = self._metering.learned(self._prefix, self._prefix_bytes)
        bound = prefix + sum(sizes)
        covered, since = self._prefix_bytes + sum(sizes), 0
        for message, size in zip(reversed(messages), reversed(sizes), strict=True):
            covered -= size
            since += size
            if not isinstance(message, ModelResponse):
                continue
            counted = message.usage.input_tokens
            if counted * _MOST_BYTES_PER_TOKEN < covered:
                continue  # Not reported, or not believable.
            is_same = (message.metadata or {}).get("prefix") == self._prefix
            return min(bound, counted + since + _FRAME + (0 if is_same else prefix))
        return bound

    def note(self, response: ModelResponse) -> None:
        """Remember what a response tells of the size of its request."""
        response.metadata = {**(response.metadata or {}), "prefix": self._prefix}
        counted = response.usage.input_tokens
        if counted * _MOST_BYTES_PER_TOKEN >= self._prefix_bytes:
            self._metering.learn(self._prefix, counted)

    def require(self, messages: Sequence[ModelMessage], tools: Sequence[ToolDefinition]) -> None:
        """The last look before a request is sent. Raises MoreInput."""
        price = self._metering.price
        if self.plan is None or price is None or price.is_free:
            return
        unknown = [tool for tool in tools if tool.name not in self._metering.tools]
        bound = self.input_bound(messages) + definition_bytes(unknown)
        if bound > self.plan.reservation.input_tokens:
            self._least_bound = bound
            raise MoreInput(bound)

    # Money

    def left_nano(self, spent: Spending, available_nano: int | None) -> int | None:
        """What the turn may still cost; None if nothing limits it."""
        cap = self._allowance.cap_nano
        caps = [available_nano] if available_nano is not None else []
        if cap is not None:
            caps.append(cap - spent.cost_nano)
        return min(caps) if caps else None

    def for_call(self, messages: Sequence[ModelMessage], *, step: int) -> Reserve:
        """Plans the next model call, and reserves its worst case; nothing if none fits."""

        def reserve(spent: Spending, available_nano: int | None) -> list[Reservation]:
            self.granted = {}
            left = self.left_nano(spent, available_nano)
            self._available_nano = available_nano
            self.plan = self._planned(messages, step, spent, left)
            self.planned_step = step
            # Nothing is reserved for what costs nothing.
            is_paid = self.plan is not None and self.plan.reservation.cost_nano > 0
            return [self.plan.reservation] if self.plan and is_paid else []

        return reserve

    def for_summary(self, asked: Sequence[ModelMessage], *, output: int, step: int) -> Reserve:
        """Reserves for a call that shortens the conversation, if half of what is left covers it."""

        def reserve(spent: Spending, available_nano: int | None) -> list[Reservation]:
            self.plan, self.planned_step = None, None
            left = self.left_nano(spent, available_nano)
            bound = _FRAME_OF_REQUEST + sum(content_bytes(message) for message in asked)
            self.summary = self._call(step, bound, output, concludes=False).reservation
            self.summary = replace(self.summary, kind="internal")
            if left is not None and self.summary.cost_nano > left // 2:
                self.summary = None
            return [self.summary] if self.summary and self.summary.cost_nano else []

        return reserve

    def too_small(self, spent: Spending) -> str:
        """Why no call was made, and what would be needed."""
        price, name = self._metering.price, self._allowance.name
        if price is None:
            return prices.unknown(self._metering.settings)
        bound = self._bound
        needed = price.worst_case(bound).cost_nano(bound, _LEAST_ANSWER)
        left = max(self.left_nano(spent, self._available_nano) or 0, 0)
        whose, remedy = f"The budget '{name}' is", "Use a larger budget"
        if self._available_nano is not None and left == self._available_nano:
            whose = "The credits or the month's cap of this organization are"
            remedy = "Ask its operator for more"
        return (
            f"{whose} too small for even one model call: the conversation with this instruction "
            f"has up to {bound} tokens, so that a call with a short answer may cost "
            f"{needed / 1e9:.6g} USD, and {left / 1e9:.6g} USD are left. {remedy}, or a shorter "
            "conversation."
        )

    def _planned(
        self,
        messages: Sequence[ModelMessage],
        step: int,
        spent: Spending,
        left_nano: int | None,
    ) -> Plan | None:
        bound = max(self.input_bound(messages), self._least_bound)
        self._bound, self._least_bound = bound, 0
        now = datetime.now(UTC)
        concludes = self._allowance.must_conclude(calls_made=spent.steps, now=now)
        price = self._metering.price
        if price is None and left_nano is not None:
            return None  # The cap cannot be kept.
        if left_nano is None or price is None or price.is_free:
            limit = self._metering.settings.max_output_tokens
            return self._call(step, bound, limit, concludes=concludes)
        usual = self._metering.usual_output
        if not concludes:
            output = self._working_output(price, bound, left_nano)
            if output >= min(_LEAST_WORKING, usual):
                return self._call(step, bound, min(output, usual), concludes=False)
        worst = price.worst_case(bound)
        answer = worst.affordable_output(left_nano, bound)
        answer = usual if answer is None else min(answer, usual)
        if answer >= min(_LEAST_ANSWER, usual):
            return self._call(step, bound, answer, concludes=True)
        return self._with_less(messages, step, bound, left_nano)

    def _working_output(self, price: Price, bound: int, left_nano: int) -> int:
        """How much a call may answer so that a concluding one, which sends that too, still fits."""
        usual = self._metering.usual_output
        now, later = (
            price.worst_case(bound),
            price.worst_case(bound + usual + _KEPT_RESULTS),
        )
        fixed = now.cost_nano(bound, 0) + later.cost_nano(bound + _KEPT_RESULTS, _KEPT_ANSWER)
        if fixed > left_nano:
            return -1
        each = now.output_nano + later.input_nano
        return int((left_nano - fixed) / each) if each else usual

    def _with_less(
        self, messages: Sequence[ModelMessage], step: int, bound: int, left_nano: int
    ) -> Plan | None:
        """A concluding call that sends its last results only in part, because all do not fit."""
        price = self._metering.price
        last = messages[-1] if messages else None
        if price is None or not isinstance(last, ModelRequest):
            return None
        results = [part for part in last.parts if isinstance(part, ToolReturnPart)]
        size = sum(_result_bytes(part) for part in results)
        room = price.worst_case(bound).affordable_input(left_nano, _LEAST_ANSWER)
        if room is None or room < 0:
            return None
        kept = room - (bound - size) - len(results) * len(_CUT)
        if not results or kept < 0:
            return None
        plan = self._call(step, room, _LEAST_ANSWER, concludes=True)
        return Plan(
            concludes=True,
            max_tokens=plan.max_tokens,
            is_lowered=True,
            reservation=plan.reservation,
            results_bytes=kept,
        )

    def _call(self, step: int, bound: int, limit: int | None, *, concludes: bool) -> Plan:
        price = self._metering.price
        usual = self._metering.usual_output
        output = usual if limit is None else limit
        reservation = Reservation(
            kind="model",
            subject=self._model,
            step=step,
            cost_nano=price.worst_case(bound).cost_nano(bound, output) if price else 0,
            input_tokens=bound,
            output_tokens=output,
            unit_prices=price.unit_prices(datetime.now(UTC)) if price else {},
        )
        return Plan(
            concludes=concludes,
            max_tokens=limit,
            is_lowered=limit is not None and limit < usual,
            reservation=reservation,
        )

    # Tools

    def for_tools(
        self, calls: Sequence[ToolCallPart], messages: Sequence[ModelMessage], *, step: int
    ) -> Reserve:
        """Reserves for all calls of a step together; those that do not fit are not granted."""

        def reserve(spent: Spending, available_nano: int | None) -> list[Reservation]:
            self.plan, self.planned_step = None, None
            self.granted = {}
            left = self.left_nano(spent, available_nano)
            if left is not None:
                left -= self._kept_nano(messages)
            for call in calls:
                most = self._most_nano(call)
                if most is None:
                    continue
                price, nano = most
                if left is not None and nano > left:
                    if not price.is_divisible or left <= 0:
                        continue
                    nano = left
                left = None if left is None else left - nano
                self.granted[call.tool_call_id] = Reservation(
                    kind=price.kind,
                    subject=call.tool_name,
                    step=step,
                    cost_nano=nano,
                    call_id=call.tool_call_id,
                )
            return list(self.granted.values())

        return reserve

    def for_open_tools(self, open_calls: Sequence[ToolCallPart]) -> Reserve:
        """Keeps what is reserved for calls that have not ended."""
        ids = {call.tool_call_id for call in open_calls}

        def reserve(_spent: Spending, _available_nano: int | None) -> list[Reservation]:
            return [held for call_id, held in self.granted.items() if call_id in ids]

        return reserve

    def refusal(self, call: ToolCallPart) -> str | None:
        """Why a call must not be made; None if it may be."""
        most = self._most_nano(call)
        if most is None or call.tool_call_id in self.granted:
            return None
        return (
            f"This call was not made: it may cost {most[1] / 1e9:.6g} USD, and the budget of this "
            "turn does not have that left beside the answer. Go on without it."
        )

    def _most_nano(self, call: ToolCallPart) -> tuple[ToolPrice, int] | None:
        tool = self._metering.tools.get(call.tool_name)
        price = (tool.metadata or {}).get("price") if tool else None
        if not isinstance(price, ToolPrice):
            return None
        nano = price.most_nano(self._metering.settings, _arguments(call))
        return (price, nano) if nano > 0 else None

    def _kept_nano(self, messages: Sequence[ModelMessage]) -> int:
        """The worst case of a concluding call after the tools."""
        price = self._metering.price
        if price is None:
            return 0
        bound = self.input_bound(messages) + _KEPT_RESULTS
        return price.worst_case(bound).cost_nano(bound, _KEPT_ANSWER)


def _arguments(call: ToolCallPart) -> Mapping[str, object]:
    try:
        return call.args_as_dict(raise_if_invalid=False)
    except ValueError:
        return {}


def shortened(messages: Sequence[ModelMessage], results_bytes: int) -> list[ModelMessage]:
    """The same messages, with the last results cut to so many bytes, shared fairly.

    Their pictures are left out.
    """
    *earlier, last = messages
    parts = list(last.parts)
    results = [part for part in parts if isinstance(part, ToolReturnPart)]
    rest = results_bytes
    cut: dict[int, ToolReturnPart] = {}
    by_size = sorted(results, key=lambda part: len(part.model_response_str(wrap_if_error=False)))
    for number, part in enumerate(by_size):
        content = part.model_response_str(wrap_if_error=False).encode(errors="replace")
        share = rest // (len(results) - number)
        if len(content) > share or pictures.shows(part):
            text = content[:share].decode(errors="ignore") + _CUT
            cut[id(part)] = replace(part, content=text, metadata=None)
        rest -= min(len(content), share)
    return [*earlier, replace(last, parts=[cut.get(id(part), part) for part in parts])]
