"""The last line of a terminal, which shows the state of a watch: connecting, live or waiting, and changes a second."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from shards.host.logs import escape_controls

_TURN_S: Final = 1.0
_RATE_S: Final = 5.0
"""Seconds of which the rate is the mean."""
_CLEAR: Final = "\r\x1b[K"


class StatusLine:
    """Draws the line below what is printed through `above`, once a second, by a thread of its own.

    Where it is not `shown`, it draws nothing, and `above` calls.
    """

    def __init__(self, shown: bool, what: str) -> None:
        """`what`: what is watched, in words."""
        self._shown, self._what = shown, escape_controls(what)
        self._state = "connecting"
        self._times: deque[tuple[float, int]] = deque()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        if shown:
            threading.Thread(target=self._keep, name="status line", daemon=True).start()

    def above(self, write: Callable[[], object]) -> None:
        """Call `write`, which prints whole lines, with the line out of the way."""
        with self._lock:
            self._clear()
            try:
                write()
            finally:
                self._draw()

    def note(self, state: str) -> None:
        """Show another state."""
        with self._lock:
            self._state = escape_controls(state)
            self._draw()

    def count(self, changes: int) -> None:
        """Count changes for the rate."""
        if self._shown:
            with self._lock:
                self._times.append((time.monotonic(), changes))

    def close(self) -> None:
        """Remove the line."""
        self._ended.set()
        with self._lock:
            self._clear()
            self._shown = False

    def _keep(self) -> None:
        while not self._ended.wait(_TURN_S):
            with self._lock:
                self._draw()

    def _clear(self) -> None:
        if self._shown:
            self._write(_CLEAR)

    def _draw(self) -> None:
        if self._shown:
            now = time.monotonic()
            while self._times and self._times[0][0] < now - _RATE_S:
                self._times.popleft()
            rate = sum(changes for _, changes in self._times) / _RATE_S
            text = f"{self._state} · {self._what} · {rate:.3g}/s"
            width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be cleared
            self._write(f"{_CLEAR}\x1b[2m{text[:width]}\x1b[0m")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)
            sys.stderr.flush()
