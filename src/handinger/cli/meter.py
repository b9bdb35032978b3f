"""How much of its budget a turn has used, asked of the server while the turn runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from handinger.cli.wording import counted, duration, money

if TYPE_CHECKING:
    from handinger.sdk.client import Handinger

_ASK_EVERY_S = 2.0
_BAR_WIDTH = 20
# A shorter one shows nothing.
_SHORTEST_BAR = 8


@dataclass(frozen=True, slots=True)
class Caps:
    """What a budget allows; None where it has no cap."""

    model_calls: int | None = None
    usd: float | None = None
    seconds: float | None = None


class Meter:
    """The bar and the figures of one turn after the other.

    It asks in a thread of its own. What it cannot learn, from an older server or none, it leaves
    out: a turn is shown without it as well.
    """

    def __init__(self, client: Handinger | None) -> None:
        self._client = client
        self._caps: dict[str, Caps] = {}
        self._turn: tuple[str, str] | None = None
        self._budget: str | None = None
        self._usd: float | None = None
        self._calls = 0
        self._started_at = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start_turn(self, worker_id: str | None, turn_id: str | None) -> None:
        """Another turn is shown from now on."""
        self._budget, self._usd, self._calls = None, None, 0
        self._started_at = time.monotonic()
        self._turn = (worker_id, turn_id) if worker_id and turn_id else None
        if self._turn and self._client is not None and self._thread is None:
            self._thread = threading.Thread(target=self._ask, daemon=True)
            self._thread.start()

    def count_call(self) -> None:
        """A model call has begun."""
        self._calls += 1

    def stop(self) -> None:
        """Ask no more; returns at once, a last answer may be on its way."""
        self._over.set()

    def _ask(self) -> None:
        from handinger.sdk.errors import HandingerError

        assert self._client is not None
        try:
            self._caps = _read_caps(self._client.workers.with_raw_response.budgets().json())
            while not self._over.wait(_ASK_EVERY_S if self._budget else 0):
                if (turn := self._turn) is not None:
                    self._note(turn[1], _turn_of(self._client, *turn))
        except (HandingerError, RuntimeError):
            # The client may be closed by now; then nobody looks any more.
            return

    def _note(self, turn_id: str, told: dict[str, Any]) -> None:
        if self._turn is not None and self._turn[1] == turn_id:
            self._budget = str(told.get("budget"))
            usage: Any = told.get("usage")
            self._usd = None if usage is None else usage["costUsd"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        caps = self._caps.get(self._budget or "", Caps())
        elapsed_s = time.monotonic() - self._started_at
        figures: list[tuple[float, float | None, str, Callable[[float], str]]] = [
            (self._calls, caps.model_calls, counted(self._calls, "call"), "{:g}".format),
            (elapsed_s, caps.seconds, duration(elapsed_s), duration),
        ]
        if self._usd is not None:
            figures.insert(1, (self._usd, caps.usd, money(self._usd), money))
        words = [
            said if cap is None else f"{said} of {show(cap)}" for _, cap, said, show in figures
        ]
        shares = [used / cap for used, cap, _, _ in figures if cap]
        text = Text(" · ".join(words), style="dim", no_wrap=True, overflow="ellipsis")
        # The figures say more than the bar, so it gets what they leave.
        width = min(options.max_width - text.cell_len - 1, _BAR_WIDTH)
        if not shares or width < _SHORTEST_BAR:
            yield text
            return
        share = min(max(shares), 1.0)
        style = "green" if share < 0.5 else "yellow" if share < 0.85 else "red"
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(1.0, share, width=width, complete_style=style, finished_style="red")
        row.add_row(bar, text)
        yield row


def _read_caps(told: Any) -> dict[str, Caps]:
    return {
        budget["name"]: Caps(budget["modelCalls"], budget["usd"], budget["seconds"])
        for budget in told["budgets"]
    }


def _turn_of(client: Handinger, worker_id: str, turn_id: str) -> dict[str, Any]:
    return client.workers.with_raw_response.retrieve_turn(turn_id, worker_id=worker_id).json()
