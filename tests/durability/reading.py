"""A reader of a worker's stream that goes on after every cut, wherever the server is by then."""

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.durability.observing import wait_for
from tests.support.fold import TERMINAL, Fold

_RECONNECT_AFTER_S = 0.02


@dataclass(frozen=True, slots=True)
class Heard:
    """One event, and the place that it was told under."""

    place: str
    event: dict[str, Any]


@dataclass(slots=True)
class Lines:
    """Takes server-sent events out of the lines of a stream."""

    heard: list[Heard] = field(default_factory=list[Heard])
    _place: str = ""
    _data: str | None = None

    def add(self, line: str) -> None:
        """The next line, without its end."""
        if line.startswith("id: "):
            self._place = line[4:]
        elif line.startswith("data: "):
            self._data = line[6:]
        elif not line and self._data is not None:
            self.heard.append(Heard(self._place, json.loads(self._data)))
            self._data = None


class Reader:
    """Follows `GET .../stream` in a thread until it is told to stop; resumes by Last-Event-ID.

    With an instruction, the first stream that it reads is the answer to that.
    """

    def __init__(
        self,
        new_client: Callable[[], httpx2.Client],
        worker_path: str,
        *,
        instruction: str | None = None,
    ) -> None:
        self._client = new_client()
        self._worker_path = worker_path
        self._instruction = instruction
        self._lines = Lines()
        self._stopped = threading.Event()
        self.connections = 0
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def heard(self) -> list[Heard]:
        """All events so far."""
        return list(self._lines.heard)

    def wait_for_event(self, kind: str, *, number: int = 1) -> None:
        """Wait until so many events of this type were heard."""
        wait_for(
            lambda: [one.event["type"] for one in self.heard].count(kind) >= number,
            f"event {number} of type {kind}",
        )

    def wait_for_end_of(self, turn_id: str, *, timeout_s: float = 20) -> list[Heard]:
        """Stop once the turn's terminal event was heard; all events of that turn."""
        try:
            wait_for(lambda: self._terminals(turn_id), "the turn's last event", timeout_s=timeout_s)
        finally:
            self.stop()
        return [heard for heard in self.heard if heard.place.startswith(turn_id)]

    def stop(self) -> None:
        """Follow no more."""
        self._stopped.set()
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()

    def _terminals(self, turn_id: str) -> list[Heard]:
        return [
            heard
            for heard in self.heard
            if heard.place.startswith(turn_id) and heard.event["type"] in TERMINAL
        ]

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self.connections += 1
            with contextlib.suppress(httpx2.HTTPError):  # Cut off, or nobody is there.
                self._read_once()
            self._stopped.wait(_RECONNECT_AFTER_S)
        self._client.close()

    def _read_once(self) -> None:
        with self._request() as response:
            for line in response.iter_lines():
                self._lines.add(line)
                if self._stopped.is_set():
                    return

    def _request(self) -> contextlib.AbstractContextManager[httpx2.Response]:
        instruction, self._instruction = self._instruction, None
        if instruction is not None:
            body = {"input": instruction, "stream": True}
            return self._client.stream("POST", self._worker_path, json=body)
        headers: dict[str, str] = {}
        if self._lines.heard:
            headers["Last-Event-ID"] = self._lines.heard[-1].place
        return self._client.stream("GET", f"{self._worker_path}/stream", headers=headers)


def told(heard: list[Heard]) -> Fold:
    """What the events of one turn add up to; a `data-message` is a message by itself."""
    fold = Fold()
    for one in heard:
        if one.event["type"] != "data-message":
            fold.add(one.event)
    return fold
