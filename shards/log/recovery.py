"""Recovers the log before the first append: finds its end, cuts a torn tail, begins a run.

The log is read from the manifest's position while magic, LSN, CRC and revision fit. The rest is a **torn tail**, which
any crash may leave and no client was promised, unless something says that it had been flushed: the `synced` of a record
after it, or, as long as the machine has not been booted since, the `synced` of the old board or the position up to
which a map was applied. Then it is **damage**, and nothing is touched. So is a log that ends before the end that the
manifest knows of, a segment that is missing below that end or below a later segment, and one that is not whole.

A torn tail is cut: zeroed to its segment's end, everything after it removed, so that nothing of it can ever continue
the log again. Bytes above the highest `synced` found may be in the page cache alone, even if a flush seemed to
succeed after one that failed: it is written again and flushed before it is trusted.

Every function here needs a log at rest: see `quiesce`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from shards.files import locks
from shards.files.disk import DISK, Disk
from shards.host.board import Board, BoardError, BoardOutOfReach
from shards.log import records
from shards.log.files import SEGMENT, segment_name, segment_numbers
from shards.log.image import LogFold, LogImage
from shards.log.manifest import Manifest
from shards.log.records import HEADER, NO_SHARD, START, STOP, OrderPosition, Record, Start
from shards.log.segments import make_segment, remove_behind, remove_below_gap
from shards.wire.clock import BEGINNING, Now


class Damaged(Exception):
    """Flushed bytes of the log are gone or changed; the message names segment and offset."""

    def __init__(self, lsn: int, segment: int, why: str) -> None:
        self.lsn, self.segment, self.offset = lsn, segment_name(lsn // segment), lsn % segment
        super().__init__(self._describe(why))

    def _describe(self, why: str) -> str:
        return (
            f"the log is damaged in segment {self.segment} at byte {self.offset}: {why}; "
            "restore the store from a backup, or see what `kvserver check --repair` would give up"
        )


class OlderCopy(Damaged):
    """The log ends in order, but the memory of the last run is ahead of it: the data directory was put back."""

    def _describe(self, why: str) -> str:
        return (
            f"this is an older copy of the data directory than was served last: its log ends in segment {self.segment} "
            f"at byte {self.offset}, {why}; put the newer one back, or, to continue with this one and give up later "
            "changes, run `kvserver check --repair`"
        )


class StillRunning(Exception):
    """A process of an earlier run holds a lock of the store; the message names the lock's file."""


class Recovered(NamedTuple):
    """The result of a recovery.

    Attributes:
        tail: LSN at which the log ends. Everything below is flushed now.
        next_revision: the revision that comes next.
        synced: the highest LSN that something said was flushed.
        last: the latest moment on record, by the steady clock.
        last_start: the last START, or what was given as such; None if the store never ran.
        stopped_clean: a STOP is the last record.
        repaired: the log was damaged at `tail` and was cut there knowingly.
        order: how far the machine had followed the order of its cluster, by the last record that says so; None: there
            is none after the replay position.
    """

    tail: int
    next_revision: int
    synced: int
    last: Now
    last_start: Start | None
    stopped_clean: bool
    repaired: bool
    order: OrderPosition | None = None


class Examined(NamedTuple):
    """What the log's files hold, before anything is changed.

    Attributes:
        fold: over the records that fit, from the replay position on.
        losses: LSN and description of what is missing of segments.
        behind: the records after the first one that does not fit, without payloads.
        synced: the highest LSN of what fits that something said was flushed.
        damage: where flushed bytes are gone or changed; None: what does not fit is a torn tail, if anything.
    """

    fold: LogFold
    losses: list[tuple[int, str]]
    behind: list[Record]
    synced: int
    damage: Damaged | None


def last_board(path: Path, manifest: Manifest, boot_id: str, believed: Collection[int] | None = None) -> Board | None:
    """Open the board that the last run of the store's history left at `path`, if the machine was not booted since; else
    None.

    The caller closes it. `believed` is that of `Board.open`.

    Raises `BoardOutOfReach`: what it says of the last flush must not be missed.
    """
    try:
        board = Board.open(path, believed)
    except BoardOutOfReach:
        raise
    except BoardError:
        return None
    facts = board.facts
    if (facts.store, facts.boot_id, facts.epoch) == (manifest.store, boot_id, manifest.epoch):
        return board
    board.close()
    return None


def examine_log(
    log_dir: Path,
    manifest: Manifest,
    *,
    old_board: Board | None = None,
    applied: Iterable[int] = (),
    segment: int = SEGMENT,
    disk: Disk = DISK,
) -> Examined:
    """Examine the log from the replay position of `manifest` on; change nothing. Arguments as of `recover_log`."""
    image = LogImage(log_dir, manifest.secret, segment, disk)
    fold = LogFold(manifest.replay_lsn, manifest.replay_revision + 1, manifest.last_start, manifest.end_now)
    try:
        return _examine_image(image, fold, segment, manifest.end_lsn, old_board, applied)
    finally:
        image.close()


