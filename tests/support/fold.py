"""Adds up one turn's events to the message that they tell, by the rules of the AI SDK's reader.

Stricter than that reader: what is told twice, out of order or of nothing known is an error here.
"""

import json
from typing import Any

Event = dict[str, Any]

TERMINAL = {"finish", "abort", "error"}


class Fold:
    """The message so far. `add` raises AssertionError on an event that cannot come now."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.metadata: Event | None = None
        self.parts: list[Event] = []
        self.worker: Event | None = None
        self.terminal: Event | None = None
        self.retries = 0
        self._steps: int = 0  # how many parts the finished steps have
        self._in_step = False
        self._texts: dict[str, Event] = {}
        self._inputs: dict[str, str] = {}
        self._last = ""

    def add(self, event: Event) -> None:
        """Take in the next event."""
        assert self.terminal is None, f"{event} after the terminal event"
        kind = event["type"]
        if self._last == "data-worker":
            assert kind in TERMINAL, f"{event} between data-worker and the terminal event"
        self._last = kind
        if kind in TERMINAL:
            self._end(event)
        elif kind.startswith("data-"):
            self._hear_news(event)
        elif kind == "start":
            assert self.id is None, "start was told twice"
            self.id, self.metadata = event["messageId"], event["messageMetadata"]
        else:
            assert self.id is not None, f"{event} before start"
            self._add_to_message(kind, event)

    def _add_to_message(self, kind: str, event: Event) -> None:
        if kind == "start-step":
            assert not self._in_step, "a step within a step"
            self._in_step = True
            self.parts.append({"type": "step-start"})
            return
        assert self._in_step, f"{event} outside of a step"
        if kind == "finish-step":
            self._finish_step()
        elif kind.startswith(("text-", "reasoning-")):
            self._add_text(kind, event)
        elif kind.startswith("tool-input-"):
            self._add_input(kind, event)
        elif kind.startswith("tool-output-"):
            self._add_output(kind, event)
        else:
            assert kind in {"source-url", "file"}, f"unknown event {event}"
            self.parts.append(dict(event))

    def _finish_step(self) -> None:
        assert not self._texts, f"finish-step leaves {list(self._texts)} open"
        assert not self._inputs, f"finish-step leaves {list(self._inputs)} open"
        self._in_step = False
        self._steps = len(self.parts)

    def _add_text(self, type: str, event: Event) -> None:
        kind, _, change = type.partition("-")
        key = f"{kind} {event['id']}"
        if change == "start":
            assert key not in self._texts, f"{event} was told twice"
            self._texts[key] = {"type": kind, "text": "", "state": "streaming"}
            self.parts.append(self._texts[key])
        elif change == "delta":
            assert event["delta"], "an empty delta"
            self._texts[key]["text"] += event["delta"]
        else:
            self._texts.pop(key)["state"] = "done"

    def _add_input(self, kind: str, event: Event) -> None:
        call = event["toolCallId"]
        if kind == "tool-input-start":
            assert self._tool(call) is None, f"{event} was told twice"
            self._inputs[call] = ""
            name = event["toolName"]
            self.parts.append(
                {"type": f"tool-{name}", "toolCallId": call, "state": "input-streaming"}
            )
            return
        part = self._tool(call)
        assert part is not None, f"{event} of an unknown call"
        if kind == "tool-input-delta":
            self._inputs[call] += event["inputTextDelta"]
            return
        assert part["type"] == f"tool-{event['toolName']}"
        told = self._inputs.pop(call)
        assert told in ("", event["input"]) or json.loads(told) == event["input"], (
            f"the deltas {told!r} are not the input {event['input']!r}"
        )
        part.update(state="input-available", input=event["input"])

    def _add_output(self, kind: str, event: Event) -> None:
        part = self._tool(event["toolCallId"])
        assert part is not None, f"{event} of an unknown call"
        assert part["state"] == "input-available", f"{event} was told twice, or too early"
        if kind == "tool-output-available":
            part.update(state="output-available", output=event["output"])
        else:
            assert kind == "tool-output-error", f"unknown event {event}"
            part.update(state="output-error", errorText=event["errorText"])

    def _tool(self, call: str) -> Event | None:
        return next((part for part in self.parts if part.get("toolCallId") == call), None)

    def _hear_news(self, event: Event) -> None:
        assert event.get("transient") is True, f"{event} would become a part"
        match event["type"]:
            case "data-retry":
                assert event["data"] == {"messageId": self.id}
                self.retries += 1
                del self.parts[self._steps :]
                self._in_step = False
                self._texts.clear()
                self._inputs.clear()
            case "data-worker":
                assert self.worker is None, "data-worker was told twice"
                self.worker = event.get("data", {})
            case other:
                raise AssertionError(f"{other} in a turn's events")

    def _end(self, event: Event) -> None:
        assert self.worker is not None, f"{event} without data-worker directly before it"
        assert not self._in_step, f"{event} within a step"
        self.terminal = event
