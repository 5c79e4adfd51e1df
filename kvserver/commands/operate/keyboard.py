"""Single keys of a terminal, without Enter."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager


class Keyboard:
    """Reads keys from a terminal in cbreak mode: Ctrl-C still ends the program."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def wait(self, seconds: float) -> str:
        """Return the key that is pressed within `seconds`, or an empty text."""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        return os.read(self._fd, 64).decode("utf-8", "replace")[:1] if ready else ""


@contextmanager
def single_keys() -> Iterator[Keyboard]:
    """Let keys be read one by one from standard input, which is a terminal, until the end of the block."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield Keyboard(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
