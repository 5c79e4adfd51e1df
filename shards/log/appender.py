"""Appends to the log and flushes it: the one order of all changes.

All shards append to one log, in turns of microseconds, and everything else (map, snapshot, feed) is a view of
it. An event's revision is its place in that order.

**Append**: take the append lock; name the record in the row's open words; write it at the tail; show the new end on
the board; unlock. **Flush**: unless the log is flushed to my end: take the flush lock; unless it is by now: take the
tail, fdatasync every segment that holds a byte between what is flushed and that tail; show it. So one flush covers
every shard that appended before it. A process may be killed between any two steps: what it left behind the tail is
overwritten by the next append, and a lock dies with its holder.

A failed append leaves nothing visible. A failed flush is final: the kernel reports it once and forgets, so the next
caller's would succeed and the page cache shows what the disk does not have. It sets `broken`, after which every append,
flush and acknowledgement is refused, and the server ends. If a process is killed during a flush, the error is lost with
it, so the next one writes the same bytes again before it flushes them.

Appenders enter only segments that the supervisor has made ready (`segments`). `recovery` finds the end at start.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from shards.files.disk import DISK, Disk
from shards.host.board import Board, LogWords
from shards.host.logs import Recurring
from shards.log import records
from shards.log.files import SEGMENT, GivenUp, LogBroken, LogError, LogFull, SegmentFiles
from shards.log.records import DATA, HEADER, MARK, NO_SHARD, ORDER, STOP, OrderPosition, Record
from shards.wire.clock import Now
from shards.wire.errors import NO_SPACE

_WAIT_S = 0.002  # between looks at whether the next segment is ready
_FLUSH_EVERY_S = 1.0
_CHUNK = 1 << 20

log = logging.getLogger(__name__)
_not_flushed = Recurring(log, logging.WARNING, "%s; will retry")


class LogAppender:
    """A handle to append and flush: of a shard, or (`shard` None) of the supervisor. One for each thread that uses it.

    Only a shard's own process may append with its handle: it writes the open words of the shard's row.

    Attributes:
        give_up: asked while an append waits for a segment: whether its process is to stop.
    """

    def __init__(self, board: Board, shard: int | None, *, segment: int = SEGMENT, disk: Disk = DISK) -> None:
        """`segment`: bytes of a segment, the same for every process of the store."""
        facts = board.facts
        self._board, self._words, self._disk, self._segment = board, board.log, disk, segment
        self._row = None if shard is None else board.shards[shard]
        self._shard = NO_SHARD if shard is None else shard
        self._in_memory = facts.in_memory
        self._append_turn = disk.turn(Path(facts.lock_dir) / "append")
        self._flush_turn = disk.turn(Path(facts.lock_dir) / "flush")
        self._files = SegmentFiles(Path(facts.log_dir), disk)
        self._last = (b"", b"")  # header and payload
        self._segment_entered = 0  # the number of the last one that was written to
        self._seen_tail = self._marked = 0
        self._flusher: _Flusher | None = None
        self.give_up: Callable[[], bool] = lambda: False

    @property
    def appended(self) -> bytes:
        """The record appended last, as bytes of the log."""
        return b"".join(self._last)

    def append(self, payload: bytes, events: int, now: Now) -> Record:
        """Put one record of `events` revisions at the log's end and set the row's open words, which its owner clears
        when it has applied the record. Does not flush.

        Waits while the next segment is being made, with heartbeats in the row. Raises `LogFull` if none can be made,
        `GivenUp` if `give_up` says so in the meantime, `LogBroken` after a failed flush, `LogError` if writing fails
        or the record is larger than a segment. Then nothing is appended and the open words are clear.
        """
        return self._append_record(DATA, payload, events, now)

    def append_order(self, position: OrderPosition, now: Now) -> Record:
        """Append an ORDER record after the records of the messages that it counts. Does not flush.

        It has no events, so no reader waits for it. Raises as `append` does.
        """
        return self._append_record(ORDER, position.encode(), 0, now)

    def append_stop(self, now: Now) -> Record:
        """Append, durably in every sync mode, that everything is flushed and the run is over. Then nothing may be
        appended.

        Raises as `append` and `flush` do.
        """
        self.flush(self._board.history()[0])
        record = self._append_record(STOP, b"", 0, now)
        self.flush(record.end)
        return record

    def append_mark(self, now: Now) -> Record | None:
        """Flush an idle log and append a MARK that says so, once. Call it once a second.

        Does nothing if something was appended since the last call, nor in memory. By the MARK a later recovery can tell
        damage before it from a torn tail. Raises as `append` and `flush` do.
        """
        tail, _ = self._board.history()
        if self._in_memory or tail != self._seen_tail or tail == self._marked:
            self._seen_tail = tail
            return None
        self.flush(tail)
        record = self._append_record(MARK, b"", 0, now)
        self.flush(record.end)
        self._seen_tail = self._marked = record.end
        return record

    def flush(self, end: int) -> None:
        """Make every byte of the log below `end` durable. Does nothing in memory.

        Raises `LogBroken` if that fails, and ever after; `LogError` if a segment cannot even be opened, for want of
        descriptors for instance: then nothing was tried.
        """
        words = self._words
        self._raise_if_broken()
        if self._in_memory or words.synced >= end:
            return
        with self._flush_turn:
            self._raise_if_broken()
            if words.synced < end:
                self._flush_in_turn()
        self._files.close(below=words.synced // self._segment)

    def flush_every_second(self) -> None:
        """Start a thread that flushes the log each second until `close`, for `everysec`.

        A failure sets `broken` on the board, so the next append raises it.
        """
        self._flusher = _Flusher(LogAppender(self._board, None, segment=self._segment, disk=self._disk), self._board)
        self._flusher.start()

    def close(self) -> None:
        """Close the files and stop the thread, which flushes once more."""
        if self._flusher is not None:
            self._flusher.stop()
        self._files.close()
        self._append_turn.close()
        self._flush_turn.close()

    def _raise_if_broken(self) -> None:
        if self._words.broken:
            raise LogBroken("a flush of the log failed; the server must end")

    def _flush_in_turn(self, beyond: int = 0) -> None:
        """Flush, as the holder of the flush lock; also the segments up to `beyond`, which the log may not reach yet."""
        words, segment, synced = self._words, self._segment, self._words.synced
        tail, _ = self._board.history()
        numbers = range(synced // segment, (max(tail, beyond) - 1) // segment + 1)
        try:
            files = [self._files[number] for number in numbers]
        except OSError as error:  # no disk has failed
            raise LogError(f"the log could not be opened to be flushed: {error}") from error
        try:
            if words.flushing:  # its process died, perhaps with the only report of a failure
                self._write_again(synced, tail)
            words.flushing = 1
            for fd in files:
                self._disk.fdatasync(fd)
        except OSError as error:
            words.broken = 1
            raise LogBroken(f"the log could not be flushed: {error.strerror}") from error
        words.flushing = 0
        words.synced = tail

    def _write_again(self, begin: int, end: int) -> None:
        """Write the bytes from `begin` to `end` unchanged, so that the kernel takes them for not yet written."""
        while begin < end:
            number, offset = divmod(begin, self._segment)
            data = self._disk.pread(self._files[number], min(end - begin, self._segment - offset, _CHUNK), offset)
            if not data or self._disk.pwritev(self._files[number], [data], offset) != len(data):
                raise OSError(errno.EIO, "bytes that may not be on the disk could not be written again")
            begin += len(data)

    def _append_record(self, kind: int, payload: bytes, events: int, now: Now) -> Record:
        if HEADER + len(payload) > self._segment:
            raise LogError(f"a record of {len(payload)} bytes does not fit a segment of {self._segment}")
        begun = records.checksum(payload, self._board.facts.secret)
        while True:
            with self._append_turn:
                record = self._append_in_turn(kind, payload, events, now, begun)
            if record is not None:
                return record
            self._wait_for_segment()

    def _append_in_turn(self, kind: int, payload: bytes, events: int, now: Now, begun: int) -> Record | None:
        """Append, as the holder of the append lock; None if the segment that it needs is not ready."""
        words, row, segment = self._words, self._row, self._segment
        self._raise_if_broken()
        tail, revision = self._board.history()
        lsn = records.place(tail, HEADER + len(payload), segment)
        if words.load_before_file(LogWords.ready) < lsn - lsn % segment + segment:
            return None
        synced, length = words.synced, len(payload)
        if row is not None and events:
            # The tail, not `lsn`: should this process die now, a smaller record may go before the segment's end.
            row.set_open(revision, tail)
        try:
            if lsn - tail >= HEADER:
                left = lsn - tail - HEADER
                self._write_parts(tail, [records.filler(tail, left, synced, now, self._board.facts.secret)])
            header = records.seal(kind, self._shard, events, length, lsn, synced, revision, now, begun)
            self._write_parts(lsn, [header, payload])
        except (OSError, LogBroken) as error:
            if row is not None:
                row.clear_open()
            self._raise_if_broken()
            full = isinstance(error, OSError) and error.errno in NO_SPACE
            raise (LogFull if full else LogError)(f"the log could not be written: {error}") from error
        end = lsn + HEADER + length
        self._board.advance(end, revision + events)
        self._last = header, payload
        return Record(kind, self._shard, events, lsn, end, synced, revision, now.wall_ms, payload, now.behind_ms)

    def _write_parts(self, lsn: int, parts: list[bytes]) -> None:
        number, offset = divmod(lsn, self._segment)
        if number > self._segment_entered:  # a handle that never flushes has no other reason to close files
            self._segment_entered = number
            self._files.close(below=number - 1)
        size = sum(map(len, parts))
        written = self._disk.pwritev(self._files[number], parts, offset)
        if written != size:  # a file system that fills up writes a part and reports no error
            if written:
                self._take_back(lsn, min(written, HEADER))
            raise OSError(errno.ENOSPC, f"only {written} of {size} bytes were written")

    def _take_back(self, lsn: int, size: int) -> None:
        """Clear the header of a record that was written in part, durably.

        The missing part may happen to be there already, for instance zeros; then recovery would find a record whose
        writer got an error.
        """
        number, offset = divmod(lsn, self._segment)
        with self._flush_turn:
            try:
                cleared = self._disk.pwritev(self._files[number], [bytes(size)], offset) == size
            except OSError:
                cleared = False
            if not cleared:
                self._words.broken = 1
                raise LogBroken("a partial write could not be cleared")
            if not self._in_memory:
                try:
                    self._flush_in_turn(lsn + size)
                except LogError:
                    self._words.broken = 1
                    raise LogBroken("a partial write could not be cleared") from None

    def _wait_for_segment(self) -> None:
        if self._words.full:
            raise LogFull("there is no space for another segment of the log")
        if self._board.is_over():
            raise LogError("this run of the server has ended")
        if self.give_up():
            raise GivenUp("the process is stopping")
        if self._row is not None:
            self._row.record_heartbeat()
        self._disk.pause(_WAIT_S)


class _Flusher(threading.Thread):
    """Flushes the log each second, by a handle of its own."""

    def __init__(self, log: LogAppender, board: Board) -> None:
        super().__init__(name="log-flusher", daemon=True)
        self._log, self._board, self._stopping = log, board, threading.Event()

    def run(self) -> None:
        """Until `stop`, or a flush fails."""
        try:
            while not self._stopping.wait(_FLUSH_EVERY_S):
                try:
                    self._log.flush(self._board.history()[0])
                except LogBroken:
                    return  # the board's word `broken` ends every process
                except LogError as error:
                    _not_flushed.report(error)
            with contextlib.suppress(LogBroken):
                self._log.flush(self._board.history()[0])
        finally:
            self._log.close()

    def stop(self) -> None:
        """Flush once more and end."""
        self._stopping.set()
        self.join()
