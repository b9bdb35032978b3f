"""What each part is played on: the scripted model, a real server, and what is beside them."""

import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from tests.support.model_server import ModelServer, Step
from tests.support.server import HandingerServer

from benchmarks.aside import Aside
from benchmarks.turn import Turn

CHUNK_TEXT = "word "


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of user and system time so far."""

    server_s: float
    postgres_s: float


@dataclass(frozen=True, slots=True)
class Serving:
    """A server with a data directory of its own, and the client that loads it."""

    server: HandingerServer
    client: Aside

    def turns(self, function: str, **arguments: object) -> list[Turn]:
        """Have the client run turns; see `benchmarks.client`."""
        return self.client.call(function, list[Turn], **arguments)

    @property
    def rss_mb(self) -> float:
        """Of the server's process alone, in 10^6 bytes."""
        return psutil.Process(self.server.pid).memory_info().rss / 1e6

    def cpu(self) -> Cpu:
        """Of the server's process, and of its PostgreSQL with every backend there has been."""
        postmaster = psutil.Process(self._postmaster_pid())
        postgres = postmaster.cpu_times()
        ended_s = postgres.children_user + postgres.children_system
        backends_s = 0.0
        for backend in postmaster.children():
            # A backend that ends in between is counted among the ended ones next time.
            with contextlib.suppress(psutil.NoSuchProcess):
                backends_s += _busy_s(backend)
        return Cpu(
            server_s=_busy_s(psutil.Process(self.server.pid)),
            postgres_s=postgres.user + postgres.system + ended_s + backends_s,
        )

    def _postmaster_pid(self) -> int:
        pid_file = self.server.data_dir / "postgres" / "postmaster.pid"
        return int(pid_file.read_text().split("\n", 1)[0])


def _busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@dataclass(frozen=True, slots=True)
class ModelTime:
    """One request as the model saw it, by `time.monotonic()`."""

    at: float
    first_byte_at: float
    ended_at: float

    @property
    def took_ms(self) -> float:
        return (self.ended_at - self.at) * 1000


@dataclass(frozen=True)
class Stage:
    """One run of the benchmarks. `quick`: a fraction of the work, for a first look."""

    quick: bool
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def count(self, full: int, *, quick: int) -> int:
        """How often to do something."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """How often to come back to each thing in turn, so that noise meets all alike."""
        return self.count(10, quick=3)

    @functools.cached_property
    def model(self) -> ModelServer:
        """The scripted model of this run; it remembers when each request was there."""
        return self._stack.enter_context(ModelServer(log_requests=100_000, log_bodies=False))

    @functools.cached_property
    def serving(self) -> Serving:
        """The server that all parts share which don't ask for a fresh one."""
        return self._stack.enter_context(self.fresh_server())

    @functools.cached_property
    def bare(self) -> Aside:
        """The floors: see `benchmarks.bare`."""
        bare = self._stack.enter_context(Aside("benchmarks.bare"))
        bare.call("connect", type(None), url=self.model.base_url)
        return bare

    @contextlib.contextmanager
    def fresh_server(self, environment: Mapping[str, str] | None = None) -> Generator[Serving]:
        """A server on a new data directory."""
        with tempfile.TemporaryDirectory(prefix="handinger-bench-") as folder:
            server = HandingerServer(
                Path(folder) / "data",
                model_url=self.model.base_url,
                environment=environment,
                preload=False,
            )
            try:
                server.start()
                with Aside("benchmarks.client") as client:
                    client.call("connect", type(None), url=server.base_url, key=server.key)
                    yield Serving(server, client)
            finally:
                server.close()

    def bare_turns(self, function: str, **arguments: object) -> list[Turn]:
        """Have the floors' process run turns."""
        return self.bare.call(function, list[Turn], **arguments)

    def script_text(self, *names: str, chunks: int, chunk_delay_s: float = 0) -> str:
        """Scripts that answer so many chunks each time; returns the text that they make."""
        step = Step(chunks=chunks, chunk_text=CHUNK_TEXT, chunk_delay_s=chunk_delay_s)
        for name in names:
            self.model.script(name, [step], after_last="repeat")
        return CHUNK_TEXT * chunks

    def model_times(self, name: str) -> list[ModelTime]:
        """When each request of a script was at the model, oldest first."""
        times: list[ModelTime] = []
        for request in self.model.requests(name, bodies=False):
            assert request.first_byte_at is not None
            assert request.ended_at is not None
            times.append(ModelTime(request.at, request.first_byte_at, request.ended_at))
        return times


def prompt(script: str) -> str:
    """An instruction that names its script."""
    return f"[[script:{script}]] Please write a few words."


def above_model_ms(turns: Sequence[Turn], model: Sequence[ModelTime]) -> list[float]:
    """What turns took beside the model's own time; each made one call, one after the other."""
    assert len(turns) == len(model), (len(turns), len(model))
    return [turn.took_ms - call.took_ms for turn, call in zip(turns, model, strict=True)]


def require_right(turns: Sequence[Turn]) -> str:
    """Raises AssertionError unless every answer was complete and right; else says so."""
    wrong = sum(not turn.is_right for turn in turns)
    assert not wrong, f"{wrong} of {len(turns)} answers were not complete and right"
    return f"All {len(turns)} answers were complete and right."


def differences(values: Sequence[float], floor: Sequence[float]) -> list[float]:
    """Each value above the floor's median."""
    return [value - statistics.median(floor) for value in values]


def idle_cpu_ms(serving: Serving, *, seconds: float = 3.0) -> tuple[float, float]:
    """What the server, and what its PostgreSQL uses in a second when there is nothing to do."""
    before = serving.cpu()
    time.sleep(seconds)
    after = serving.cpu()
    return (
        (after.server_s - before.server_s) * 1000 / seconds,
        (after.postgres_s - before.postgres_s) * 1000 / seconds,
    )
