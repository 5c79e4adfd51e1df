"""Recovery of a store at start: find the log's end, choose clock and epoch, and begin a run there.

The caller holds every lock of the store (`shards.log.recovery.quiesce`), so nothing of an earlier run still writes.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kvserver import __version__
from kvserver.serve.joining import Origin
from kvserver.serve.watch.clock import ClockWatch, is_away, out_of_range
from kvserver.settings import ServerSettings
from shards.host.board import DRIFT_MS
from shards.log.epoch import boot_id, first_revision, first_revision_of_run, new_epoch, reason_for_new_epoch
from shards.log.manifest import Manifest
from shards.log.records import Start
from shards.log.recovery import Recovered, begin_history, last_board, recover_log
from shards.maps.build import kept_applied
from shards.maps.layout import MetaReader
from shards.wire.clock import Now, counted_ms, resumed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run that has begun.

    Attributes:
        start: the START record in the log.
        tail: LSN of the log's end after that record.
        next_revision: revision of the run's first change.
        now: when the run began.
        manifest: the store's manifest, which already names the run.
        clock: compares the clocks during the run.
        shown: up to where a machine of a cluster may show its log at first: LSN and revision.
    """

    start: Start
    tail: int
    next_revision: int
    now: Now
    manifest: Manifest
    clock: ClockWatch
    shown: tuple[int, int]


@dataclass(frozen=True)
class Time:
    """The time a run begins with.

    Attributes:
        now: wall clock and steady time.
        offset_ms: added to CLOCK_BOOTTIME to make steady time.
        reset_ms: how far --clock-reset moves steady time; None if it does not.
        watch: compares the clocks from now on.
    """

    now: Now
    offset_ms: int
    reset_ms: int | None
    watch: ClockWatch


