"""Keeps a file in the run directory by which other processes find this one, and makes it again if it is removed.

Cleaners of /tmp and /run (systemd-tmpfiles) remove sockets of living processes. Open connections survive that, new ones
fail; so the process that made such a file checks it regularly.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


class KeptFile:
    """A file that this process made, and checks every second or so."""

    def __init__(self, path: Path, make: Callable[[], object]) -> None:
        """Make the file: `make` puts it at `path`, in place of what is there. Raises what `make` raises."""
        self.path, self._make = path, make
        self._make()
        self._inode, self._complained = inode_of(path), False

    def restore_if_gone(self) -> None:
        """Make the file again if it is gone or another is in its place.

        If it cannot be made now, the next call tries again. Logs once that it is gone, and once that it is back.
        """
        if self.is_there():
            return
        if not self._complained:
            log.warning("%s was removed, though this server needs it: it is made again", self.path)
        try:
            self._make()
        except Exception as error:  # ZeroMQ's are of no kind that this package's core may know
            if not self._complained:
                log.error("%s cannot be made again, and is tried every second: %s", self.path, error)
            self._complained = True
            return
        if self._complained:
            log.warning("%s is there again", self.path)
        self._inode, self._complained = inode_of(self.path), False

    def remove(self) -> None:
        """Remove the file, after its maker was closed. If that fails, it is left to the next start."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def is_there(self) -> bool:
        """Whether the file at the path is still the one that was made."""
        return self._inode != 0 and inode_of(self.path) == self._inode


def inode_of(path: Path) -> int:
    """Return the inode number at `path`, links not followed; 0 if there is no file, or it cannot be inspected."""
    with contextlib.suppress(OSError):
        return path.lstat().st_ino
    return 0
