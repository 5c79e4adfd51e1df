"""Bytes that the kernel holds of what was written to a connection."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import termios


def count_unsent(fd: int) -> int:
    """Count the bytes written to the socket `fd` that its peer has not acknowledged; 0 if the socket is gone (-1).

    A kernel may hold so many that it takes long until a slow client lets it accept more; progress shows here first.
    See tcp(7), SIOCOUTQ.
    """
    queued = bytearray(4)
    with contextlib.suppress(OSError, ValueError):
        fcntl.ioctl(fd, termios.TIOCOUTQ, queued)
    return int.from_bytes(queued, sys.byteorder)