@dataclass(frozen=True)
class Bringup:
    """Brings the log of a store up.

    Attributes:
        settings: as given to the server.
        data_dir: absolute; None for a store in memory.
        manifest: the store's manifest, saved if there is a data directory.
        board_path, log_dir, map_dir: where board, log and maps are.
        read_meta: reads the head of a map; a torn map must not end this process.
        origin: what the machines of the cluster agree on; None: there is no cluster.
    """

    settings: ServerSettings
    data_dir: Path | None
    manifest: Manifest
    board_path: Path
    log_dir: Path
    map_dir: Path
    read_meta: MetaReader
    origin: Origin | None = None

    def begin_run(self) -> Run:
        """Recover the log, append a START record to it and save the manifest that names the run.

        Raises `Damaged`, `LogError`, `ManifestError`, `OSError`.
        """
        boot = boot_id()
        # Loaded again under the locks: a snapshot of the last run may have finished in the meantime.
        manifest = self.manifest if self.data_dir is None else Manifest.load(self.data_dir)
        found = self._recover_log(manifest, boot)
        begun = self._choose_time(found, boot)
        epoch, next_revision = self._choose_epoch(manifest, found, boot, begun.now.wall_ms)
        start = Start(
            store=manifest.store,
            epoch=epoch,
            boot_id=boot,
            sync=self.settings.sync,
            version=__version__,
            clock_offset_ms=begun.offset_ms,
            reset_ms=begun.reset_ms,
        )
        tail, next_revision = begin_history(self.log_dir, manifest.secret, start, found.tail, next_revision, begun.now)
        manifest = self._save_manifest(manifest, start, tail, next_revision, begun.now)
        shown = self._find_shown(manifest, found, tail, next_revision)
        return Run(start, tail, next_revision, begun.now, manifest, begun.watch, shown)

    def _find_shown(self, manifest: Manifest, found: Recovered, tail: int, next_revision: int) -> tuple[int, int]:
        """Return up to where every machine of the cluster has the log, as far as the last run knew."""
        shown = manifest.replay_lsn, manifest.replay_revision
        if found.order is not None:
            shown = max(shown, (found.order.shown_lsn, found.order.shown_revision))
        is_all = shown[1] >= found.next_revision - 1 or self.settings.reads == "local"
        return (tail, next_revision - 1) if is_all else shown

    def _recover_log(self, manifest: Manifest, boot: str) -> Recovered:
        old = last_board(self.board_path, manifest, boot)
        try:
            return recover_log(
                self.log_dir,
                manifest.secret,
                manifest.replay_lsn,
                manifest.replay_revision,
                last_start=manifest.last_start,
                last=manifest.end_now,
                end_lsn=manifest.end_lsn,
                old_board=old,
                applied=kept_applied(self.map_dir, manifest.store, boot, manifest.epoch, self.read_meta),
            )
        finally:
            if old is not None:
                old.close()

    def _choose_time(self, found: Recovered, boot: str) -> Time:
        """Continue steady time from the last run, or align it with the wall clock if --clock-reset asks for that.

        In a cluster lifetimes count by the order's time, which is wall time.
        """
        clock_ms, boottime_ms, last = time.time_ns() // 1_000_000, _boottime_ms(), found.last_start
        wall_ms = counted_ms(clock_ms)
        if self.origin is not None:
            return Time(Now(wall_ms, wall_ms), wall_ms - boottime_ms, None, ClockWatch(*[Now(wall_ms, wall_ms)] * 2))
        offset_ms = resumed(
            found.last, wall_ms, boottime_ms, last.clock_offset_ms if last and last.boot_id == boot else None
        )
        now, reset_ms = Now(wall_ms, boottime_ms + offset_ms), None
        # Small drift is ignored, so that lifetimes are reported to end exactly when they were before the restart.
        if abs(found.last.behind_ms - now.behind_ms) <= DRIFT_MS:
            now = Now(now.steady_ms - found.last.behind_ms, now.steady_ms)
        if self.settings.clock_reset and is_away(found.last, now):
            log.warning("the clock is taken as right: items written while it was ahead count as written now")
            reset_ms = -now.behind_ms
            now, offset_ms = Now(wall_ms, wall_ms), offset_ms + reset_ms
            watch = ClockWatch(now, now)
        else:
            watch = ClockWatch(found.last, now)
        if wall_ms != clock_ms:
            log.warning("%s", out_of_range(clock_ms))
        if (message := watch.start_message()) is not None:
            log.warning("%s", message)
        return Time(now, offset_ms, reset_ms, watch)

    def _choose_epoch(self, manifest: Manifest, found: Recovered, boot: str, now_ms: int) -> tuple[str, int]:
        """Return the epoch that the run continues or begins, and its next revision."""
        if self.origin is not None:  # what is missing of the log comes again, with the revisions it had
            return self.origin.epoch, max(found.next_revision, self.origin.first_revision)
        reason = reason_for_new_epoch(
            found.last_start,
            boot,
            stopped_clean=found.stopped_clean,
            in_memory=self.settings.in_memory,
            copied=self._is_copy(manifest),
            repaired=found.repaired,
            asked=manifest.new_history,
        )
        last_known = max(found.next_revision - 1, manifest.end_revision)
        if reason is None and found.last_start is not None:
            return found.last_start.epoch, first_revision_of_run(last_known, now_ms)
        if found.last_start is not None:
            log.warning("a new history begins, so feed readers must start over: %s", reason)
        return new_epoch(), first_revision(last_known, now_ms)

    def _is_copy(self, manifest: Manifest) -> bool:
        # Compare inodes only: a device number may change at each boot.
        return self.data_dir is not None and self.data_dir.stat().st_ino != manifest.inode

    def _save_manifest(self, manifest: Manifest, start: Start, tail: int, next_revision: int, now: Now) -> Manifest:
        """Record the run in the manifest before any snapshot can move its START record out of the log's reach."""
        manifest = msgspec.structs.replace(
            manifest,
            epoch=start.epoch,
            last_start=start,
            end_lsn=tail,
            end_revision=next_revision - 1,
            end_wall_ms=now.wall_ms,
            end_steady_ms=now.steady_ms,
            new_history="",
        )
        if self.data_dir is not None:
            status = self.data_dir.stat()
            manifest = msgspec.structs.replace(manifest, device=status.st_dev, inode=status.st_ino)
            manifest.save(self.data_dir)
        return manifest


def _boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
