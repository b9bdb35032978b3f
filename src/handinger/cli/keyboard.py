"""Single keys, read while something is shown."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

_LOOK_EVERY_S = 0.1


@contextmanager
def listening(keys: Mapping[str, Callable[[], object]]) -> Generator[bool]:
    """Call what belongs to a key when it is pressed; gives whether there is a keyboard.

    Ctrl-C stays what it is.
    """
    if not _is_ours():
        yield False
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    over = threading.Event()
    reader = threading.Thread(target=_read, args=(keyboard, keys, over), daemon=True)
    tty.setcbreak(keyboard, termios.TCSADRAIN)
    reader.start()
    try:
        yield True
    finally:
        over.set()
        reader.join()
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _is_ours() -> bool:
    """Whether a terminal is there, and this process in its foreground: else it would be stopped."""
    try:
        keyboard = sys.stdin.fileno()
        return os.isatty(keyboard) and os.tcgetpgrp(keyboard) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _read(keyboard: int, keys: Mapping[str, Callable[[], object]], over: threading.Event) -> None:
    while not over.is_set():
        if select.select([keyboard], [], [], _LOOK_EVERY_S)[0]:
            pressed = os.read(keyboard, 1).decode(errors="replace")
            if not pressed:
                return
            if (act := keys.get(pressed)) is not None:
                act()
