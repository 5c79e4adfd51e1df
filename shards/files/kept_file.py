"""A file in the run directory by which others find a process, made again where somebody has taken it away.

What cleans /tmp and /run (systemd-tmpfiles) removes sockets of living processes. Who is connected stays so, and nobody
new gets in: so whoever made such a file looks after it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


class KeptFile:
    """A file that was made, and is to be looked at every second or so."""

    def __init__(self, path: Path, make: Callable[[], object]) -> None:
        """Makes the file: `make` puts it at `path`, in place of what stands there. Raises what `make` raises."""
        self.path, self._make = path, make
        self._make()
        self._inode, self._complained = inode_of(path), False

    def restore_if_gone(self) -> None:
        """Make the file again if it is gone, or another stands in its place. What cannot be made now is tried at the
        next look; the log says once that it is gone, and once that it is there again."""
        if self.is_there():
            return
        if not self._complained:
            log.warning("%s was removed by somebody, though this server needs it: it is made again", self.path)
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
        """Remove the file: what made it is closed. What cannot be removed is left to the next start."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def is_there(self) -> bool:
        """Whether the file that was made still stands at its path."""
        return self._inode != 0 and inode_of(self.path) == self._inode


def inode_of(path: Path) -> int:
    """The number of the inode at `path`, where no link is followed; 0: there is nothing, or it cannot be seen."""
    with contextlib.suppress(OSError):
        return path.lstat().st_ino
    return 0
