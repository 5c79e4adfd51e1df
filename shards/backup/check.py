"""Verifies a store, served or not, or a backup, and reports what it found. Changes nothing.

Snapshot files against their checksums, each record of theirs and its slot; the log's records from the oldest kept to
its end, which must follow each other; the counters of manifest and board against them; each map, or a copy of it where
a server writes to it, against a replay of snapshot and log.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb

from shards.backup.archive import LOG, Archive, ArchiveError
from shards.files.disk import DISK
from shards.files.safe_files import read_regular
from shards.host.board import Board
from shards.log import records
from shards.log.files import SEGMENT, LogError, segment_name, segment_numbers
from shards.log.image import LogFold
from shards.log.manifest import Manifest, SnapshotFile
from shards.log.reader import LogReader
from shards.log.records import DATA, FILLER, START, Record
from shards.log.recovery import Damaged, Examined
from shards.maps.build import fill
from shards.maps.layout import MapError, MapFull, check_record, open_environment, read_meta
from shards.maps.owner import MapOwner
from shards.maps.snapshot import Snapshot, SnapshotError, growth_watched
from shards.maps.space import free_bytes
from shards.wire.errors import ProtocolError
from shards.wire.keys import SLOTS, slot_of, slots_of
from shards.wire.outcomes import OutcomeRecord
from shards.wire.protocol import count_changes, decode_record

_BATCH = 4 << 20


class Finding(NamedTuple):
    """The result for one subject. `good`: no fault was found."""

    subject: str
    good: bool
    text: str


class LogFigures:
    """Adds up the records of a log."""

    def __init__(self) -> None:
        self.records = self.changes = self.runs = 0
        self.first_revision = self.last_revision = 0
        self.first_ms = self.last_ms = 0

    def take(self, record: Record) -> None:
        """Count `record`, which follows those before it."""
        if record.kind == FILLER:
            return
        if not self.records:
            self.first_revision, self.first_ms = record.revision, record.time_ms
        self.records += 1
        self.changes += record.events
        self.runs += record.kind == START
        self.last_revision, self.last_ms = record.next_revision - 1, max(self.last_ms, record.time_ms)

    def __str__(self) -> str:
        if not self.records:
            return "no records"
        span = f", revisions {self.first_revision} to {self.last_revision}" if self.changes else ""
        return f"{self.records} records, {self.changes} changes, {self.runs} starts{span}"


def check_snapshot(directory: Path, manifest: Manifest) -> Finding:
    """Check the files of the snapshot that `manifest` names, below the data directory or backup `directory`."""
    if not manifest.files:
        return Finding("snapshot", True, "none yet, the log reaches back to the beginning")
    snapshot, keys = Snapshot(directory, manifest), 0
    for file in manifest.files:
        try:
            keys += _check_file(snapshot, file)
        except (SnapshotError, MapError, OSError) as error:
            return Finding("snapshot", False, str(error))
        except (lmdb.Error, AssertionError, ValueError, ProtocolError) as error:
            return Finding("snapshot", False, f"the snapshot file {file.name} holds what it should not: {error}")
    return Finding("snapshot", True, f"{len(manifest.files)} files, {keys} keys, revision {manifest.replay_revision}")


def _check_file(snapshot: Snapshot, file: SnapshotFile) -> int:
    """Check that each record of a file can be one of its shard; return their number. Raises `AssertionError` too."""
    keys, slots, last = 0, slots_of(file.shard, file.shards), b""
    for rows in snapshot.read(file, range(SLOTS)):
        for key, record in rows:
            revision, *_ = check_record(key, memoryview(record))
            assert key > last, f"{key!r} does not come after {last!r}"  # else pages may lead in a circle
            last = key
            assert slot_of(key) in slots, f"{key!r} belongs to another shard"
            assert revision <= file.revision, f"{key!r} has revision {revision}, the file ends at {file.revision}"
        keys += len(rows)
    for rows in snapshot.read_outcomes(file, range(SLOTS)):
        for place, row in rows:
            slot = OutcomeRecord.decode(row).slot
            assert slot in slots, f"the outcome {place.hex()} of slot {slot} belongs to another shard"
    return keys


class LogCheck(NamedTuple):
    """`damaged_at`: the first LSN at which the log cannot be read, whether a restart needs it or not."""

    finding: Finding
    damaged_at: int | None


def check_log(
    log_dir: Path, manifest: Manifest, end: int, found: Examined | None = None, segment: int = SEGMENT
) -> LogCheck:
    """Check the log up to the LSN `end`. `found`: what recovery would find there, if no process writes to it."""
    if found is not None and found.damage:
        return LogCheck(Finding("log", False, str(found.damage)), found.damage.lsn)
    figures, numbers = LogFigures(), segment_numbers(DISK.names(log_dir))
    oldest = numbers[0] * segment if numbers else manifest.replay_lsn
    for begin, until, following in (
        (oldest, min(manifest.replay_lsn, end), None),
        (manifest.replay_lsn, end, manifest.replay_revision + 1),
    ):
        stop = _count_records(log_dir, manifest.secret, begin, until, following, figures, segment)
        if stop < until:
            needed = "" if following else "; no restart needs it, but readers of the feed that are behind"
            why = f"no record can be read there, but the log continues for {until - stop} bytes{needed}"
            return LogCheck(Finding("log", False, str(Damaged(stop, segment, why))), stop)
    torn = "; the rest of the last one is a torn tail, which the next start cuts" if found and found.behind else ""
    return LogCheck(Finding("log", True, f"{len(numbers)} segments, {figures}{torn}"), None)


def _count_records(
    log_dir: Path, secret: int, begin: int, end: int, following: int | None, figures: LogFigures, segment: int
) -> int:
    """Count the records between two LSNs, as far as they follow each other; the LSN up to which they do. Raises
    `OSError` if a segment is there and cannot be read.

    `following`: the revision of the first one; None: whatever it says.
    """
    fold: LogFold | None = None if following is None else LogFold(begin, following, None)
    for number in range(begin // segment, -(-end // segment)):
        base = number * segment
        try:
            data = read_regular(log_dir / segment_name(number), segment)[: end - base]
        except FileNotFoundError:
            return max(begin, base)
        if fold is None:
            header = records.decode_header(data)
            fold = LogFold(begin, header.revision if header else 0, None)
        for record in fold.walk(data, base, secret, segment):
            figures.take(record)
        if fold.lsn < min(base + segment, end):
            return fold.lsn
    return end


def check_counters(manifest: Manifest, board: Board, tail: int, following: int) -> Finding:
    """Check what manifest and board say of the log of a running store, which ended at `tail` before `following`."""
    words, wrong = board.log, []
    if not manifest.replay_lsn <= manifest.end_lsn <= board.history()[0]:
        wrong.append(f"the manifest's end {manifest.end_lsn} is not between its replay position and the log's end")
    if manifest.end_revision >= board.history()[1]:
        wrong.append(f"the manifest knows of revision {manifest.end_revision}, the board ends before")
    if words.oldest > tail or words.oldest_revision > following:
        wrong.append("the board's oldest record is beyond the end of the log")
    if words.synced > board.history()[0]:
        wrong.append("the log claims to be flushed beyond its end")
    text = "; ".join(wrong) or f"the board ends at revision {following - 1}, the manifest knows of its start"
    return Finding("counters", not wrong, text)


def check_map(
    path: Path, shard: int, shards: int, data_dir: Path, manifest: Manifest, *, served: bool, work: Path | None = None
) -> Finding:
    """Check the map at `path` against what snapshot and log make of its slots, at the position that it is applied to.

    `served`: its shard writes to it in the meantime, so it is copied first. `work`: where to do that. To keep the log
    from being trimmed is up to the caller.
    """
    subject = f"map {shard}"
    size = (path / "data.mdb").stat().st_size
    with tempfile.TemporaryDirectory(prefix="kvserver-check-", dir=work) as made:
        free = free_bytes(Path(made))
        if free < 3 * size:
            text = f"not compared: {3 * size >> 20} MiB would be wanted in {made}, {free >> 20} are free (TMPDIR)"
            return Finding(subject, True, text)
        try:
            copy = path / "data.mdb"
            if served:
                copy = Path(made) / "copy.mdb"
                _copy_map(path, copy, Path(made))
            _, (lsn, revision) = read_meta(copy, subdir=False)
            built = _build_expected(Path(made) / "built", slots_of(shard, shards), data_dir, manifest, lsn)
            keys, difference = _compare_maps(copy, built, slots_of(shard, shards))
        except (MapError, MapFull, SnapshotError, LogError, ProtocolError, lmdb.Error, OSError, ValueError) as error:
            return Finding(subject, False, f"cannot be compared with snapshot and log: {error}")
    if difference:
        return Finding(subject, False, f"is not what snapshot and log make of it: {difference}")
    return Finding(subject, True, f"{keys} keys are what snapshot and log make of them, revision {revision}")


def _copy_map(path: Path, target: Path, directory: Path) -> None:
    with (
        contextlib.closing(open_environment(path, readonly=True)) as environment,
        target.open("wb") as file,
        growth_watched(path, directory),
    ):
        environment.copyfd(file.fileno(), compact=True)


def _build_expected(path: Path, slots: range, data_dir: Path, manifest: Manifest, until: int) -> Path:
    """Build the map of `slots` as it was at the LSN `until`; return its file."""
    path.mkdir()
    snapshot = Snapshot(data_dir, manifest)
    reader, lsn = LogReader(data_dir / "log", manifest.secret), manifest.replay_lsn
    try:
        with contextlib.closing(MapOwner(path)) as new:
            floors = fill(new, snapshot, snapshot.files_of(slots), slots, lambda: None)
            while lsn < until:
                found, lsn = reader.read(lsn, until, _BATCH)
                new.apply([record for record in found if record.events or record.kind == START], floors)
    finally:
        reader.close()
    return path / "data.mdb"


def _compare_maps(one: Path, other: Path, slots: range) -> tuple[int, str]:
    """Count the keys of the map `one`, and describe the first difference to `other`, '' if there is none."""
    keys = 0
    with _open_rows(one) as ours, _open_rows(other) as theirs:
        expected = next(theirs, None)
        for key, record in ours:
            keys += 1
            if slot_of(key) not in slots:
                return keys, f"{key!r} belongs to another shard"
            if expected is None or key < expected[0]:
                return keys, f"{key!r} should not be there"
            if key > expected[0]:
                return keys, f"{expected[0]!r} is missing"
            if record != expected[1]:
                return keys, f"{key!r} holds something else"
            expected = next(theirs, None)
        return keys, "" if expected is None else f"{expected[0]!r} is missing"


@contextlib.contextmanager
def _open_rows(path: Path) -> Iterator[Iterator[tuple[bytes, bytes]]]:
    with contextlib.closing(open_environment(path, readonly=True, subdir=False, lock=False)) as environment:
        data = environment.open_db(b"data", create=False)
        with environment.begin(data) as txn:
            yield iter(txn.cursor())


def check_archived_log(directory: Path, archive: Archive) -> Finding:
    """Check the log of the backup in `directory`, with the content of its records."""
    figures = LogFigures()
    try:
        for record in archive.records(directory):
            figures.take(record)
            if record.kind != DATA:
                continue
            events, outcomes = decode_record(record.payload)
            if count_changes(events) != record.events:
                return Finding(LOG, False, f"the record at {record.lsn} has fewer changes than it announces")
            if any(outcome.at >= record.events for outcome in outcomes):
                return Finding(LOG, False, f"the record at {record.lsn} announces more changes than it has")
        return Finding(LOG, True, f"{len(archive.log)} segments, {figures}")
    except ArchiveError as error:
        return Finding(LOG, False, str(error))
    except ProtocolError as error:
        return Finding(LOG, False, f"the record after revision {figures.last_revision} cannot be read: {error}")
