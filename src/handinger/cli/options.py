"""The options that every command takes, and what they decide."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from pydantic import JsonValue

    from handinger.sdk.client import Handinger

Format: TypeAlias = Literal["auto", "json", "jsonl", "pretty", "raw", "yaml"]
ErrorFormat: TypeAlias = Literal["auto", "json", "jsonl", "pretty", "raw", "yaml"]
Shape: TypeAlias = Literal["json", "jsonl", "pretty", "raw", "yaml"]


@dataclass(frozen=True, slots=True)
class Options:
    """Whom to talk to, and how to print."""

    api_key: str | None = None
    base_url: str | None = None
    format: Format = "auto"
    format_error: ErrorFormat = "auto"
    transform: str | None = None
    raw_output: bool = False
    debug: bool = False

    def client(self, *, max_retries: int = 2) -> Handinger:
        """A client of the API: by the options, else the environment, else the last login."""
        from handinger.cli import credentials, tracing
        from handinger.cli.arguments import read_text
        from handinger.sdk.client import Handinger

        base_url = self.base_url or os.environ.get("HANDINGER_BASE_URL")
        api_key = None if self.api_key is None else read_text(self.api_key).strip()
        api_key = api_key or os.environ.get("HANDINGER_API_KEY")
        if not (api_key and base_url):
            kept = credentials.load()
            api_key = api_key or kept.key_for(base_url)
            base_url = base_url or kept.base_url
        if self.debug:
            tracing.start()
        return Handinger(api_key=api_key, base_url=base_url, max_retries=max_retries)

    def shape(self, *, streamed: bool = False) -> Shape:
        """How to print here: for a person in a terminal, for a program elsewhere."""
        if self.format != "auto":
            return self.format
        if sys.stdout.isatty() and not self.picks:
            return "pretty"
        return "jsonl" if streamed else "json"

    @property
    def picks(self) -> bool:
        """Whether something of an answer is wanted, and not the answer."""
        return self.transform is not None or self.raw_output

    def pick(self, value: JsonValue) -> JsonValue:
        """What `--transform` leaves of a value."""
        if self.transform is None:
            return value
        from handinger.cli.transform import compile_path

        return compile_path(self.transform)(value)
