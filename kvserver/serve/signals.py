"""What the supervisor was asked for by signals."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from kvserver.serve.watch.scarcity import is_scarcity

_HANG_UP_S = 0.05


class Signals:
    """Handlers only set flags and wake the loop.

    Attributes:
        stops: how often it was asked to stop.
        reload: it was asked to reload, and that is not done yet.
    """

    def __init__(self, ends_with_terminal: bool) -> None:
        """`ends_with_terminal`: see `ends_with_terminal`, asked when the process started."""
        self._ends_with_terminal = ends_with_terminal
        self.stops = int(ends_with_terminal and not has_terminal())
        self.reload = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._reload)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the wake-up is what matters

    def _stop(self, *_: object) -> None:
        self.stops += 1

    def _reload(self, *_: object) -> None:
        self.reload = True

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last call. A SIGHUP because the terminal was closed asks to stop."""
        if not self.reload:
            return False
        self.reload = False
        if self._ends_with_terminal:
            time.sleep(_HANG_UP_S)  # the kernel may tell a moment before it takes the terminal away
            if not has_terminal():
                self.stops += 1
                return False
        return True

    def wait(self, seconds: float) -> None:
        """Sleep until a signal arrives, at most `seconds`."""
        if select.select([self._reader], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                while self._reader.recv(4096):
                    pass

    def close(self) -> None:
        """Forget the wake-up; the handlers stay."""
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


def has_terminal() -> bool:
    """Whether this process has a controlling terminal. It loses it when that is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return is_scarcity(error)  # then nobody knows, and a server does not end for that
    return True


def ends_with_terminal() -> bool:
    """Whether this process was started in a terminal and is to end with it: but for `nohup`, which ignores SIGHUP."""
    return has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
