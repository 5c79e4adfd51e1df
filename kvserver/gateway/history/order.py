"""The feed's order: from records and activity, as they come, to frames in the order of the history. Pure.

- `Merger` puts records into that order. They come by PUB from each shard, some of them never, and from the log, which
  has all. A position in the history is all it keeps beside records that came too early.
- `PendingActivity` holds activity until the feed is at its place; `LatestPuts` knows what of it has come too late.
- `pieces` makes frames of records, for each view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from kvserver.gateway.wal.formats import activity_line, change_line
from kvserver.gateway.wal.tail import Chunk, PlacedFrame, Position, chunks
from kvserver.gateway.wal.views import Encode, Marks, View
from shards.log.records import DATA, HEADER, Record
from shards.wire.protocol import Activity, PrefixMarked, PutEvent, changes, decode_events

PIECE_BYTES: Final = 256 << 10
"""Bytes of lines that are encoded before others have their turn."""
EARLY_BYTES: Final = 16 << 20
"""Bytes of records kept that came before those they follow."""
MOST_WAITING: Final = 10_000
"""Lines of activity kept; more are dropped."""


class FeedBroken(Exception):
    """The log skips a revision, which it never may."""


def is_announcement(record: Record) -> bool:
    """Whether `record` came without its payload: it is too large to be published, and stands in the log."""
    return len(record.payload) < record.end - record.lsn - HEADER


class Merger:
    """Records in, in any order and with gaps; the history out."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self._early: dict[int, Record] = {}  # by first revision
        self._early_bytes = 0

    def __len__(self) -> int:
        """How many records wait for those they follow."""
        return len(self._early)

    def offer(self, record: Record) -> None:
        """Take a record as it was published."""
        if record.revision <= self.position.revision or record.kind != DATA:
            return
        if self._early_bytes > EARLY_BYTES:  # the log has them all
            self._early.clear()
            self._early_bytes = 0
        if record.revision not in self._early:
            self._early[record.revision] = record
            self._early_bytes += HEADER + len(record.payload)

    def continuing(self, watermark: Position) -> list[Record]:
        """The offered records that go on from the position, as far as the watermark covers them."""
        found = []
        while (record := self._early.get(self.position.revision + 1)) is not None:
            if is_announcement(record) or record.next_revision - 1 > watermark.revision:
                break
            self._drop(record)
            self._pass(record)
            found.append(record)
        return found

    def must_read(self, watermark: Position) -> bool:
        """Whether what comes next stands in the log alone, and can be read."""
        record = self._early.get(self.position.revision + 1)
        return record is not None and is_announcement(record) and self.is_behind(watermark)

    def is_behind(self, watermark: Position) -> bool:
        """Whether there is something to show that has not come."""
        return self.position.revision < watermark.revision

    def read(self, records: Iterable[Record], following_lsn: int) -> list[Record]:
        """Take what was read from the log at the position; returns what is to be shown. Raises `FeedBroken`."""
        found = []
        for record in records:
            if record.kind != DATA or record.next_revision - 1 <= self.position.revision:
                continue
            if record.revision != self.position.revision + 1:
                raise FeedBroken(f"revision {record.revision} stands behind {self.position.revision}")
            self._pass(record)
            found.append(record)
        self.jump(Position(max(following_lsn, self.position.lsn), self.position.revision))
        return found

    def jump(self, position: Position) -> None:
        """Go on from `position`, which is not before the present one."""
        self.position = position
        for record in [r for r in self._early.values() if r.revision <= position.revision]:
            self._drop(record)

    def _pass(self, record: Record) -> None:
        self.position = Position(record.end, record.next_revision - 1)

    def _drop(self, record: Record) -> None:
        del self._early[record.revision]
        self._early_bytes -= HEADER + len(record.payload)


def merge(changes: list[PlacedFrame], activity: list[PlacedFrame]) -> list[PlacedFrame]:
    """Changes and activity in one order; both are in order."""
    return sorted(changes + activity, key=lambda frame: frame.place) if activity else changes


