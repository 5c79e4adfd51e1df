"""The system calls that change files of the store, as one object: log, snapshots and backups use it.

A test can replace it with a disk that fails, fills up or loses power, and can stop a run between any two steps.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Protocol

from shards.files import safe_files
from shards.files.locks import Turn


class Lock(Protocol):
    """`with lock: ...`"""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
    def close(self) -> None:
        """Give the lock up for good."""


class Disk:
    """The real disk. Every method raises `OSError`, as the function of `os` that it wraps does."""

    pread = staticmethod(os.pread)
    pwritev = staticmethod(os.pwritev)
    fdatasync = staticmethod(os.fdatasync)
    allocate = staticmethod(os.posix_fallocate)
    close = staticmethod(os.close)
    pause = staticmethod(time.sleep)

    def open(self, path: Path) -> int:
        """Open the file `path` to read and write. It must exist, and must not be a link."""
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def create(self, path: Path) -> int:
        """Create the empty file `path` (mode 0600), in place of one that exists, and open it."""
        return safe_files.create(path)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name in the same directory; durable after `sync_directory`."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def names(self, directory: Path) -> list[str]:
        """List the names in `directory`."""
        return [path.name for path in directory.iterdir()]

    def sync_directory(self, directory: Path) -> None:
        """Make names in `directory` durable: syncing a file says nothing about its name."""
        safe_files.sync_directory(directory)

    def turn(self, path: Path) -> Lock:
        """Return the lock for turns at `path`."""
        return Turn(path)


DISK = Disk()
"""The disk of every process of a store."""
