"""Signals that end a command, so that it can still put things in order."""

from __future__ import annotations

import signal


def interruptible() -> None:
    """Make SIGTERM and SIGHUP end the command as Ctrl-C does, so that it can remove unfinished files."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
