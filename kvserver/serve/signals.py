"""Signals to the supervisor: flags that its loop reads, and a wake-up."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from kvserver.serve.watch.scarcity import is_scarcity

_HANG_UP_S = 0.05
_TERMINAL_CLOSED = "its terminal was closed"


class Signals:
    """Signal handlers that only set flags and wake the loop. Installs them at construction.

    Attributes:
        stops: number of requests to stop.
        why: what the first of them was, in words; empty before.
        reload: a reload was requested and not done yet.
    """

    def __init__(self, ends_with_terminal: bool) -> None:
        """`ends_with_terminal`: what the function of that name returned when the process started."""
        self._ends_with_terminal = ends_with_terminal
        self.stops, self.why = 0, ""
        if ends_with_terminal and not has_terminal():
            self._request_stop(_TERMINAL_CLOSED)
        self.reload = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the wake-up is what matters

    def _on_stop(self, number: int, _: object) -> None:
        self._request_stop(signal.Signals(number).name)

    def _request_stop(self, why: str) -> None:
        self.stops += 1
        self.why = self.why or why

    def _on_reload(self, *_: object) -> None:
        self.reload = True

    def take_reload(self) -> bool:
        """Return whether a reload was requested since the last call. A SIGHUP of a closed terminal is a stop."""
        if not self.reload:
            return False
        self.reload = False
        if self._ends_with_terminal:
            time.sleep(_HANG_UP_S)  # the kernel may send the signal just before it removes the terminal
            if not has_terminal():
                self._request_stop(_TERMINAL_CLOSED)
                return False
        return True

    def wait_for_signal(self, seconds: float) -> None:
        """Sleep until a signal arrives, at most `seconds`."""
        if select.select([self._reader], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                while self._reader.recv(4096):
                    pass

    def close(self) -> None:
        """Remove the wake-up; the handlers stay installed."""
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal, which it loses when the terminal closes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return is_scarcity(error)  # unknown then, and no reason to stop the server
    return True


def ends_with_terminal() -> bool:
    """Return whether this process started in a terminal and ends with it: not under `nohup`, which ignores SIGHUP."""
    return has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
