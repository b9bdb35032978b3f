"""The options that every command takes, and what they decide."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from handinger.sdk.client import Handinger

Format: TypeAlias = Literal["auto", "json", "jsonl", "pretty", "raw"]
Shape: TypeAlias = Literal["json", "jsonl", "pretty", "raw"]


@dataclass(frozen=True, slots=True)
class Options:
    """Whom to talk to, and how to print."""

    api_key: str | None = None
    base_url: str | None = None
    format: Format = "auto"

    def client(self) -> Handinger:
        """A client of the API; the environment says what the options do not."""
        from handinger.sdk.client import Handinger

        return Handinger(api_key=self.api_key, base_url=self.base_url)

    def shape(self, *, streamed: bool = False) -> Shape:
        """How to print here: for a person in a terminal, for a program elsewhere."""
        if self.format != "auto":
            return self.format
        if sys.stdout.isatty():
            return "pretty"
        return "jsonl" if streamed else "json"
