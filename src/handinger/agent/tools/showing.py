"""Which pictures one attempt at a turn has shown to the model, and what became of them."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Showing:
    """Pictures by the hash of their bytes."""

    sent: set[str] = field(default_factory=set[str])  # with the call that is under way
    is_complete: bool = True  # no picture that a later call may have is missing from that call
    taken: set[str] = field(default_factory=set[str])
    refused: set[str] = field(default_factory=set[str])

    def was_taken(self) -> None:
        """The model has answered the call."""
        self.taken |= self.sent

    def withhold(self) -> bool:
        """The call was refused: show no more what may be why. False if it had no picture."""
        suspects = self.sent - self.taken or self.sent
        self.refused |= suspects
        return bool(suspects)
