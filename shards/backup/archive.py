"""Backups as they lie in a directory: a snapshot, and the log from its replay position to one revision.

::

    backup          what the rest is: an `Archive`, written last. Until then it is `backup.incomplete`
    snapshots/…     the files of the snapshot, as in the store
    log/…           the log's segments from the one with the replay position on; the last one ends with the backup
    cluster         of a machine of a cluster: what its machines agree on

So a backup is the whole store at its last revision, and at every revision back to the first one that all files of the
snapshot lie behind: the log between them says what happened. An atomic batch is never divided.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from shards.files import checksummed_json, safe_files
from shards.files.checksummed_json import Checksum, Lsn, Revision, UnixMs, Words
from shards.log.epoch import LAST_TO_GO_ON_FROM
from shards.log.files import SEGMENT, segment_name
from shards.log.image import LogFold
from shards.log.manifest import SNAPSHOTS, Manifest
from shards.log.records import FILLER, HEADER, Record
from shards.maps.snapshot import new_digest
from shards.wire.errors import ProtocolError
from shards.wire.protocol import Atomic, Event, count_changes, decode_record, encode_events

FORMAT = 2
FORMATS = (1, FORMAT)
NAME, UNFINISHED = "backup", "backup.incomplete"
LOG = "log"
CLUSTER = "cluster"
"""The file of a data directory that names the cluster which the store is of."""
MOST_LSN = 1 << 60
"""Where the log of a backup may end: a store that is restored from it must have room for more."""


class ArchiveError(Exception):
    """There is no backup, or it cannot be used; the message names the directory or file and says why."""


class OutOfReach(Exception):
    """The backup cannot be restored to the place asked for; `Archive` has its range."""


class LogPart(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a segment, or all of it. `checksum` is keyed like those of snapshot files."""

    number: Annotated[int, Meta(ge=0, lt=10**12)]
    size: Annotated[int, Meta(ge=0, le=SEGMENT)]
    checksum: Checksum

    @property
    def name(self) -> str:
        """Its file, below the backup's directory."""
        return f"{LOG}/{segment_name(self.number)}"


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a backup.

    Attributes:
        format: version of the backup's files.
        version: of the program that took it.
        manifest: the store's, whose snapshot and replay position the backup has.
        log: the segments, in order.
        end_lsn: where the log ends.
        first_revision, first_ms: the earliest state it can be restored to, and since when that was the state.
        last_revision, taken_ms: the latest, and when it was taken. Times are those that the clock said then, which may
            have been set back in the meantime.
    """

    format: int
    version: Words
    manifest: Manifest
    log: tuple[LogPart, ...]
    end_lsn: Lsn
    first_revision: Revision
    first_ms: UnixMs
    last_revision: Revision
    taken_ms: UnixMs

    def __post_init__(self) -> None:
        """Raise ValueError for members that do not go together; a decoder makes `msgspec.ValidationError` of it."""
        numbers = [part.number for part in self.log]
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise ValueError("the segments of the log do not follow each other")
        manifest = self.manifest
        earliest = max([manifest.replay_revision, *(file.revision for file in manifest.files)])
        if not earliest <= self.first_revision <= self.last_revision:
            raise ValueError(
                f"it reaches from revision {self.first_revision} to {self.last_revision}, its snapshot is of {earliest}"
            )
        if not manifest.replay_lsn <= self.end_lsn <= MOST_LSN:
            raise ValueError(
                f"its log would go from byte {manifest.replay_lsn} to {self.end_lsn}; a log goes forward, and to "
                f"{MOST_LSN} at most"
            )
        if max(self.last_revision, manifest.end_revision) > LAST_TO_GO_ON_FROM:
            raise ValueError(f"no revisions are left behind {max(self.last_revision, manifest.end_revision)}")

    def _see_that_the_log_is_all_there(self, directory: Path, segment: int) -> None:
        """Raise `ArchiveError` unless the parts of the log are what lies between replay position and end."""
        begin, end = self.manifest.replay_lsn // segment, -(-self.end_lsn // segment)
        if len(self.log) != end - begin or (self.log and self.log[0].number != begin):
            raise ArchiveError(
                f"the file {directory / NAME} is damaged: it names {len(self.log)} segments of the log, "
                f"{end - begin} from {segment_name(begin)} on are needed: use another backup"
            )
        for part in self.log:
            size = min(segment, self.end_lsn - part.number * segment)
            if part.size != size:
                raise ArchiveError(
                    f"the file {directory / NAME} is damaged: it says that {part.name} has {part.size} bytes, not "
                    f"{size}: use another backup"
                )

    @classmethod
    def load(cls, directory: Path) -> Archive:
        """Load the description of the backup in `directory`. Raises `ArchiveError`."""
        path = directory / NAME
        try:
            text = checksummed_json.read(path)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(directory / UNFINISHED):
                raise ArchiveError(f"the backup in {directory} was not finished: it cannot be used") from None
            raise ArchiveError(f"there is no backup in {directory}") from None
        except OSError as error:
            raise ArchiveError(f"the backup {path} cannot be read: {error.strerror}") from None
        try:
            content = checksummed_json.decode(text, cls, FORMATS)
        except checksummed_json.Unreadable as error:
            raise ArchiveError(f"the file {path} is damaged ({error}): use another backup") from None
        if isinstance(content, int):
            raise ArchiveError(
                f"the backup in {directory} has format {content}, this program knows up to {FORMAT}: use the program "
                "that took it"
            )
        for name in (LOG, SNAPSHOTS):
            if os.path.lexists(directory / name) and not stat.S_ISDIR((directory / name).lstat().st_mode):
                raise ArchiveError(f"{directory / name} is not a directory: use another backup")
        return content

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.manifest.snapshot_bytes + sum(part.size for part in self.log)

    def read(self, directory: Path, part: LogPart) -> bytes:
        """Read a part of the log, and verify it. Raises `ArchiveError`."""
        path = directory / part.name
        try:
            data = safe_files.read_regular(path, part.size)
        except OSError as error:
            raise ArchiveError(f"{path} cannot be read ({error.strerror}): use another backup") from None
        digest = new_digest(self.manifest.secret)
        digest.update(data)
        if len(data) != part.size or digest.hexdigest() != part.checksum:
            raise ArchiveError(f"{path} is damaged, its checksum does not match: use another backup")
        return data

    def records(self, directory: Path, segment: int = SEGMENT) -> Iterator[Record]:
        """Yield the log's records from the replay position on, fillers too. Raises `ArchiveError`.

        They are whole; whether their payloads can be read is not looked at, but for the START's.
        """
        self._see_that_the_log_is_all_there(directory, segment)
        manifest = self.manifest
        fold = LogFold(manifest.replay_lsn, manifest.replay_revision + 1, manifest.last_start)
        for part in self.log:
            base = part.number * segment
            try:
                yield from fold.walk(self.read(directory, part), base, manifest.secret, segment)
            except msgspec.MsgspecError as error:
                raise ArchiveError(f"{directory / part.name} holds a START that cannot be read: {error}") from None
        if fold.lsn < self.end_lsn:  # it may have gone on to the next segment, where no header fits
            number, offset = divmod(fold.lsn, segment)
            raise ArchiveError(f"{directory / LOG / segment_name(number)} holds no record at byte {offset}")
        if fold.next_revision - 1 != self.last_revision:
            raise ArchiveError(
                f"the log in {directory / LOG} ends at revision {fold.next_revision - 1}, the file {directory / NAME} "
                f"says {self.last_revision}: use another backup"
            )


class RestoreTarget(NamedTuple):
    """How far to restore: up to a revision, or up to a Unix time in milliseconds. Neither: all of it."""

    revision: int | None = None
    time_ms: int | None = None


class Cut(NamedTuple):
    """Where the log of a restored store ends.

    Attributes:
        lsn: it keeps everything below.
        rest: and this record, the first changes of one that had more; None: nothing.
        revision: the last.
        time_ms: of the last change that is kept.
        within_batch: the revision asked for lies in the middle of an atomic batch, none of which is kept.
    """

    lsn: int
    rest: Record | None
    revision: int
    time_ms: int
    within_batch: bool = False

    @property
    def end(self) -> int:
        """LSN of the log's end."""
        return self.rest.end if self.rest else self.lsn