def activity_frames(lines: Iterable[Activity], shown: int, encode: Encode) -> list[PlacedFrame]:
    """Activity, encoded. `shown`: the last revision shown already; a line that comes late stands behind that."""
    return [PlacedFrame(2 * max(line.end, shown) + 1, encode(activity_line(line))) for line in lines]


class LatestPuts:
    """Which keys were put last, and when: a line that says of a key that there is none must not come behind its put."""

    def __init__(self, revision: int, most: int = 16_384) -> None:
        self._most = most
        self._known_from = revision
        self._revisions: dict[bytes, int] = {}  # in the order of the last puts

    def note(self, key: bytes, revision: int) -> None:
        """`key` was put at `revision`, which is above all before."""
        self._revisions.pop(key, None)
        self._revisions[key] = revision
        if len(self._revisions) > self._most:
            oldest = next(iter(self._revisions))
            self._known_from = self._revisions.pop(oldest)

    def forget(self, revision: int) -> None:
        """What was put up to `revision` was not looked at."""
        self._revisions.clear()
        self._known_from = revision

    def contradict(self, line: Activity, shown: int) -> bool:
        """Whether `line`, which would stand behind revision `shown`, may take away what was put before it."""
        if line.kind != "delete" or line.end >= shown:
            return False
        return line.end < self._known_from or line.end < self._revisions.get(line.subject, 0) <= shown


def pieces(
    records: Iterable[Record],
    views: Sequence[View],
    marks: Marks,
    puts: LatestPuts | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[tuple[Position, dict[View, list[PlacedFrame]]]]:
    """The changes of `records`, each decoded once and encoded once for each format: where a piece ends, and the frames
    that each view shows of it.

    A piece ends when it has `piece_bytes`, and with the last record. `puts` is told of the puts, `marks` of the prefix
    deletes. Raises `ProtocolError`.
    """
    frames: dict[View, list[PlacedFrame]] = {view: [] for view in views}
    size, end = 0, None
    for record in records:
        if record.kind != DATA:
            continue
        for revision, change in changes(decode_events(record.payload), record.revision):
            line = change_line(change)
            if type(change) is PrefixMarked:
                marks.note(revision, change.prefix)
            elif puts is not None and type(change) is PutEvent:
                puts.note(change.key, revision)
            made: dict[Encode, bytes] = {}
            for view, encoded in frames.items():
                shown = view.line_of(change, line, marks)
                if shown is not None:
                    data = made.get(view.encode) or made.setdefault(view.encode, view.encode(shown))
                    encoded.append(PlacedFrame(2 * revision, data))
            size += len(line or b"")
            if size >= piece_bytes:
                yield Position(record.lsn, revision), frames
                frames, size = {view: [] for view in views}, 0
        end = Position(record.end, record.next_revision - 1)
    if end is not None:
        yield end, frames


def chunks_from_log(
    found: list[Record], following_lsn: int, position: Position, view: View, marks: Marks
) -> list[Chunk]:
    """What was read from the log at `position`, for clients that have everything up to there, or a little more.

    Raises `ProtocolError`.
    """
    frames: list[PlacedFrame] = []
    for _, encoded in pieces(found, [view], marks):
        frames += encoded[view]
    # The supervisor's records before the one whose middle a client has reached know of less than the client has.
    last = max(position.revision, found[-1].next_revision - 1) if found else position.revision
    return list(chunks(position, Position(following_lsn, last), frames))


class PendingActivity:
    """Activity that the feed has not reached."""

    def __init__(self) -> None:
        self._lines: list[Activity] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, lines: Iterable[Activity]) -> None:
        """Keep lines; what is too many is dropped."""
        self._lines.extend(lines)
        del self._lines[MOST_WAITING:]

    def take(self, revision: int) -> list[Activity]:
        """The lines that stand behind revisions up to `revision`, in order."""
        ready = sorted((line for line in self._lines if line.end <= revision), key=lambda line: line.end)
        if ready:
            self._lines = [line for line in self._lines if line.end > revision]
        return ready

    def clear(self) -> None:
        """Nobody listens."""
        self._lines.clear()
