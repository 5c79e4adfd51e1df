"""The files of a log at rest: whole segments, and what the records that fit add up to."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from shards.files.disk import Disk
from shards.log import records
from shards.log.files import SegmentFiles, segment_name, segment_numbers
from shards.log.records import FILLER, HEADER, ORDER, START, STOP, OrderPosition, Record, Start
from shards.wire.clock import BEGINNING, Now

_CHUNK = 1 << 20


class LogFold:
    """The state of a history after the records that fit.

    Attributes:
        lsn: where the last of them ends.
        next_revision: that comes next.
        last_start: the last START; None if there was none.
        synced: up to where the log was flushed at least.
        last: the latest moment on record, by the steady clock; the one given at first if no record has one.
        kind: of the last record, fillers not counted.
        order: the last ORDER; None if there was none.
    """

    def __init__(self, lsn: int, next_revision: int, last_start: Start | None, last: Now = BEGINNING) -> None:
        self.lsn, self.next_revision, self.last_start, self.last = lsn, next_revision, last_start, last
        self.synced, self.kind = lsn, 0
        self.order: OrderPosition | None = None

    def take(self, record: Record) -> bool:
        """Continue after `record` if it fits; whether it did."""
        if not records.follows(record, self.next_revision):
            return False
        if record.kind != FILLER:
            if self.kind == STOP and record.kind != START:
                return False  # whole, but never appended: its writer died, and the STOP took its place
            self.kind = record.kind
        self.lsn = record.end
        self.next_revision = max(self.next_revision, record.next_revision)
        self.synced = max(self.synced, record.synced)
        if record.kind == START or (record.kind != FILLER and record.now.steady_ms >= self.last.steady_ms):
            self.last = record.now
        if record.kind == START:
            self.last_start = Start.decode(record.payload)
        elif record.kind == ORDER:
            self.order = OrderPosition.decode(record.payload)
        return True

    def walk(self, buffer: bytes, base: int, secret: int, segment: int) -> Iterator[Record]:
        """Take the records in `buffer`, a segment that begins at `base`, as far as they fit; yield each."""
        for record in records.walk(buffer, base, secret, self.lsn - base):
            if not self.take(record):
                return
            yield record
        left = segment - self.lsn % segment
        if left < HEADER:
            self.lsn += left


class LogImage:
    """The segments of the log as they are on disk."""

    def __init__(self, log_dir: Path, secret: int, segment: int, disk: Disk) -> None:
        self.log_dir, self._secret, self._segment, self._disk = log_dir, secret, segment, disk
        self._files = SegmentFiles(log_dir, disk)
        self.numbers = segment_numbers(disk.names(log_dir))

    def losses(self, begin: int, end: int) -> Iterator[tuple[int, str]]:
        """Yield LSN and description of what is missing of each segment, where the log must reach from `begin` to `end`.

        Of several segments missing in a row, only the first is reported.

        Segments follow each other without a gap: they are made, trimmed and removed one by one. And they are whole:
        each was filled and synced before it got its name.
        """
        size, numbers = self._segment, self.numbers
        expected, last = min([begin // size, *numbers]), max([(end - 1) // size, *numbers])
        for number in (*numbers, last + 1):
            if number > expected:
                yield expected * size, "the segment is missing"
            expected = number + 1
            if number <= last and not self._disk.pread(self._files[number], 1, size - 1):
                there = len(self._read_segment(number))
                yield number * size + there, f"the segment ends there, and not after {size} bytes"

    def fold(self, fold: LogFold) -> None:
        """Take records into `fold`, from its LSN on, until one does not fit."""
        while (number := fold.lsn // self._segment) in self.numbers:
            for _ in fold.walk(self._read_segment(number), number * self._segment, self._secret, self._segment):
                pass
            if fold.lsn // self._segment == number:
                return

    def behind(self, lsn: int) -> list[Record]:
        """Find every record anywhere from `lsn` on, without payloads."""
        found: list[Record] = []
        for number in self.numbers:
            base = number * self._segment
            if base + self._segment > lsn:
                begin = max(lsn - base, 0)
                found += (
                    record._replace(payload=b"")
                    for record in records.search(self._read_segment(number), base, self._secret, begin)
                )
        return found

    def has_traces(self, lsn: int, revision: int) -> bool:
        """Whether a record that began at `lsn` with `revision` may have been there, whatever became of it."""
        number, offset = divmod(lsn, self._segment)
        found = self._disk.pread(self._files[number], HEADER, offset) if number in self.numbers else b""
        return records.is_trace(found, lsn, revision)

    def cut(self, lsn: int) -> None:
        """Zero everything from `lsn` to its segment's end, whatever the page cache says is there. Not yet flushed."""
        number, offset = divmod(lsn, self._segment)
        if number in self.numbers:
            for at in range(offset, self._segment, _CHUNK):
                self.write(number * self._segment + at, bytes(min(_CHUNK, self._segment - at)))

    def write_again(self, begin: int, end: int) -> None:
        """Write the bytes from `begin` to `end` as they are. Not yet flushed."""
        for number in self.numbers:
            base = number * self._segment
            last = min(end - base, self._segment)
            for at in range(max(begin - base, 0), last, _CHUNK):
                self.write(base + at, self._disk.pread(self._files[number], min(_CHUNK, last - at), at))

    def write(self, lsn: int, data: bytes) -> None:
        """Put `data`, which fits the segment, at `lsn`. Not yet flushed."""
        number, offset = divmod(lsn, self._segment)
        if self._disk.pwritev(self._files[number], [data], offset) != len(data):
            raise OSError(errno.ENOSPC, "the log was written in part", str(self.log_dir / segment_name(number)))

    def sync(self, begin: int) -> None:
        """Flush every segment that holds a byte from `begin` on."""
        for number in self.numbers:
            if (number + 1) * self._segment > begin:
                self._disk.fdatasync(self._files[number])

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _read_segment(self, number: int) -> bytes:
        return self._disk.pread(self._files[number], self._segment, 0)