class Reach:
    """Finds the earliest state that a snapshot and the records after its replay position can be brought to.

    Attributes:
        revision: of that state.
        time_ms: since when it was the state, as far as the log says.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._from_nothing = manifest.replay_lsn == 0
        self.revision = max([manifest.replay_revision, *(file.revision for file in manifest.files)])
        self.time_ms = 0

    def take(self, record: Record) -> None:
        """Add a record. Call it with every record from the replay position on."""
        if record.kind == FILLER:
            return
        if self._from_nothing:
            self._from_nothing, self.revision, self.time_ms = False, record.revision - 1, record.time_ms
        elif not self.time_ms or (record.events and record.next_revision - 1 <= self.revision):
            self.time_ms = record.time_ms


def find_cut(archive: Archive, directory: Path, until: RestoreTarget, segment: int = SEGMENT) -> Cut:
    """Find where to cut the backup in `directory` to get the store as it was at `until`.

    Raises `OutOfReach`, `ArchiveError`.
    """
    if until.revision is not None and not archive.first_revision <= until.revision <= archive.last_revision:
        raise OutOfReach
    if until.time_ms is not None:
        return _cut_at_time(archive, directory, until.time_ms, segment)
    revision, time_ms = archive.first_revision, archive.first_ms
    for record in _changes_behind(archive, directory, segment):
        last = record.next_revision - 1
        if until.revision is not None and last > until.revision:
            rest, within = _shorten_or_raise(record, until.revision, directory)
            if rest is None:
                return Cut(record.lsn, None, revision, time_ms, within)
            return Cut(record.lsn, rest, rest.next_revision - 1, record.time_ms, within)
        revision, time_ms = last, record.time_ms
    return Cut(archive.end_lsn, None, revision, time_ms)


def _cut_at_time(archive: Archive, directory: Path, until_ms: int, segment: int) -> Cut:
    """Find the cut after the last change that was made when the clock said `until_ms` or less.

    The clock may have been set back after changes that it dated later. Raises `OutOfReach`, `ArchiveError`.
    """
    if until_ms > archive.taken_ms:
        raise OutOfReach
    revision, time_ms = archive.first_revision, archive.first_ms
    cut, follows = None, archive.first_ms <= until_ms  # it belongs before the change that comes next
    for record in _changes_behind(archive, directory, segment):
        if record.time_ms <= until_ms:
            follows = True
        elif follows:
            cut, follows = Cut(record.lsn, None, revision, time_ms), False
        revision, time_ms = record.next_revision - 1, record.time_ms
    if follows:
        return Cut(archive.end_lsn, None, revision, time_ms)
    if cut is None:
        raise OutOfReach
    return cut


def _changes_behind(archive: Archive, directory: Path, segment: int) -> Iterator[Record]:
    """The records with changes after the first revision that can be restored. Raises `ArchiveError`."""
    for record in archive.records(directory, segment):
        if record.events and record.next_revision - 1 > archive.first_revision:
            yield record


def _shorten_or_raise(record: Record, revision: int, directory: Path) -> tuple[Record | None, bool]:
    try:
        return shorten(record, revision)
    except ProtocolError as error:
        raise ArchiveError(f"the log in {directory / LOG} holds a record that cannot be read: {error}") from None


def shorten(record: Record, revision: int) -> tuple[Record | None, bool]:
    """Cut the record `record` after `revision`, which is below its last; None if nothing is left.

    Also returns whether `revision` is within an atomic batch, which is left out as a whole. Raises `ProtocolError`.
    """
    kept: list[Event] = []
    following, within = record.revision, False
    events, outcomes = decode_record(record.payload)
    for event in events:
        size = len(event.changes) if isinstance(event, Atomic) else 1
        if following + size - 1 > revision:
            within = following <= revision
            break
        kept.append(event)
        following += size
    if not kept:
        return None, within
    count = count_changes(kept)
    payload = encode_events([*kept, *(outcome for outcome in outcomes if outcome.at < count)])
    return record._replace(events=count, end=record.lsn + HEADER + len(payload), payload=payload), within
