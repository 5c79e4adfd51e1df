"""When the next snapshot is due: after enough log, or when the disk is full and a snapshot lets the log be trimmed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from kvserver.serve.watch.housekeeping import Housekeeping
from shards.host.board import Board, ProcessRow
from shards.log.files import SEGMENT
from shards.log.manifest import Manifest, ManifestError

log = logging.getLogger(__name__)

RETRY_S, FULL_RETRY_S = 60.0, 5.0
"""Seconds until a failed snapshot is retried: while the disk has space for the log, and while writes wait for space."""


class SnapshotSchedule:
    """Decides when to take a snapshot, and passes a finished one on to housekeeping, which trims the log."""

    def __init__(self, board: Board, data_dir: Path | None, housekeeping: Housekeeping) -> None:
        """`data_dir`: None for a store in memory, which takes no snapshots."""
        self._board, self._data_dir, self._housekeeping = board, data_dir, housekeeping
        self._failed_at = float("-inf")

    def is_due(self, now: float) -> bool:
        """Return whether to take a snapshot. `now`: time.monotonic()."""
        words, shards = self._board.log, self._board.shards
        retry_s = FULL_RETRY_S if words.full else RETRY_S
        if self._data_dir is None or now < self._failed_at + retry_s:
            return False
        if words.full:
            wanted = self._makes_space(self._data_dir)
        else:
            maps = sum(row.read_figures()["map_bytes"] for row in shards)
            wanted = self._board.history()[0] - words.snapshot > snapshot_after(maps)
        return wanted and all(row.state == ProcessRow.UP and row.map_generation for row in shards)

    def _makes_space(self, data_dir: Path) -> bool:
        """Return whether a snapshot would let a segment be trimmed, and is likely to fit."""
        if self._board.watermark()[0] // SEGMENT <= self._board.log.snapshot // SEGMENT:
            return False
        status = os.statvfs(data_dir)
        # It takes at least the bytes of its keys and values.
        return sum(row.read_figures()["bytes"] for row in self._board.shards) < status.f_bavail * status.f_frsize

    def note_end(self, status: int, now: float) -> None:
        """Handle the end of a snapshot process with exit status `status`: trim the log, or retry later.

        `now`: time.monotonic().
        """
        if status != 0:
            log.warning("a snapshot failed with exit status %d, will retry", status)
            self._failed_at = now
            return
        assert self._data_dir is not None
        try:
            manifest = Manifest.load(self._data_dir)
        except ManifestError as error:
            log.warning("a snapshot was taken, but the log cannot be trimmed and another will be taken: %s", error)
            self._failed_at = now
            return
        self._housekeeping.note_snapshot(manifest.replay_lsn)


def snapshot_after(map_bytes: int) -> int:
    """Return how many bytes of log make a new snapshot worthwhile if the maps take `map_bytes`. Pure."""
    return min(max(256 << 20, map_bytes // 4), 2 << 30)