def _examine_image(
    image: LogImage, fold: LogFold, segment: int, end_lsn: int, old_board: Board | None, applied: Iterable[int]
) -> Examined:
    """Take the records that fit into `fold`, and judge the rest."""
    losses = list(image.losses(fold.lsn, max(fold.lsn, end_lsn)))
    image.fold(fold)
    behind = image.behind(fold.lsn)
    in_files = [fold.synced, end_lsn, *(r.synced for r in behind)]
    flushed = [*in_files, *([old_board.log.synced] if old_board else [])]
    there = [*flushed, *applied]  # a map may be ahead of the flush, not of the page cache
    damage = None
    if losses:
        damage = Damaged(losses[0][0], segment, losses[0][1])
    elif not records.is_torn(fold.lsn, there):
        more = max(there) - fold.lsn
        if records.is_torn(fold.lsn, in_files) and not behind and not image.has_traces(fold.lsn, fold.next_revision):
            damage = OlderCopy(fold.lsn, segment, f"and what is in memory of this boot continues for {more} bytes")
        else:
            damage = Damaged(fold.lsn, segment, f"no record can be read there, but the log went on for {more} bytes")
    return Examined(fold, losses, behind, min(max(flushed), fold.lsn), damage)


def recover_log(
    log_dir: Path,
    secret: int,
    replay_lsn: int,
    replay_revision: int,
    *,
    last_start: Start | None = None,
    last: Now = BEGINNING,
    end_lsn: int = 0,
    old_board: Board | None = None,
    applied: Iterable[int] = (),
    repair: bool = False,
    segment: int = SEGMENT,
    disk: Disk = DISK,
) -> Recovered:
    """Find the log's end and make everything below it durable; see the module's docstring.

    Args:
        replay_lsn, replay_revision: the manifest's replay position: an LSN, and the last revision below it.
        last_start, last: the run in which the manifest was written, and when that was; for a log without a record
            after the replay position.
        end_lsn: where the log ended, durably, when the manifest was written.
        old_board: the board that the last run left, only if the machine was not booted since.
        applied: LSNs up to which maps were applied, only of maps made since the machine was booted.
        repair: cut at damage instead of raising `Damaged`.

    Raises `Damaged`, having changed nothing; `OSError`. May be killed and called again.
    """
    image = LogImage(log_dir, secret, segment, disk)
    try:
        fold = LogFold(replay_lsn, replay_revision + 1, last_start, last)
        found = _examine_image(image, fold, segment, end_lsn, old_board, applied)
        if found.damage and not repair:
            raise found.damage
        for lsn, _ in found.losses:
            image.cut(lsn)
        clean = fold.kind == STOP and not found.damage
        if found.behind or not clean:
            image.cut(fold.lsn)
        image.write_again(found.synced, fold.lsn)
        image.sync(min([found.synced, *(lsn for lsn, _ in found.losses)]))
        remove_behind(log_dir, fold.lsn // segment, disk)
        if found.losses:
            remove_below_gap(log_dir, fold.lsn // segment, disk)
    finally:
        image.close()
    damaged = found.damage is not None
    return Recovered(fold.lsn, fold.next_revision, found.synced, fold.last, fold.last_start, clean, damaged, fold.order)


def begin_history(
    log_dir: Path,
    secret: int,
    start: Start,
    tail: int,
    next_revision: int,
    now: Now,
    *,
    segment: int = SEGMENT,
    disk: Disk = DISK,
) -> tuple[int, int]:
    """Append the START of a run to a recovered or new log, durably; the new tail and next revision.

    `tail` is the log's, as recovered; of a new log 0. `next_revision` is the first that the run may give out.
    Makes the segment that the START goes to, if need be. Raises `OSError`.
    """
    payload = start.encode()
    size = HEADER + len(payload)
    lsn = records.place(tail, size, segment)
    record = Record(START, NO_SHARD, 0, lsn, lsn + size, tail, next_revision, now.wall_ms, payload, now.behind_ms)
    if lsn // segment not in segment_numbers(disk.names(log_dir)):
        make_segment(log_dir, lsn // segment, segment, disk)
    image = LogImage(log_dir, secret, segment, disk)
    try:
        if lsn - tail >= HEADER:
            image.write(tail, records.filler(tail, lsn - tail - HEADER, tail, now, secret))
        image.write(lsn, records.encode(record, secret))
        image.sync(tail)
    finally:
        image.close()
    return lsn + size, next_revision


@contextmanager
def quiesce(lock_dir: Path, timeout_s: float = 30.0) -> Iterator[None]:
    """Hold the locks of append, flush, snapshots and every shard that ever was, so that log and manifest do not change.

    Waits up to `timeout_s` seconds in all for the dying: SIGKILL takes effect after a write, and not while a disk
    hangs. The store's own lock is the caller's. Raises `StillRunning`.
    """
    give_up_at = time.monotonic() + timeout_s
    with ExitStack() as held:
        for path in [*(lock_dir / name for name in ("append", "flush", "snapshot")), *sorted(lock_dir.glob("shard-*"))]:
            fd = locks.open_lock(path)
            held.callback(os.close, fd)
            take = _try_turn if path.name in ("append", "flush") else locks.try_acquire_for_life
            while not take(fd):
                if time.monotonic() >= give_up_at:
                    raise StillRunning(f"a process of an earlier run still holds {path}")
                time.sleep(0.01)
        yield


def _try_turn(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
