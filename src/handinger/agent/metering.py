"""What the next call may cost, known before it is made: how it is planned, and what is reserved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic_ai.messages import ModelMessage, ToolCallPart, ToolReturnPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import ToolDefinition

from handinger import prices
from handinger.agent import sizes
from handinger.agent.bounds import Bound, Bounds, Prefixes
from handinger.agent.counting import Counter
from handinger.agent.tools.context import ToolPrice
from handinger.budgets import Allowance, Reservation, Reserve, Spending
from handinger.prices import Price
from handinger.settings import Settings

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
    prefixes: Prefixes = field(init=False)

    def __post_init__(self) -> None:
        self.prefixes = Prefixes(self.tools)

    @property
    def usual_output(self) -> int:
        """The output limit of a call for which there is money enough."""
        return self.settings.max_output_tokens or self.output_limit or _USUAL_OUTPUT


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
        # What the turn may still cost, and whether that is for its organization to say.
        self._left_nano: int | None = None
        self._is_organizations = False
        self._kept: list[Reservation] = []
        self.bounds = Bounds(metering.prefixes, model=model, instructions=instructions)
        # Of the call that is planned: its bound, and what the last look found beyond that.
        self._bound = Bound(0, 0)
        self._found: tuple[int, int] = (0, 0)  # the step, and a bound
        self._is_tight = False
        self._asked_in_step: int | None = None

    # The last look

    def require(self, messages: Sequence[ModelMessage]) -> None:
        """The last look before a request is sent. Raises Remeasured."""
        if self.plan is None:
            raise Remeasured
        price = self._metering.price
        if price is None or price.is_free:
            return
        bound = self.bounds.of(messages).tokens
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

    async def count(
        self, request: ModelRequestContext, *, of: Sequence[ModelMessage], is_whole: bool
    ) -> None:
        """Have the provider count a request that sends these messages.

        Raises Remeasured, for a new plan; without a count, the call is made as it was planned. So
        it is if the request is not whole: what it lacks may be there when it is made.
        """
        counter = self._metering.counter
        assert counter is not None
        self._asked_in_step = self.planned_step
        counted = await counter.count(request) if is_whole else None
        if counted is not None and self.bounds.believe(counted, counter, of=of):
            self._found = (0, 0)
        elif self.plan is not None:
            return
        raise Remeasured

    # Money

    @property
    def purse(self) -> str:
        """Whose money is the least, in words."""
        if self._is_organizations:
            return "what this organization has left of its credits or of its month's cap"
        return f"the budget '{self._allowance.name}' of this turn"

    def _look(self, spent: Spending, available_nano: int | None) -> int | None:
        """See what the turn may still cost; None if nothing limits it."""
        cap_nano = self._allowance.cap_nano
        left = None if cap_nano is None else cap_nano - spent.cost_nano
        self._is_organizations = available_nano is not None and (
            left is None or available_nano < left
        )
        self._left_nano = available_nano if self._is_organizations else left
        return self._left_nano

    def for_call(self, messages: Sequence[ModelMessage], *, step: int) -> Reserve:
        """Plans the next model call, and reserves its worst case; nothing if none fits."""

        def reserve(spent: Spending, available_nano: int | None) -> list[Reservation]:
            self.granted = {}
            left = self._look(spent, available_nano)
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
            left = self._look(spent, available_nano)
            bound = sizes.FRAME_OF_REQUEST + sum(sizes.content_bytes(each) for each in asked)
            self.summary = self._call(step, bound, output, concludes=False).reservation
            self.summary = replace(self.summary, kind="internal")
            is_unknown = self._metering.price is None
            if left is not None and (is_unknown or self.summary.cost_nano > left // 2):
                self.summary = None
            self.bounds.forget_count()
            held = [] if self.summary is None or not self.summary.cost_nano else [self.summary]
            if available_nano is None or left is None or is_unknown:
                return held
            kept = left - sum(each.cost_nano for each in held)
            kept = min(self._concluding_nano(bound + output), kept)
            return [*held, self._kept_slice(step, kept)] if kept > 0 else held

        return reserve

    def too_small(self) -> str:
        """Why no call was made, and what would be needed."""
        price = self._metering.price
        if price is None:
            return prices.unknown(self._metering.settings)
        bound = self._bound.tokens
        needed = price.worst_case(bound).cost_nano(bound, _LEAST_ANSWER)
        left = max(self._left_nano or 0, 0)
        whose, remedy = f"The budget '{self._allowance.name}' is", "Use a larger budget"
        if self._is_organizations:
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
        self._bound, self._is_tight = self.bounds.of(messages), False
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
        bound = max(self.bounds.of_history(messages).tokens, self._bound.tokens)
        size = sum(sizes.result_bytes(part) for part in results)
        room = price.worst_case(bound).affordable_input(left_nano, _LEAST_ANSWER)
        if room is None or room < 0:
            return None
        kept = room - (bound - size) - len(results) * len(sizes.CUT)
        if kept >= 0:
            plan = self._call(step, room, _LEAST_ANSWER, concludes=True)
            return replace(plan, is_lowered=True, results_bytes=kept)
        # What it answered and called is too much already: it concludes from what it had before.
        if len(messages) < 3 or self.bounds.of(messages[:-2]).tokens > room:
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
            left = self._look(spent, available_nano)
            kept = self._concluding_nano(self.bounds.of(messages).tokens)
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
            f"This call was not made: it may cost {most[1] / 1e9:.6g} USD, and {self.purse} does "
            "not cover that beside the answer. Go on without it."
        )

    def is_metered(self, call: ToolCallPart) -> bool:
        """Whether the tool says at every moment what the call has cost."""
        price = self._price(call)
        return price is not None and price.is_metered

    def _price(self, call: ToolCallPart) -> ToolPrice | None:
        tool = self._metering.tools.get(call.tool_name)
        price = (tool.metadata or {}).get("price") if tool else None
        return price if isinstance(price, ToolPrice) else None

    def _most_nano(self, call: ToolCallPart) -> tuple[ToolPrice, int] | None:
        price = self._price(call)
        if price is None:
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
