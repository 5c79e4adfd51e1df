"""Maintenance of a running store's log and tickets, in threads, because every step may wait for the disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from kvserver.access import tickets
from kvserver.serve.watch.scarcity import ScarcityRetry
from shards.host.board import Board
from shards.log import pins
from shards.log.appender import LogAppender
from shards.log.files import LogBroken, LogError
from shards.log.segments import Segments, trim_limit

log = logging.getLogger(__name__)

LOOK_S = 0.02
"""Interval of checks for a new segment: a burst of large values writes tens of megabytes in that time."""

FULL_S = 0.5
"""Interval of attempts to create a segment while the disk is full."""

TRIM_S = 1.0
MARK_S = 1.0
TICKETS_S = 10.0
STOP_S = 5.0


class Housekeeping:
    """Prepares and trims segments, appends marks to an idle log, and removes expired tickets.

    Attributes:
        failure: the exception that ended a thread, or None; the server must stop then.
    """

    def __init__(self, board: Board, segments: Segments, retention: int, replay_lsn: int) -> None:
        """`retention`: bytes of log to keep at least; `replay_lsn`: where a restart replays from."""
        self.failure: Exception | None = None
        self._board, self._retention, self._replay_lsn = board, retention, replay_lsn
        board.log.snapshot = replay_lsn
        self._segments, self._full, self._scarcity = segments, False, ScarcityRetry()
        self._stopping, self._stop_marks = threading.Event(), threading.Event()
        self._threads = {
            "segments": self._make_thread(self._keep_segments),
            "marks": self._make_thread(self._write_marks),
            "tickets": self._make_thread(self._sweep_tickets),
        }

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads.values():
            thread.start()

    def note_snapshot(self, replay_lsn: int) -> None:
        """Record that a restart now replays from `replay_lsn`, as the durable manifest says: the log may be trimmed."""
        self._replay_lsn = replay_lsn
        self._board.log.snapshot = replay_lsn

    def stop_marking(self) -> None:
        """Stop appending marks."""
        self._stop_marks.set()
        self._join_thread("marks")

    def stop(self) -> None:
        """Stop the threads. A thread that waits for a hung disk is abandoned and dies with the process."""
        self._stopping.set()
        self.stop_marking()
        self._join_thread("segments")
        self._join_thread("tickets")

    def _join_thread(self, name: str) -> None:
        if self._threads[name].is_alive():
            self._threads[name].join(STOP_S)

    def _make_thread(self, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:  # any error: the server cannot continue without this thread
                log.debug("housekeeping failed", exc_info=True)
                self.failure = error

        return threading.Thread(target=run, name=work.__name__, daemon=True)

    def _keep_segments(self) -> None:
        trim_in_s = 0.0
        while True:
            # On a full disk, segments that only the feed needs make way for new ones.
            self._scarcity.attempt("making room for the log", self._prepare_segments)
            self._log_disk_state()
            pause_s = FULL_S if self._board.log.full else LOOK_S
            trim_in_s -= pause_s
            if trim_in_s <= 0:
                self._scarcity.attempt("trimming the log", self._trim_log)
                trim_in_s = TRIM_S
            if self._stopping.wait(pause_s):
                return

    def _prepare_segments(self) -> None:
        self._segments.prepare_next(self._expendable_lsn)

    def _trim_log(self) -> None:
        needed = self._needed_lsn()  # before the pins are read: see `shards.log.pins`
        self._segments.trim(trim_limit(self._board.history()[0], needed, self._retention, self._pinned_lsns()))

    def _expendable_lsn(self) -> int:
        """Return the LSN below which the log may be dropped if the disk is full."""
        needed = self._needed_lsn()
        return min((needed, *self._pinned_lsns()))

    def _pinned_lsns(self) -> tuple[int, ...]:
        return pins.pinned_lsns(Path(self._board.facts.lock_dir))

    def _needed_lsn(self) -> int:
        """Return the LSN from which a restart needs the log."""
        # A store in memory does not outlive the server, but a restarted shard replays what it left unapplied.
        return self._board.watermark()[0] if self._board.facts.in_memory else self._replay_lsn

    def _log_disk_state(self) -> None:
        full = bool(self._board.log.full)
        if full and not self._full:
            log.warning("no space left for the log: soon only deletes are accepted until space is freed")
        elif self._full and not full:
            log.info("space for the log is available again")
        self._full = full

    def _sweep_tickets(self) -> None:
        while not self._stopping.wait(TICKETS_S):
            try:
                tickets.sweep_tickets(self._board)
            except OSError as error:
                log.debug("cannot remove expired tickets yet: %s", error)

    def _write_marks(self) -> None:
        opened: list[LogAppender] = []
        while not self._scarcity.attempt("marking the log", lambda: opened.append(LogAppender(self._board, None))):
            if self._stop_marks.wait(MARK_S):
                return
        marks = opened[0]
        try:
            while not self._stop_marks.wait(MARK_S):
                try:
                    marks.append_mark(self._board.now())
                except LogBroken:
                    return  # the board reports it to all processes
                except LogError as error:
                    log.debug("cannot append a mark: %s", error)  # nothing depends on a single mark
        finally:
            marks.close()
