"""The files of the log: segments by number, their descriptors, and the errors of the log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from shards.files.disk import Disk

SEGMENT = 64 << 20
"""Bytes of a segment."""

_SEGMENT_NAME = re.compile(r"[0-9]{12}\.log")


class LogError(Exception):
    """The log cannot be written or read; an append that raises it has left nothing."""


class LogBroken(LogError):
    """A flush failed, so the content of the disk is unknown. The process must answer nothing more, and end."""


class LogFull(LogError):
    """There is no space for the record: the disk is full, or no segment can be made after the current one."""


class GivenUp(LogError):
    """The appender's process is stopping, and so ended its wait for a segment."""


class Trimmed(LogError):
    """The log no longer holds the place asked for. `oldest` is the LSN of the oldest record it may hold."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"the log starts at {oldest}")
        self.oldest = oldest


def segment_name(number: int) -> str:
    """Return the file name of segment `number`."""
    return f"{number:012d}.log"


def segment_numbers(names: Sequence[str]) -> list[int]:
    """Return the numbers of the segments among file names, ascending."""
    return sorted(int(name[:12]) for name in names if _SEGMENT_NAME.fullmatch(name))


class SegmentFiles:
    """Descriptors of a log's segments, opened when first asked for. One owner; not for several threads."""

    def __init__(self, log_dir: Path, disk: Disk) -> None:
        self.log_dir, self._disk = log_dir, disk
        self._fds: dict[int, int] = {}

    def __getitem__(self, number: int) -> int:
        """The descriptor of segment `number`. Raises `OSError`."""
        fd = self._fds.get(number)
        if fd is None:
            fd = self._fds[number] = self._disk.open(self.log_dir / segment_name(number))
        return fd

    def close(self, below: int | None = None) -> None:
        """Close the segments with numbers below `below`, or all."""
        for number in [n for n in self._fds if below is None or n < below]:
            self._disk.close(self._fds.pop(number))
