"""What a running store needs done beside its processes, in threads: all of it may take as long as the disk does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from kvserver.access import tickets
from kvserver.serve.watch.scarcity import Patience
from shards.host.board import Board
from shards.log import pins
from shards.log.appender import LogAppender
from shards.log.files import LogBroken, LogError
from shards.log.segments import Segments, trim_limit

log = logging.getLogger(__name__)

LOOK_S = 0.02
"""Between looks at whether a segment is wanted: a burst of large values writes tens of megabytes in that time."""

FULL_S = 0.5
"""Between tries to make a segment where there was no space for one."""

TRIM_S = 1.0
MARK_S = 1.0
TICKETS_S = 10.0
STOP_S = 5.0


class Housekeeping:
    """Keeps segments ready and trimmed, marks the log's end when it is idle, removes tickets that have ended.

    Attributes:
        failure: what ended a thread, if anything did: the server must end too.
    """

    def __init__(self, board: Board, segments: Segments, retention: int, replay_lsn: int) -> None:
        """`retention`: bytes of log to keep at least; `replay_lsn`: where a restart replays from."""
        self.failure: Exception | None = None
        self._board, self._retention, self._replay_lsn = board, retention, replay_lsn
        board.log.snapshot = replay_lsn
        self._segments, self._full, self._patience = segments, False, Patience()
        self._stopping, self._stop_marks = threading.Event(), threading.Event()
        self._threads = {
            "segments": self._thread(self._keep_segments),
            "marks": self._thread(self._mark),
            "tickets": self._thread(self._sweep_tickets),
        }

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads.values():
            thread.start()

    def snapshot_taken(self, replay_lsn: int) -> None:
        """A restart replays from there now, as the durable manifest says."""
        self._replay_lsn = replay_lsn
        self._board.log.snapshot = replay_lsn

    def stop_marking(self) -> None:
        """Append nothing more."""
        self._stop_marks.set()
        self._join("marks")

    def stop(self) -> None:
        """End the threads. One that waits for a hung disk is left behind: it dies with the process."""
        self._stopping.set()
        self.stop_marking()
        self._join("segments")
        self._join("tickets")

    def _join(self, name: str) -> None:
        if self._threads[name].is_alive():
            self._threads[name].join(STOP_S)

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:  # whatever it is: without this thread the server cannot go on
                log.debug("housekeeping failed", exc_info=True)
                self.failure = error

        return threading.Thread(target=run, name=work.__name__, daemon=True)

    def _keep_segments(self) -> None:
        trim_in_s = 0.0
        while True:
            # A full disk leaves no room for what only the feed would read.
            self._patience.attempt("making room for the log", self._make_room)
            self._tell_of_a_full_disk()
            pause_s = FULL_S if self._board.log.full else LOOK_S
            trim_in_s -= pause_s
            if trim_in_s <= 0:
                self._patience.attempt("trimming the log", self._trim)
                trim_in_s = TRIM_S
            if self._stopping.wait(pause_s):
                return

    def _make_room(self) -> None:
        self._segments.prepare_next(self._expendable)

    def _trim(self) -> None:
        needed = self._needed()  # before the holds are looked at: see `holds`
        self._segments.trim(trim_limit(self._board.history()[0], needed, self._retention, self._holds()))

    def _expendable(self) -> int:
        """The LSN below which the log may go if there is no space otherwise."""
        needed = self._needed()
        return min((needed, *self._holds()))

    def _holds(self) -> tuple[int, ...]:
        return pins.pinned_lsns(Path(self._board.facts.lock_dir))

    def _needed(self) -> int:
        """The LSN from which on a restart needs the log."""
        # In memory there is no restart of the server, but a shard that restarts replays what it left open.
        return self._board.watermark()[0] if self._board.facts.in_memory else self._replay_lsn

    def _tell_of_a_full_disk(self) -> None:
        full = bool(self._board.log.full)
        if full and not self._full:
            log.warning("there is no space for more of the log: soon only deletes are taken, until there is")
        elif self._full and not full:
            log.info("there is space for the log again")
        self._full = full

    def _sweep_tickets(self) -> None:
        while not self._stopping.wait(TICKETS_S):
            try:
                tickets.sweep(self._board)
            except OSError as error:
                log.debug("tickets that have ended stay for now: %s", error)

    def _mark(self) -> None:
        opened: list[LogAppender] = []
        while not self._patience.attempt("marking the log", lambda: opened.append(LogAppender(self._board, None))):
            if self._stop_marks.wait(MARK_S):
                return
        marks = opened[0]
        try:
            while not self._stop_marks.wait(MARK_S):
                try:
                    marks.append_mark(self._board.now())
                except LogBroken:
                    return  # the board says so to everybody
                except LogError as error:
                    log.debug("no mark was written: %s", error)  # nothing depends on it
        finally:
            marks.close()
