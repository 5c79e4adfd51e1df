"""Where in the log a revision stands, roughly: a place every so many bytes. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from kvserver.gateway.wal.tail import Position

EVERY: Final = 256 << 10
"""Bytes of the log between two places: what has to be read for one revision."""


class LogIndex:
    """Places at which records begin, in order: each is behind all revisions up to its own."""

    def __init__(self) -> None:
        self._revisions: list[int] = []
        self._lsns: list[int] = []

    def __len__(self) -> int:
        return len(self._revisions)

    def note(self, position: Position) -> None:
        """A record begins at `position`, or will; kept unless one that is little before is known."""
        at = bisect_right(self._lsns, position.lsn)
        if at and position.lsn - self._lsns[at - 1] < EVERY:
            return
        self._lsns.insert(at, position.lsn)
        self._revisions.insert(at, position.revision)

    def before(self, revision: int) -> Position | None:
        """The last place that is not behind `revision`; None: there is none."""
        at = bisect_right(self._revisions, revision)
        return Position(self._lsns[at - 1], self._revisions[at - 1]) if at else None

    def forget(self, lsn: int) -> None:
        """What is below `lsn` is not kept any more."""
        at = bisect_right(self._lsns, lsn - 1)
        del self._lsns[:at], self._revisions[:at]
