"""File locks: whole-file flocks for turns, open-file-description locks for life.

A *turn* (append, flush) is a flock, so that `/proc/locks` names its holder. A *lock for life* (the store, a shard, a
row of the board) is an OFD lock: the kernel frees it when its holder dies, and any process can ask with F_OFD_GETLK
whether that lives, which takes nothing. (To probe by trying the lock makes the owner's own attempt fail in the
meantime.) Python's descriptors are close-on-exec, so a child started by command line never keeps its parent's lock.

See fcntl(2), "Open file description locks", and flock(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
import time
from pathlib import Path

from shards.files import safe_files

_FLOCK = struct.Struct("hhqqi4x")  # struct flock on Linux: l_type, l_whence, l_start, l_len, l_pid


def open_lock(path: Path) -> int:
    """Open the lock file `path`, which must not be a link; create it (mode 0600) if missing. It is never unlinked.

    It belongs to the owner of its directory, also if root creates it, by a command next to a server of another user:
    the server could not open it otherwise. Raises `OSError`, also for what is no file: nothing is waited for.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            return safe_files.open_regular(path, os.O_RDWR)
        with contextlib.suppress(FileExistsError):
            _create_lock(path)


def _create_lock(path: Path) -> None:
    """Create the lock file `path`, which appears with its owner. Raises `FileExistsError` if it exists."""
    if os.geteuid() != 0:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        owner = path.parent.stat()
        with contextlib.suppress(PermissionError):  # a root that may not: it sees to its own files
            os.fchown(fd, owner.st_uid, owner.st_gid)
        os.link(name, path)
    finally:
        os.close(fd)
        Path(name).unlink()


def try_acquire_for_life(fd: int, byte: int = 0) -> bool:
    """Take the lock for life on one byte of an open file; False if another open file holds it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def acquire_for_life(fd: int, byte: int = 0, timeout_s: float = 0.0) -> bool:
    """Retry `try_acquire_for_life` for `timeout_s` seconds: a dying holder may take a moment to go."""
    give_up_at = time.monotonic() + timeout_s
    while not try_acquire_for_life(fd, byte):
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(0.01)
    return True


def is_held(fd: int, byte: int = 0) -> bool:
    """Whether an open file other than `fd` holds the lock for life on `byte`. Takes nothing."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


class Turn:
    """A flock taken for a few microseconds at a time: `with turn: ...`. One object per process and thread."""

    def __init__(self, path: Path) -> None:
        self._fd = open_lock(path)

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def fileno(self) -> int:
        """The descriptor, to compare its inode with /proc/locks."""
        return self._fd

    def close(self) -> None:
        """Close the file, which frees the lock."""
        os.close(self._fd)
