"""The live view of a stream in a terminal.

What is final scrolls by and stays. Below it, what may still change is drawn anew: text that grows,
tools that run, the time it takes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import JsonValue
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from handinger.cli.keyboard import listening
from handinger.cli.meter import Meter
from handinger.cli.pretty import prose, show_closing
from handinger.cli.wording import duration, one_line, printable
from handinger.sdk.events import Event
from handinger.sdk.fold import MessageFold
from handinger.sdk.models import Part, ReasoningPart, SourceUrlPart, TextPart, ToolPart, UIMessage

_REFRESHES_PER_S = 10
# Enough to fill a large terminal; to wrap a whole answer ten times a second would be a waste.
_TAIL_CHARACTERS = 6_000
_REASONING_LINES = 3
_SHOWN_TOOL_LINES = 12
_DETAIL_LINES = 8


@dataclass(slots=True)
class _Stopwatch:
    started_at: float
    ended_at: float | None = None

    def stop(self) -> None:
        if self.ended_at is None:
            self.ended_at = time.monotonic()

    def __str__(self) -> str:
        return duration((self.ended_at or time.monotonic()) - self.started_at)


class LiveView:
    """Shows events as they come; `failed` tells of the latest turn."""

    def __init__(self, console: Console, meter: Meter | None = None) -> None:
        self.failed = False
        self._console = console
        self._meter = meter or Meter(None)
        self._opened = False
        self._has_keyboard = False
        self._fold = MessageFold()
        self._lock = threading.Lock()  # of what is shown
        self._printing = threading.Lock()  # of the terminal
        self._spinner = Spinner("dots")
        self._turn = _Stopwatch(time.monotonic())
        self._tools: dict[str, _Stopwatch] = {}
        self._shown_parts = 0

    def follow(self, events: Iterable[Event]) -> None:
        """Show all events, then what the worker came to."""
        with listening({"o": self._open_tools}) as self._has_keyboard, self._region():
            try:
                for event in events:
                    self._show(event)
            finally:
                self._meter.stop()
        if self._fold.worker is not None:
            show_closing(self._console, self._fold.worker)

    @contextmanager
    def _region(self) -> Generator[None]:
        """Draw what may still change, anew by and by, within this block.

        By a thread of our own: the library's measures how much it has to wipe, and may then wait
        while something is printed, and wipe that as well.
        """
        if not self._console.is_terminal:
            yield
            return
        over = threading.Event()

        def keep_drawing() -> None:
            while not over.wait(1 / _REFRESHES_PER_S):
                with self._printing:
                    region.refresh()

        drawing = threading.Thread(target=keep_drawing, daemon=True)
        with Live(
            get_renderable=lambda: self, console=self._console, auto_refresh=False, transient=True
        ) as region:
            drawing.start()
            try:
                yield
            finally:
                over.set()
                drawing.join()

    def _show(self, event: Event) -> None:
        with self._lock:
            if event.type == "start":
                self._shown_parts = 0
                self._turn = _Stopwatch(time.monotonic())
                self._meter.start_turn(_worker_of(event), event.turn_id)
            elif event.type == "start-step":
                self._meter.count_call()
            self._fold.add(event)
            self._time_tools()
            final = self._take_final_parts()
        # Not under the other lock: printing draws the region too, and that takes it.
        with self._printing:
            self._print_parts(final)
            if (message := event.message) is not None:
                self._print_message(message)
        if event.is_terminal:
            self.failed = event.type == "error"

    def _open_tools(self) -> None:
        """Show what tools were given and what they answered, or hide it again."""
        self._opened = not self._opened

    def _time_tools(self) -> None:
        for part in self._pending_parts():
            if isinstance(part, ToolPart):
                call = part.tool_call_id
                watch = self._tools.setdefault(call, _Stopwatch(time.monotonic()))
                if part.state.startswith("output"):
                    watch.stop()

    def _take_final_parts(self) -> Sequence[Part]:
        message = self._fold.current
        if message is None:
            return ()
        final = message.parts[self._shown_parts : self._fold.kept_parts]
        self._shown_parts += len(final)
        return final

    def _pending_parts(self) -> Sequence[Part]:
        message = self._fold.current
        return () if message is None else message.parts[self._shown_parts :]

    def _print_message(self, message: UIMessage) -> None:
        if message.role == "user":
            self._console.print(Text(f"\n> {printable(message.text)}", style="bold"))
        else:
            self._print_parts(message.parts)

    def _print_parts(self, parts: Sequence[Part]) -> None:
        for part in parts:
            match part:
                case TextPart() if part.text.strip():
                    self._console.print(Text(), prose(part.text), sep="")
                case ToolPart():
                    # Printing joins texts into a new one, without their own way to be wrapped.
                    for line in self._tool_lines(part):
                        self._console.print(line, no_wrap=True, overflow="ellipsis")
                case SourceUrlPart():
                    title = f"{part.title}  " if part.title else ""
                    line = Text(printable(f"  source  {title}{part.url}"), "dim")
                    self._console.print(line, soft_wrap=True)
                case _:
                    pass

    def _tool_lines(self, part: ToolPart) -> Iterator[Text]:
        """One line for a tool, and if tools are open what it was given and what it answered."""
        yield self._tool_line(part)
        if self._opened:
            output = part.error_text if part.state == "output-error" else part.output
            for mark, value in (("in ", part.input), ("out", output)):
                for number, line in enumerate(_detail(value)):
                    lead = mark if number == 0 else "   "
                    yield Text(f"    {lead} {line}", "dim", no_wrap=True, overflow="ellipsis")

    def _tool_line(self, part: ToolPart) -> Text:
        running = not part.state.startswith("output")
        failed = part.state == "output-error"
        spinning = self._spinning() if self._console.is_terminal else "…"
        mark, style = ("✗", "red") if failed else (spinning, "cyan") if running else ("✓", "green")
        line = Text(f"{mark} ", style=style, no_wrap=True, overflow="ellipsis")
        line.append(printable(part.tool_name), style="not dim bold")
        if (watch := self._tools.get(part.tool_call_id)) is not None:
            line.append(f"  {watch}", style="dim")
        what = part.error_text if failed else short_input(part.input)
        line.append(f"  {one_line(what or '')}", style="default")
        return line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            parts = self._pending_parts()
            tools = [
                line
                for part in parts
                if isinstance(part, ToolPart)
                for line in self._tool_lines(part)
            ]
            texts = [part for part in parts if isinstance(part, (TextPart, ReasoningPart))]
            last = texts[-1].model_copy() if texts else None
        height = max(options.max_height - min(len(tools), _SHOWN_TOOL_LINES) - 3, 1)
        if last is not None:
            yield _tail(last, console=console, width=options.max_width, height=height)
        yield from tools[-_SHOWN_TOOL_LINES:]
        hint = f"  o {'closes' if self._opened else 'opens'} tools" if self._has_keyboard else ""
        self._spinner.update(text=Text(f"working{hint}", style="dim", overflow="ellipsis"))
        yield self._spinner
        yield self._meter

    def _spinning(self) -> str:
        frames = self._spinner.frames
        return frames[int(time.monotonic() * 1000 / self._spinner.interval) % len(frames)]


def _worker_of(event: Event) -> str | None:
    metadata = event.data.get("messageMetadata")
    value = metadata.get("workerId") if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else None


def _detail(value: JsonValue) -> list[str]:
    """The first lines of what a tool was given or answered."""
    if value is None:
        return []
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    lines = printable(text[:_TAIL_CHARACTERS]).splitlines()
    return [*lines[:_DETAIL_LINES], *(["…"] if len(lines) > _DETAIL_LINES else [])]


def short_input(value: JsonValue) -> str:
    """What a tool was given, for a line: the bare value of an only parameter, else each by name."""
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    items = {name: one_line(str(given), limit=60) for name, given in value.items()}
    if len(items) == 1:
        return next(iter(items.values()))
    return "  ".join(f"{name}={given}" for name, given in items.items())


def _tail(part: TextPart | ReasoningPart, *, console: Console, width: int, height: int) -> Text:
    """The last lines of a text that still grows."""
    thinking = isinstance(part, ReasoningPart)
    text = Text(printable(part.text[-_TAIL_CHARACTERS:]), style="dim italic" if thinking else "")
    lines = text.wrap(console, width)
    return Text("\n").join(lines[-min(height, _REASONING_LINES) if thinking else -height :])
