"""A wall clock that a test can set: that of the processes of one server, as far as Python reads it.

Steady clocks (CLOCK_MONOTONIC, CLOCK_BOOTTIME) go on as they are, as they do when an operator or NTP sets the clock.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

_SITE = """\
import mmap, struct, time
with open({path!r}, "rb") as file:
    _ahead = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + struct.unpack("<q", _ahead)[0]
time.time_ns = lambda: _time_ns() + struct.unpack("<q", _ahead)[0] * 1_000_000_000
"""


class SetClock:
    """The clock of a server that is started with `environ`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._file = directory / "ahead"
        self._file.write_bytes(bytes(8))
        (directory / "sitecustomize.py").write_text(_SITE.format(path=str(self._file)))
        self.environ = {"PYTHONPATH": str(directory)}
        self._ahead_s = 0

    def set_ahead(self, seconds: int) -> None:
        """Set it, to be ahead of the real clock by `seconds`; below 0: behind it."""
        self._ahead_s = seconds
        with self._file.open("r+b") as file:
            file.write(struct.pack("<q", seconds))

    def now_s(self) -> float:
        """What it says."""
        return time.time() + self._ahead_s
