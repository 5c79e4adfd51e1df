"""The log's segments: made ahead, used again, trimmed. By the supervisor alone.

A segment is filled with zeros before it is used, because flushing a few KB costs half as much again where a file grows
or is only allocated. It is filled in steps with pauses, since a burst of 64 MiB holds up concurrent flushes; under
a temporary name, so that what has a segment's name is whole; then synced, renamed, the directory synced, and only then
shown on the board as `ready`. A trimmed segment waits as a spare and becomes a segment the same way, uncleared: old
bytes carry another LSN.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path

from shards.files.disk import DISK, Disk
from shards.host.board import Board, LogWords
from shards.log import records
from shards.log.files import SEGMENT, segment_name, segment_numbers
from shards.wire.errors import NO_SPACE

_STEP = 4 << 20
_PAUSE_S = 0.02
_SPARES = 2  # trimmed segments kept to be used again
_SPARE_SUFFIX, _NEW_SUFFIX = ".spare", ".new"

log = logging.getLogger(__name__)


def make_segment(
    log_dir: Path, number: int, segment: int, disk: Disk = DISK, after_step: Callable[[], object] = lambda: None
) -> None:
    """Make segment `number`, all zeros, durable in name and content. Calls `after_step` after each 4 MiB.

    Raises `OSError`, after removing what it made.
    """
    temporary = log_dir / (segment_name(number) + _NEW_SUFFIX)
    fd = disk.create(temporary)
    try:
        disk.allocate(fd, 0, segment)  # too little space is said here, before anything is written
        zeros = bytes(min(_STEP, segment))
        for offset in range(0, segment, len(zeros)):
            part = zeros[: segment - offset]
            if disk.pwritev(fd, [part], offset) != len(part):
                raise OSError(errno.ENOSPC, "a segment could not be filled")
            disk.fdatasync(fd)
            after_step()
    except OSError as error:
        disk.unlink(temporary)
        raise OSError(error.errno, error.strerror, str(temporary)) from None
    finally:
        disk.close(fd)
    disk.rename(temporary, log_dir / segment_name(number))
    disk.sync_directory(log_dir)


def remove_behind(log_dir: Path, number: int, disk: Disk = DISK) -> None:
    """Remove, durably, the segments above `number`, all spares, and what was not finished. Raises `OSError`."""
    names = disk.names(log_dir)
    for doomed in reversed([n for n in segment_numbers(names) if n > number]):
        disk.unlink(log_dir / segment_name(doomed))
        disk.sync_directory(log_dir)  # one by one: a crash must never leave a gap, which is taken for damage
    for name in names:
        if name.endswith((_SPARE_SUFFIX, _NEW_SUFFIX)):
            disk.unlink(log_dir / name)
    disk.sync_directory(log_dir)


def remove_below_gap(log_dir: Path, number: int, disk: Disk = DISK) -> None:
    """Remove, durably, the segments below `number` that a missing one cuts off: no reader could continue from them.

    Raises `OSError`.
    """
    numbers = segment_numbers(disk.names(log_dir))
    joined = number
    while joined - 1 in numbers:
        joined -= 1
    for doomed in numbers:
        if doomed < joined:
            disk.unlink(log_dir / segment_name(doomed))
            disk.sync_directory(log_dir)


def trim_limit(tail: int, replay: int, retention: int, backups: tuple[int, ...] = ()) -> int:
    """Return the LSN below which the log may be trimmed.

    Kept are what a restart (from `replay`, as the durable manifest says) or a backup in progress needs, and the last
    `retention` bytes.
    """
    return max(0, min(tail - retention, replay, *backups))


class Segments:
    """Keeps a segment ready ahead of the log's end, and trims those that are no longer needed.

    Runs in one thread of the supervisor; every call may take as long as the disk does, but holds no lock.
    """

    def __init__(self, board: Board, *, segment: int = SEGMENT, disk: Disk = DISK) -> None:
        self._board, self._words, self._segment, self._disk = board, board.log, segment, disk
        self._log_dir, self._secret = Path(board.facts.log_dir), board.facts.secret
        self._gave_up = False

    def adopt_history(self, tail: int, next_revision: int) -> None:
        """Publish on a new board the history that recovery found, all of it flushed, and the segments there are.

        Writes the words of the history, `synced`, `ready`, `oldest` and `oldest_revision`. Raises `OSError`.
        """
        numbers = self._list_numbers()
        self._board.advance(tail, next_revision)
        self._words.synced = tail
        self._words.ready = (numbers[-1] + 1) * self._segment
        self._show_oldest(numbers[0])

    def prepare_next(self, expendable: Callable[[], int] = lambda: 0) -> bool:
        """Make one more segment if less than a whole one is ready after the log's end; whether it did.

        To be called again and again. If there is no space, the segments that lie wholly below the LSN `expendable()`
        are trimmed to make some; if there are none, `full` is set on the board, and cleared when there is space again.
        Raises `OSError` for anything else.
        """
        tail, _ = self._board.history()
        words, ready = self._words, self._words.ready
        if ready - tail >= self._segment:
            return False
        try:
            self._make_next(ready // self._segment)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            if self.trim(expendable()):
                self._say_what_is_given_up()
                return self.prepare_next(expendable)
            if not words.full:
                words.log_full_since_ms = self._board.now_ms()
                words.full = 1
            return False
        words.store_after_file(LogWords.ready, ready + self._segment)
        words.full = 0
        return True

    def trim(self, below: int) -> int:
        """Trim the segments wholly below the LSN `below`, and return their number. Some are kept as spares.

        The board's `oldest` and `oldest_revision` are raised first. Raises `OSError`.
        """
        numbers = self._list_numbers()
        doomed = [number for number in numbers[:-1] if (number + 1) * self._segment <= below]
        if not doomed:
            return 0
        self._show_oldest(doomed[-1] + 1)
        spares = len(self._list_spares())
        for number in doomed:
            path = self._log_dir / segment_name(number)
            if spares < _SPARES:
                self._disk.rename(path, path.with_name(path.name + _SPARE_SUFFIX))
                spares += 1
            else:
                self._disk.unlink(path)
            self._disk.sync_directory(self._log_dir)  # one by one: see `remove_behind`
        return len(doomed)

    def count(self) -> int:
        """Count the segments, without spares."""
        return len(self._list_numbers())

    def _say_what_is_given_up(self) -> None:
        if not self._gave_up:
            log.warning(
                "no space left for the log in %s: it keeps only what a restart needs, and feed clients that are "
                "further behind must start over",
                self._log_dir,
            )
        self._gave_up = True

    def _list_numbers(self) -> list[int]:
        return segment_numbers(self._disk.names(self._log_dir))

    def _list_spares(self) -> list[str]:
        return sorted(name for name in self._disk.names(self._log_dir) if name.endswith(_SPARE_SUFFIX))

    def _make_next(self, number: int) -> None:
        spares = self._list_spares()
        if not spares:
            make_segment(self._log_dir, number, self._segment, self._disk, self._pause_for_flushes)
            return
        self._disk.rename(self._log_dir / spares[0], self._log_dir / segment_name(number))
        self._disk.sync_directory(self._log_dir)

    def _pause_for_flushes(self) -> None:
        """Let flushes pass, unless less than half a segment is left: to wait for a segment would take longer."""
        if self._words.ready - self._board.history()[0] >= self._segment // 2:
            self._disk.pause(_PAUSE_S)

    def _show_oldest(self, number: int) -> None:
        """Publish segment `number` as the oldest, and the revision of its first record as the oldest to be read."""
        lsn = number * self._segment
        tail, following = self._board.history()
        if lsn < tail:
            fd = self._disk.open(self._log_dir / segment_name(number))
            try:
                header = records.decode_header(self._disk.pread(fd, records.HEADER, 0))
            finally:
                self._disk.close(fd)
            if header is not None and header.lsn == lsn:
                following = header.revision
        self._words.oldest = lsn
        self._words.oldest_revision = following
