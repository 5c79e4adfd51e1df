"""Reads the log while others append, from any process: a feed, a restart of a shard, a check.

A reader needs no lock. What the board shows as appended stays as it is until it is trimmed, and a segment that is
trimmed and used again holds bytes of other LSNs, which no reader takes for its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from shards.files.disk import DISK, Disk
from shards.log import records
from shards.log.files import SEGMENT, LogError, SegmentFiles, Trimmed, segment_name, segment_numbers
from shards.log.records import FILLER, HEADER, Record

__all__ = ["SEGMENT", "LogError", "LogReader", "Trimmed"]


class LogReader:
    """A reader's handle, for any process: follows the log over segments that are made, trimmed and used again."""

    def __init__(self, log_dir: Path, secret: int, *, segment: int = SEGMENT, disk: Disk = DISK) -> None:
        self._log_dir, self._secret, self._segment, self._disk = log_dir, secret, segment, disk
        self._files = SegmentFiles(log_dir, disk)

    def read(self, lsn: int, until: int, limit: int = 256 << 10) -> tuple[list[Record], int]:
        """Read whole records from `lsn` on, about `limit` bytes; return them and the LSN to continue from.

        `lsn` and `until` are ends of records, as words of the board, records and this function give them, and
        everything below `until` must have been appended. Without fillers; at least one record, or the LSN is `until`.

        Raises `Trimmed` if the log does not hold `lsn` any more, `LogError` if it does and cannot be read.
        """
        found: list[Record] = []
        begin = lsn
        while lsn < until and lsn - begin < limit:
            left = self._segment - lsn % self._segment
            if left < HEADER:
                lsn += left
                continue
            lsn = self._read_in_segment(lsn, min(left, until - lsn), max(limit - (lsn - begin), HEADER), found)
        self._files.close(below=begin // self._segment)
        return found, lsn

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _read_in_segment(self, lsn: int, left: int, limit: int, found: list[Record]) -> int:
        """Append the records at `lsn` to `found`; return the LSN to continue from, which is further."""
        buffer = self._read_bytes(lsn, min(left, limit))
        behind = self._collect_records(buffer, lsn, found)
        if behind == lsn:
            header = records.decode_header(buffer)
            if header is not None and header.lsn == lsn and len(buffer) < header.end - lsn <= left:
                behind = self._collect_records(self._read_bytes(lsn, header.end - lsn), lsn, found)
        if behind == lsn:
            self._raise_lost(lsn)
        return behind

    def _collect_records(self, buffer: bytes, lsn: int, found: list[Record]) -> int:
        for record in records.walk(buffer, lsn, self._secret):
            if record.kind != FILLER:
                found.append(record)
            lsn = record.end
        return lsn

    def _read_bytes(self, lsn: int, size: int) -> bytes:
        number, offset = divmod(lsn, self._segment)
        try:
            return self._disk.pread(self._files[number], size, offset)
        except FileNotFoundError:
            self._raise_lost(lsn)
        except OSError as error:
            raise LogError(f"segment {segment_name(number)} cannot be read: {error.strerror}") from error

    def _raise_lost(self, lsn: int) -> NoReturn:
        """Raise the error that says why there is no record at `lsn`."""
        number = lsn // self._segment
        kept = segment_numbers(self._disk.names(self._log_dir))
        if number in kept:
            raise LogError(f"segment {segment_name(number)} is damaged at byte {lsn % self._segment}")
        if not kept or number > kept[-1]:
            raise LogError(f"segment {segment_name(number)} is missing")
        self._files.close()
        raise Trimmed(kept[0] * self._segment)
