"""What the next call may cost, known before it is made: how it is planned, and what is reserved.

A bound of its input is the smallest that is known: the bytes of all that is sent, or what the
provider has counted already, in an earlier call or when asked, and the bytes that were added since.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import ToolDefinition

from handinger import prices
from handinger.agent import prompt, sizes
from handinger.agent.counting import Counter
from handinger.agent.tools.context import ToolPrice
from handinger.budgets import Allowance, Reservation, Reserve, Spending
from handinger.prices import Price
from handinger.settings import Settings

# A reported count is believed if a token would not stand for more bytes than this.
_MOST_BYTES_PER_TOKEN = 64

# The answer that is kept for the end, and room for the results that come before it; in tokens.
_KEPT_ANSWER = 512
_KEPT_RESULTS = 512

# A call that may call tools, or the last one, is made if it may answer with so many tokens.
_LEAST_WORKING = 512
_LEAST_ANSWER = 256

# An output limit below this is worth a count of the provider, if that could take so much off the
# bound.
_SCARCE_OUTPUT = 4096
_WORTH_COUNTING = 1024

# The output limit where nobody knows what the model allows.
_USUAL_OUTPUT = 8192

_MOST_LEARNED = 1000


class Remeasured(Exception):
    """A request has another size than the one that it was planned with; it was not sent."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the next model call is made, so that it fits into what is left."""

    concludes: bool
    max_tokens: int | None  # None: none is sent
    is_lowered: bool  # the limit is lower than it would be with more money
    reservation: Reservation
    results_bytes: int | None = None  # so much of the last results is sent; None: all
    is_without_last: bool = False  # the last response is not sent, and its results are not

    def sent(self, messages: Sequence[ModelMessage]) -> list[ModelMessage]:
        """What is sent of a conversation that ends with results."""
        if self.is_without_last:
            return list(messages[:-2])
        if self.results_bytes is not None:
            return sizes.shortened(messages, self.results_bytes)
        return list(messages)


@dataclass(slots=True)
class Metering:
    """What a process knows of its model's price, and has learned of its requests."""

    settings: Settings
    price: Price | None
    output_limit: int | None  # of the model
    tools: Mapping[str, ToolDefinition] = field(default_factory=dict[str, ToolDefinition])
    counter: Counter | None = None  # None: its provider does not count ahead of a call
    tool_bytes: int = field(init=False)  # of the definitions that every call sends
    _told: str = field(init=False)
    _learned: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self.tool_bytes = sizes.definition_bytes(self.tools.values())
        self._told = _told(self.tools.values())

    @property
    def usual_output(self) -> int:
        """The output limit of a call for which there is money enough."""
        return self.settings.max_output_tokens or self.output_limit or _USUAL_OUTPUT

    def prefix(self, text: str, more: Iterable[ToolDefinition] = ()) -> str:
        """What names the beginning of calls with these instructions, and the same tools."""
        told = "\0".join([text, self._told, _told(more)])
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
class _Bound:
    """The most tokens that a request can have, and how many of them the provider counted."""

    tokens: int
    counted: int

    @property
    def uncounted(self) -> int:
        return self.tokens - self.counted


@dataclass(frozen=True, slots=True)
class _Counted:
    """A request that the provider counted when it was asked: a bound, and the request's bytes."""

    tokens: int
    content_bytes: int


