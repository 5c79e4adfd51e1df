"""The feed's order: from records and activity, as they arrive, to frames in the order of the history. Pure.

- `Merger` puts records into that order. They arrive by PUB from each shard, some of them never, and from the log, which
  has all. All it keeps is a position in the history, and records that arrived too early.
- `PendingActivity` keeps activity until the feed is at its place; `LatestPuts` knows which of it has come too late.
- `encode_pieces` makes frames of records, for each view of `/wal`.
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
"""Bytes of lines that are encoded before other greenlets have their turn."""
EARLY_BYTES: Final = 16 << 20
"""Bytes of records that arrived before those they follow, and are kept."""
MOST_WAITING: Final = 10_000
"""Lines of activity that are kept; further ones are dropped."""


class FeedBroken(Exception):
    """The log skips a revision, which must not happen."""


def is_announcement(record: Record) -> bool:
    """Whether `record` came without its payload, which is too large to be published: the log has it."""
    return len(record.payload) < record.end - record.lsn - HEADER


class Merger:
    """Takes records in any order and with gaps, and gives out the history.

    Attributes:
        position: after the last record that it gave out.
    """

    def __init__(self, position: Position) -> None:
        self.position = position
        self._early: dict[int, Record] = {}  # by first revision
        self._early_bytes = 0

    def __len__(self) -> int:
        """Return how many records wait for those they follow."""
        return len(self._early)

    def offer(self, record: Record) -> None:
        """Take a record as it was published. Keeps it if it is new and of data."""
        if record.revision <= self.position.revision or record.kind != DATA:
            return
        if self._early_bytes > EARLY_BYTES:  # the log has them all
            self._early.clear()
            self._early_bytes = 0
        if record.revision not in self._early:
            self._early[record.revision] = record
            self._early_bytes += HEADER + len(record.payload)

    def continuing(self, watermark: Position) -> list[Record]:
        """Give out the offered records that continue the history, up to the watermark."""
        found = []
        while (record := self._early.get(self.position.revision + 1)) is not None:
            if is_announcement(record) or record.next_revision - 1 > watermark.revision:
                break
            self._drop_early(record)
            self._advance_past(record)
            found.append(record)
        return found

    def must_read(self, watermark: Position) -> bool:
        """Whether only the log has the next record, and may be read up to there."""
        record = self._early.get(self.position.revision + 1)
        return record is not None and is_announcement(record) and self.is_behind(watermark)

    def is_behind(self, watermark: Position) -> bool:
        """Whether the watermark is above the position."""
        return self.position.revision < watermark.revision

    def read(self, records: Iterable[Record], following_lsn: int) -> list[Record]:
        """Take what was read from the log at the position, and give out what is new of it.

        `following_lsn`: where the next read of the log begins. Raises `FeedBroken`.
        """
        found = []
        for record in records:
            if record.kind != DATA or record.next_revision - 1 <= self.position.revision:
                continue
            if record.revision != self.position.revision + 1:
                raise FeedBroken(f"revision {record.revision} follows {self.position.revision}")
            self._advance_past(record)
            found.append(record)
        self.jump(Position(max(following_lsn, self.position.lsn), self.position.revision))
        return found

    def jump(self, position: Position) -> None:
        """Continue at `position`, which is not before the present one."""
        self.position = position
        for record in [r for r in self._early.values() if r.revision <= position.revision]:
            self._drop_early(record)

    def _advance_past(self, record: Record) -> None:
        self.position = Position(record.end, record.next_revision - 1)

    def _drop_early(self, record: Record) -> None:
        del self._early[record.revision]
        self._early_bytes -= HEADER + len(record.payload)


def merge_frames(changes: list[PlacedFrame], activity: list[PlacedFrame]) -> list[PlacedFrame]:
    """Merge the frames of changes and of activity, both in order, into one order."""
    return sorted(changes + activity, key=lambda frame: frame.place) if activity else changes


def activity_frames(lines: Iterable[Activity], shown: int, encode: Encode) -> list[PlacedFrame]:
    """Encode lines of activity. `shown`: the last revision shown already; a line that is late is placed after it."""
    return [PlacedFrame(2 * max(line.end, shown) + 1, encode(activity_line(line))) for line in lines]


class LatestPuts:
    """The keys that were put last, and when: a line that shows a key absent must not be shown after its put."""

    def __init__(self, revision: int, most: int = 16_384) -> None:
        self._most = most
        self._known_from = revision
        self._revisions: dict[bytes, int] = {}  # in the order of the last puts

    def note(self, key: bytes, revision: int) -> None:
        """Note that `key` was put at `revision`, which is above all before."""
        self._revisions.pop(key, None)
        self._revisions[key] = revision
        if len(self._revisions) > self._most:
            oldest = next(iter(self._revisions))
            self._known_from = self._revisions.pop(oldest)

    def forget(self, revision: int) -> None:
        """Forget all puts: those up to `revision` were not decoded."""
        self._revisions.clear()
        self._known_from = revision

    def contradict(self, line: Activity, shown: int) -> bool:
        """Whether `line`, shown after revision `shown`, could make a key look absent that was put before that.

        Where that is not known, it could.
        """
        if line.kind != "delete" or line.end >= shown:
            return False
        return line.end < self._known_from or line.end < self._revisions.get(line.subject, 0) <= shown


def encode_pieces(
    records: Iterable[Record],
    views: Sequence[View],
    marks: Marks,
    puts: LatestPuts | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[tuple[Position, dict[View, list[PlacedFrame]]]]:
    """Decode the changes of `records` once, and encode each once for each format.

    Yields pieces of the history: where a piece ends, and the frames that each view shows of it. A piece ends when it
    has `piece_bytes`, and with the last record. Notes puts in `puts` and prefix deletes in `marks`. Raises
    `ProtocolError`.
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
    """Encode what was read from the log at `position`, for clients that have everything up to there, or a little more.

    Raises `ProtocolError`.
    """
    frames: list[PlacedFrame] = []
    for _, encoded in encode_pieces(found, [view], marks):
        frames += encoded[view]
    # The supervisor's records before the one whose middle a client has reached know of less than the client has.
    last = max(position.revision, found[-1].next_revision - 1) if found else position.revision
    return list(chunks(position, Position(following_lsn, last), frames))


class PendingActivity:
    """Lines of activity whose place the feed has not reached."""

    def __init__(self) -> None:
        self._lines: list[Activity] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, lines: Iterable[Activity]) -> None:
        """Keep lines, up to `MOST_WAITING`; further ones are dropped."""
        self._lines.extend(lines)
        del self._lines[MOST_WAITING:]

    def take(self, revision: int) -> list[Activity]:
        """Remove and return the lines after revisions up to `revision`, in order."""
        ready = sorted((line for line in self._lines if line.end <= revision), key=lambda line: line.end)
        if ready:
            self._lines = [line for line in self._lines if line.end > revision]
        return ready

    def clear(self) -> None:
        """Drop all lines: there are no clients."""
        self._lines.clear()
