"""One turn as whoever asked for it saw it; what the processes beside the benchmark send back."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """Times are `time.monotonic()`, which all processes of a machine share."""

    sent_at: float
    ended_at: float
    is_right: bool = True  # complete, and the text that the script tells
    first_delta_at: float | None = None
    cpu_ms: float = 0.0  # of the asking process, where that is the one that does the work

    @property
    def took_ms(self) -> float:
        return (self.ended_at - self.sent_at) * 1000

    @property
    def to_first_delta_ms(self) -> float:
        assert self.first_delta_at is not None
        return (self.first_delta_at - self.sent_at) * 1000