class Meter:
    """What one attempt at a turn may still spend, and what it has reserved."""

    def __init__(
        self, metering: Metering, allowance: Allowance, *, model: str, instructions: str
    ) -> None:
        self.plan: Plan | None = None
        self.granted: dict[str, Reservation] = {}  # by the id of the tool's call
        self.planned_step: int | None = None
        self.summary: Reservation | None = None
        self._metering = metering
        self._allowance = allowance
        self._model = model
        self._available_nano: int | None = None
        self._kept: list[Reservation] = []
        # Of the call that is planned: its bound, and what the last look found beyond that.
        self._bound = _Bound(0, 0)
        self._found: tuple[int, int] = (0, 0)  # the step, and a bound
        self._is_tight = False
        self._counted: _Counted | None = None
        self._asked_in_step: int | None = None
        self._text = instructions + prompt.CONCLUDE
        self._note_bytes = sizes.FRAME + sizes.text_bytes(prompt.CONCLUDE)
        self._fixed_bytes = (
            sizes.FRAME_OF_REQUEST + sizes.text_bytes(self._text) + metering.tool_bytes
        )
        self._more_bytes = 0  # of tools that only this turn knows
        self._prefix = metering.prefix(self._text)

    @property
    def _prefix_bytes(self) -> int:
        """Of what every request begins with, the instructions and the tools."""
        return self._fixed_bytes + self._more_bytes

    # Bounds

    def input_bound(self, messages: Sequence[ModelMessage]) -> int:
        """How many tokens a call with these messages sends at most."""
        return self._input_bound(messages).tokens

    def _input_bound(self, messages: Sequence[ModelMessage]) -> _Bound:
        bound = self._bound_of_history(messages)
        if self._counted is None:
            return bound
        size = sum(sizes.content_bytes(message) for message in messages)
        since = max(0, size - self._counted.content_bytes)
        counted = _Bound(self._counted.tokens + since, self._counted.tokens)
        return min(bound, counted, key=lambda each: each.tokens)

    def _bound_of_history(self, messages: Sequence[ModelMessage]) -> _Bound:
        """By bytes, and by what the provider reported for the calls before this one."""
        each = [sizes.content_bytes(message) for message in messages]
        prefix = self._metering.learned(self._prefix, self._prefix_bytes)
        known = prefix if prefix < self._prefix_bytes else 0
        bound = _Bound(prefix + sum(each), known)
        covered, since = self._prefix_bytes + sum(each), 0
        for message, size in zip(reversed(messages), reversed(each), strict=True):
            covered -= size
            since += size
            if not isinstance(message, ModelResponse):
                continue
            counted = message.usage.input_tokens
            if counted * _MOST_BYTES_PER_TOKEN < covered:
                continue  # Not reported, or not believable.
            is_same = (message.metadata or {}).get("prefix") == self._prefix
            tokens = counted + since + sizes.FRAME + (0 if is_same else prefix)
            return min(
                bound,
                _Bound(tokens, counted + (0 if is_same else known)),
                key=lambda each: each.tokens,
            )
        return bound

    def note(self, response: ModelResponse) -> None:
        """Remember what a response tells of the size of its request."""
        response.metadata = {**(response.metadata or {}), "prefix": self._prefix}
        counted = response.usage.input_tokens
        if counted * _MOST_BYTES_PER_TOKEN >= self._prefix_bytes:
            self._metering.learn(self._prefix, counted)

    def know(self, tools: Sequence[ToolDefinition]) -> None:
        """A request of this turn defines these tools; some may be known to its turn alone."""
        more = [tool for tool in tools if tool.name not in self._metering.tools]
        size = sizes.definition_bytes(more)
        if size > self._more_bytes:
            self._more_bytes = size
            self._prefix = self._metering.prefix(self._text, more)

    def require(self, messages: Sequence[ModelMessage]) -> None:
        """The last look before a request is sent. Raises Remeasured."""
        if self.plan is None:
            raise Remeasured
        price = self._metering.price
        if price is None or price.is_free:
            return
        bound = self.input_bound(messages)
        if bound > self.plan.reservation.input_tokens:
            self._found = (self.plan.reservation.step, bound)
            raise Remeasured

    @property
    def wants_count(self) -> bool:
        """Whether a count of the provider may let the next call do more than is planned."""
        counter = self._metering.counter
        return (
            counter is not None
            and counter.is_ready
            and self._is_tight
            and self._asked_in_step != self.planned_step
            and self._bound.uncounted >= _WORTH_COUNTING
        )

    async def count(self, request: ModelRequestContext, *, of: Sequence[ModelMessage]) -> None:
        """Have the provider count a request that sends these messages.

        Raises Remeasured, for a new plan; without a count, the call is made as it was planned.
        """
        counter = self._metering.counter
        assert counter is not None
        self._asked_in_step = self.planned_step
        counted = await counter.count(request)
        content = sum(sizes.content_bytes(message) for message in of)
        prefix = self._metering.learned(self._prefix, self._prefix_bytes)
        covered = content + (self._prefix_bytes if counter.counts_all else 0)
        if counted is not None and counted * _MOST_BYTES_PER_TOKEN >= covered:
            tokens = counter.bound(counted) + (0 if counter.counts_all else prefix)
            self._counted = _Counted(tokens + self._note_bytes, content)
            self._found = (0, 0)
        elif self.plan is not None:
            return
        raise Remeasured

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
            if self.plan is None or not self.plan.reservation.cost_nano:
                return []
            held = self.plan.reservation
            if self.plan.concludes or available_nano is None:
                return [held]
            kept = self._concluding_nano(held.input_tokens + held.output_tokens)
            return [held, self._kept_slice(step, kept)]

        return reserve

    def for_summary(self, asked: Sequence[ModelMessage], *, output: int, step: int) -> Reserve:
        """Reserves for a call that shortens the conversation, if half of what is left covers it."""

        def reserve(spent: Spending, available_nano: int | None) -> list[Reservation]:
            self.plan, self.planned_step = None, None
            left = self.left_nano(spent, available_nano)
            bound = sizes.FRAME_OF_REQUEST + sum(sizes.content_bytes(each) for each in asked)
            self.summary = self._call(step, bound, output, concludes=False).reservation
            self.summary = replace(self.summary, kind="internal")
            is_unknown = self._metering.price is None
            if left is not None and (is_unknown or self.summary.cost_nano > left // 2):
                self.summary = None
            # What was counted was another conversation.
            self._counted = None
            return [self.summary] if self.summary and self.summary.cost_nano else []

        return reserve

    def too_small(self, spent: Spending) -> str:
        """Why no call was made, and what would be needed."""
        price, name = self._metering.price, self._allowance.name
        if price is None:
            return prices.unknown(self._metering.settings)
        bound = self._bound.tokens
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
        self._bound, self._is_tight = self._input_bound(messages), False
        found_in, found = self._found
        if found_in == step and found > self._bound.tokens:
            self._bound = replace(self._bound, tokens=found)
        bound = self._bound.tokens
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
            self._is_tight = output < min(_SCARCE_OUTPUT, usual)
            if output >= min(_LEAST_WORKING, usual):
                return self._call(step, bound, min(output, usual), concludes=False)
        answer = price.worst_case(bound).affordable_output(left_nano, bound)
        answer = usual if answer is None else min(answer, usual)
        self._is_tight |= answer < min(_SCARCE_OUTPUT, usual)
        if answer >= min(_LEAST_ANSWER, usual):
            return self._call(step, bound, answer, concludes=True)
        return self._with_less(messages, step, price, left_nano)

    def _working_output(self, price: Price, bound: int, left_nano: int) -> int:
        """How much a call may answer so that a concluding one, which sends that too, still fits."""
        usual = self._metering.usual_output
        now = price.worst_case(bound)
        later = price.worst_case(bound + usual + _KEPT_RESULTS)
        fixed = now.cost_nano(bound, 0) + later.cost_nano(bound + _KEPT_RESULTS, _KEPT_ANSWER)
        if fixed > left_nano:
            return -1
        each = now.output_nano + later.input_nano
        return int((left_nano - fixed) / each) if each else usual

    def _with_less(
        self, messages: Sequence[ModelMessage], step: int, price: Price, left_nano: int
    ) -> Plan | None:
        """A concluding call that sends its last results in part or not at all: all do not fit."""
        last = messages[-1] if messages else None
        results = [part for part in last.parts if isinstance(part, ToolReturnPart)] if last else []
        if not results:
            return None
        bound = max(self._bound_of_history(messages).tokens, self._bound.tokens)
        size = sum(sizes.result_bytes(part) for part in results)
        room = price.worst_case(bound).affordable_input(left_nano, _LEAST_ANSWER)
        if room is None or room < 0:
            return None
        kept = room - (bound - size) - len(results) * len(sizes.CUT)
        if kept >= 0:
            plan = self._call(step, room, _LEAST_ANSWER, concludes=True)
            return replace(plan, is_lowered=True, results_bytes=kept)
        # What it answered and called is too much already: it concludes from what it had before.
        if len(messages) < 3 or self.input_bound(messages[:-2]) > room:
            return None
        plan = self._call(step, room, _LEAST_ANSWER, concludes=True)
        return replace(plan, is_lowered=True, is_without_last=True)

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
            kept = self._concluding_nano(self.input_bound(messages))
            self._kept = []
            if available_nano is not None and left is not None and kept:
                self._kept = [self._kept_slice(step, max(0, min(kept, left)))]
            if left is not None:
                left -= kept
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
            return [*self.granted.values(), *self._kept]

        return reserve

    def for_open_tools(self, open_calls: Sequence[ToolCallPart]) -> Reserve:
        """Keeps what is reserved for calls that have not ended."""
        ids = {call.tool_call_id for call in open_calls}

        def reserve(_spent: Spending, _available_nano: int | None) -> list[Reservation]:
            held = [held for call_id, held in self.granted.items() if call_id in ids]
            return [*held, *self._kept]

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

    def _concluding_nano(self, bound: int) -> int:
        """The worst case of a concluding call after one of this size, with some results."""
        price = self._metering.price
        if price is None:
            return 0
        bound += _KEPT_RESULTS
        return price.worst_case(bound).cost_nano(bound, _KEPT_ANSWER)

    def _kept_slice(self, step: int, nano: int) -> Reservation:
        """Keeps other turns of the organization from taking what the conclusion needs."""
        return Reservation("model", self._model, step + 1, nano, is_kept=True)


def _arguments(call: ToolCallPart) -> Mapping[str, object]:
    try:
        return call.args_as_dict(raise_if_invalid=False)
    except ValueError:
        return {}
