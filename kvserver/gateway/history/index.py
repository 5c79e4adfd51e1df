"""The index of the log: where a revision is, roughly, by a place every so many bytes. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from kvserver.gateway.wal.tail import Position

EVERY: Final = 256 << 10
"""Bytes of the log between two places: so much has to be read to find one revision."""


class LogIndex:
    """Places at which records begin, in order. Each is after all revisions up to its own."""

    def __init__(self) -> None:
        self._revisions: list[int] = []
        self._lsns: list[int] = []

    def __len__(self) -> int:
        return len(self._revisions)

    def note(self, position: Position) -> None:
        """Add the place `position`, where a record begins or will, unless one shortly before is known."""
        at = bisect_right(self._lsns, position.lsn)
        if at and position.lsn - self._lsns[at - 1] < EVERY:
            return
        self._lsns.insert(at, position.lsn)
        self._revisions.insert(at, position.revision)

    def before(self, revision: int) -> Position | None:
        """Return the last place that is not after `revision`; None: no such place is known."""
        at = bisect_right(self._revisions, revision)
        return Position(self._lsns[at - 1], self._revisions[at - 1]) if at else None

    def forget(self, lsn: int) -> None:
        """Remove the places below `lsn`: the log was trimmed."""
        at = bisect_right(self._lsns, lsn - 1)
        del self._lsns[:at], self._revisions[:at]
