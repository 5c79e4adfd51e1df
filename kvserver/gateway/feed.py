"""The feed's order: from records and activity, as they come, to what each client gets. Pure.

- `Merger` puts records into the order of the history. They come by PUB from each shard, some of them never, and from
  the log, which has all. A position in the history is all it keeps beside records that came too early.
- `Tail` holds what was shown last, encoded once for all clients of a format, up to some size.
- `Cursor` is one client: a position. A client that the tail has left behind reads the log by itself.
- `Waiting` holds activity until the feed is at its place; `Puts` knows what of it has come too late.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from kvserver.gateway.formats import activity_line, change_line
from shards.protocol import Activity, PutEvent, changes, decode_events
from shards.records import DATA, HEADER, Record

CHUNK_BYTES: Final = 256 << 10
"""A chunk is closed when it holds so many bytes."""
TAIL_BYTES: Final = 8 << 20
"""Bytes of chunks kept for clients that are a little behind."""
EARLY_BYTES: Final = 16 << 20
"""Bytes of records kept that came before those they follow."""
MOST_WAITING: Final = 10_000
"""Lines of activity kept; more are dropped."""

_CHUNK_OVERHEAD: Final = 512

Encode = Callable[[bytes], bytes]
"""From a line to a WebSocket frame."""


class Position(NamedTuple):
    """A place in the history: behind `revision`. What comes next stands in the log at `lsn`, where a record begins, or
    behind it."""

    lsn: int
    revision: int


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


class Frame(NamedTuple):
    """An encoded event. `place`: twice its revision; of activity one more than twice the revision it stands behind."""

    place: int
    data: bytes


class Chunk:
    """Encoded events of a part of the history, and where each revision begins in them.

    Attributes:
        end: the position behind it.
        data: the frames, one after the other.
        frames: how many.
    """

    __slots__ = ("_offsets", "_places", "data", "end", "frames")

    def __init__(self, end: Position, frames: Sequence[Frame]) -> None:
        self.end = end
        self.frames = len(frames)
        self.data = b"".join([frame.data for frame in frames])
        self._places = array("Q", [frame.place for frame in frames])
        self._offsets = array("Q")
        offset = 0
        for frame in frames:
            self._offsets.append(offset)
            offset += len(frame.data)

    def __len__(self) -> int:
        return len(self.data) + 16 * self.frames + _CHUNK_OVERHEAD

    def after(self, revision: int) -> tuple[bytes | memoryview, int]:
        """The frames of what is behind `revision`, and how many they are."""
        first = bisect_right(self._places, 2 * revision)
        if first == 0:
            return self.data, self.frames
        if first == self.frames:
            return b"", 0
        return memoryview(self.data)[self._offsets[first] :], self.frames - first


def merge(changes: list[Frame], activity: list[Frame]) -> list[Frame]:
    """Changes and activity in one order; both are in order."""
    return sorted(changes + activity, key=lambda frame: frame.place) if activity else changes


def activity_frames(lines: Iterable[Activity], shown: int, encode: Encode) -> list[Frame]:
    """Activity, encoded. `shown`: the last revision shown already; a line that comes late stands behind that."""
    return [Frame(2 * max(line.end, shown) + 1, encode(activity_line(line))) for line in lines]


class Puts:
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
    encoders: Sequence[Encode],
    piece_bytes: int = CHUNK_BYTES,
    puts: Puts | None = None,
) -> Iterator[tuple[Position, dict[Encode, list[Frame]]]]:
    """The changes of `records`, each decoded once and encoded once by each encoder: where a piece ends, and its frames.

    A piece ends when it has `piece_bytes`, and with the last record. `puts` is told of the puts. Raises
    `ProtocolError`.
    """
    frames: dict[Encode, list[Frame]] = {encode: [] for encode in encoders}
    size, end = 0, None
    for record in records:
        if record.kind != DATA:
            continue
        for revision, change in changes(decode_events(record.payload), record.revision):
            line = change_line(change)
            if line is None:
                continue
            if puts is not None and type(change) is PutEvent:
                puts.note(change.key, revision)
            for encode, encoded in frames.items():
                encoded.append(Frame(2 * revision, encode(line)))
            size += len(line)
            if size >= piece_bytes:
                yield Position(record.lsn, revision), frames
                frames, size = {encode: [] for encode in encoders}, 0
        end = Position(record.end, record.next_revision - 1)
    if end is not None:
        yield end, frames


def chunk_from_log(found: list[Record], following_lsn: int, revision: int, encode: Encode) -> Chunk:
    """What was read from the log, for a client that has everything up to `revision`. Raises `ProtocolError`."""
    frames: list[Frame] = []
    for _, encoded in pieces(found, [encode]):
        frames += encoded[encode]
    last = found[-1].next_revision - 1 if found else revision
    return Chunk(Position(following_lsn, last), frames)


@dataclass(slots=True)
class Cursor:
    """How far one client has got.

    Attributes:
        position: everything up to there was given to it.
        sequence: of the chunk it gets next from the tail.
        delivered: how many frames it was given.
    """

    position: Position
    sequence: int
    delivered: int = 0

    def give(self, chunk: Chunk) -> bytes | memoryview:
        """What of `chunk` is new to this client, which then has it."""
        data, count = chunk.after(self.position.revision)
        self.delivered += count
        if chunk.end.revision >= self.position.revision:
            lsn = chunk.end.lsn
            if chunk.end.revision == self.position.revision:  # both are right; the later one spares reading
                lsn = max(lsn, self.position.lsn)
            self.position = Position(lsn, chunk.end.revision)
        return data


class Behind(Exception):
    """What a client needs next is not in the tail any more."""


class Tail:
    """The chunks shown last."""

    def __init__(self, position: Position, most_bytes: int = TAIL_BYTES) -> None:
        self.position = self._begin = position  # what is kept comes behind `_begin`
        self._most_bytes = most_bytes
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._next = 0  # sequence number of the next chunk

    def join(self, position: Position) -> Cursor:
        """A client that has everything up to `position`, which is not before the tail's."""
        return Cursor(position, self._next)

    def append(self, chunk: Chunk) -> None:
        """Show a chunk to everybody."""
        self.position = chunk.end
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._next += 1
        while self._bytes > self._most_bytes and len(self._chunks) > 1:
            dropped = self._chunks.popleft()
            self._bytes -= len(dropped)
            self._begin = dropped.end

    def next(self, cursor: Cursor) -> bytes | memoryview | None:
        """What `cursor`'s client gets next, which it then has; None if it has everything. Raises `Behind`."""
        while cursor.sequence < self._next:
            index = cursor.sequence - (self._next - len(self._chunks))
            if index < 0:
                raise Behind
            cursor.sequence += 1
            data = cursor.give(self._chunks[index])
            if data:
                return data
        return None

    def rejoin(self, cursor: Cursor) -> bool:
        """Let a client that caught up by itself go on here, if it has reached what is kept.

        It goes on with the first chunk that holds a change it lacks.
        """
        if cursor.position.revision < self._begin.revision:
            return False
        cursor.sequence = self._next
        for chunk in reversed(self._chunks):
            if chunk.end.revision <= cursor.position.revision:
                break
            cursor.sequence -= 1
        return True


class Waiting:
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
