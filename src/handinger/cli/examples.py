"""Examples in the help of commands; the tests run every one of them."""

from __future__ import annotations

PREFIX = "Example: "


def example(command: str) -> str:
    """The last line of a command's help."""
    return f"{PREFIX}{command}"
