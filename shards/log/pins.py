"""Pins on the log: a process that copies or checks a running store keeps the log that it reads from being trimmed.

A pin is a lock for life on a place in the file `backup` next to the other locks, and the LSN stored there: the kernel
frees it when its holder dies, however that happens. The trimmer reads all pins **after** it has decided what a restart
needs; the holder of a pin reads the manifest after it has taken its pin. So either the trimmer sees the pin, or the
holder sees the manifest by which was trimmed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.files import locks

NAME = "backup"
PLACES = 64
_LSN = struct.Struct("<Q")


class NoPlace(Exception):
    """All places are taken."""


class LogPin:
    """A pin of this process. `keep_from(lsn)` sets where it begins; until then it keeps the whole log."""

    def __init__(self, fd: int, at: int) -> None:
        self._fd, self._at = fd, at
        self.keep_from(0)

    def keep_from(self, lsn: int) -> None:
        """Keep the log from `lsn` on."""
        os.pwrite(self._fd, _LSN.pack(lsn), self._at)


@contextmanager
def pin_log(lock_dir: Path) -> Iterator[LogPin]:
    """Pin the log of the store whose locks are in `lock_dir`, until `with` ends or the process dies.

    Raises `NoPlace`, `OSError`.
    """
    fd = locks.open_lock(lock_dir / NAME)
    try:
        for place in range(PLACES):
            if locks.try_acquire_for_life(fd, place * _LSN.size):
                yield LogPin(fd, place * _LSN.size)
                return
        raise NoPlace(f"{PLACES} backups and checks of this store are in progress already")
    finally:
        os.close(fd)


def pinned_lsns(lock_dir: Path) -> tuple[int, ...]:
    """Return the LSN from which each pin keeps the log. Takes no lock. Raises `OSError`."""
    try:
        fd = os.open(lock_dir / NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return ()
    try:
        places = [at for at in range(0, PLACES * _LSN.size, _LSN.size) if locks.is_held(fd, at)]
        return tuple(_LSN.unpack(os.pread(fd, _LSN.size, at).ljust(_LSN.size, b"\0"))[0] for at in places)
    finally:
        os.close(fd)
