"""What the kernel still holds of what was written to a connection."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import termios


def count_unsent(fd: int) -> int:
    """Bytes written to the socket `fd` that its peer has not taken, 0 if the socket is gone (and `fd` maybe -1).

    A kernel may hold so many that a slow client takes long until there is room for more: that it takes something shows
    here first.
    """
    queued = bytearray(4)
    with contextlib.suppress(OSError, ValueError):
        fcntl.ioctl(fd, termios.TIOCOUTQ, queued)
    return int.from_bytes(queued, sys.byteorder)
