"""The tail of `/wal`: what was shown last, and how far each client has got with it. Pure.

- `Chunk` is what is written at a time: some frames, or a single large one, of which clients get pieces.
- `Tail` keeps the chunks shown last, encoded once for all clients of a view, up to some size.
- `WalCursor` is one client: a position. A client that the tail has left behind reads the log on its own.
- `LargeFrameCache` bounds the large frames that are kept only because clients are in the middle of them.

A piece is a view of its frame. A sender that cannot write it at once has to copy it, or a client that does not read
would pin the whole frame.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

CHUNK_BYTES: Final = 256 << 10
"""Bytes of a chunk, unless one frame alone has more; and of a piece of such a frame."""
TAIL_BYTES: Final = 8 << 20
"""Bytes of chunks kept for clients that are a little behind."""
HELD_BYTES: Final = 16 << 20
"""Bytes of large frames that are kept for idle clients in the middle of them; the log has them all."""
MOST_HELD_BYTES: Final = 256 << 20
"""The same, with those of clients that do take something."""
IDLE_S: Final = 1.0
"""A client that was given nothing for so long is idle."""

_CHUNK_OVERHEAD: Final = 512


class Position(NamedTuple):
    """A place in the history: after `revision`. What follows is in the log at `lsn`, where a record begins, or after
    it."""

    lsn: int
    revision: int


class PlacedFrame(NamedTuple):
    """An encoded line. `place`: twice its revision; of activity one more than twice the revision it is after."""

    place: int
    data: bytes


class Chunk:
    """The encoded lines of a part of the history, and where each revision begins in them.

    Attributes:
        end: the position after it.
        data: the frames, one after the other.
        frames: how many.
    """

    __slots__ = ("_offsets", "_places", "data", "end", "frames")

    def __init__(self, end: Position, frames: Sequence[PlacedFrame]) -> None:
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
        """Return the frames of what is after `revision`, and how many they are."""
        first = bisect_right(self._places, 2 * revision)
        if first == 0:
            return self.data, self.frames
        if first == self.frames:
            return b"", 0
        return memoryview(self.data)[self._offsets[first] :], self.frames - first


def chunks(begin: Position, end: Position, frames: Iterable[PlacedFrame]) -> Iterator[Chunk]:
    """Cut `frames`, all between `begin` and `end`, into chunks; yields at least one, which may have no frames."""
    run: list[PlacedFrame] = []
    size = 0
    for frame in frames:
        if run and size + len(frame.data) > CHUNK_BYTES:
            yield Chunk(Position(begin.lsn, run[-1].place // 2), run)
            run, size = [], 0
        run.append(frame)
        size += len(frame.data)
    yield Chunk(end, run)


@dataclass(slots=True, eq=False)
class WalCursor:
    """The place of one client in the history, and in a large frame.

    Attributes:
        position: it has everything up to there.
        sequence: of the chunk it gets next from the tail.
        delivered: how many frames it has.
        begun: how many bytes it has of the large frame that comes next; it must get the rest before anything else.
        large: the chunk with that frame, while it is kept for this client.
    """

    position: Position
    sequence: int
    delivered: int = 0
    begun: int = 0
    large: Chunk | None = None

    def give(self, chunk: Chunk) -> bytes | memoryview:
        """Return what of `chunk` is new to this client, or the next piece of it; the client then has that."""
        data, count = chunk.after(self.position.revision)
        if self.begun and len(data) <= CHUNK_BYTES:
            data, count = b"", 0  # activity that is not in the log: within a frame it is too late for it
        if len(data) > CHUNK_BYTES:
            piece = memoryview(data)[self.begun : self.begun + CHUNK_BYTES]
            self.begun += len(piece)
            if self.begun < len(data):
                self.large = chunk
                return piece
            data, self.begun, self.large = piece, 0, None
        self.delivered += count
        self.advance(chunk.end)
        return data

    def advance(self, position: Position) -> None:
        """Move forward to `position`; a position behind stays."""
        lsn, revision = position
        if revision >= self.position.revision:
            if revision == self.position.revision:  # both are right; the later one spares reading
                lsn = max(lsn, self.position.lsn)
            self.position = Position(lsn, revision)


class Behind(Exception):
    """The tail no longer has what a client needs next."""


class Tail:
    """The chunks shown last, of one view.

    Attributes:
        position: up to where the history was shown.
        most_bytes: of chunks to keep; the last one always stays.
    """

    def __init__(self, position: Position, most_bytes: int = TAIL_BYTES) -> None:
        self.position = self._begin = position  # what is kept comes after `_begin`
        self.most_bytes = most_bytes
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._next = 0  # sequence number of the next chunk

    def join(self, position: Position) -> WalCursor:
        """Make the cursor of a client that has everything up to `position`, which is not before the tail's."""
        return WalCursor(position, self._next)

    def append(self, end: Position, frames: Sequence[PlacedFrame]) -> bool:
        """Add the frames up to `end`; return whether there are any."""
        begin, self.position = self.position, end
        if not frames:
            return False
        for chunk in chunks(begin, end, frames):
            self._chunks.append(chunk)
            self._bytes += len(chunk)
            self._next += 1
        while self._bytes > self.most_bytes and len(self._chunks) > 1:
            dropped = self._chunks.popleft()
            self._bytes -= len(dropped)
            self._begin = dropped.end
        return True

    def next(self, cursor: WalCursor) -> bytes | memoryview | None:
        """Return what `cursor`'s client gets next, which it then has; None if it has everything. Raises `Behind`."""
        while cursor.sequence < self._next:
            index = cursor.sequence - (self._next - len(self._chunks))
            if index < 0:
                raise Behind
            data = cursor.give(self._chunks[index])
            if not (data and cursor.begun):
                cursor.sequence += 1
            if data:
                return data
        self.settle(cursor)
        return None

    def settle(self, cursor: WalCursor) -> None:
        """Move a client that has everything to the tail's position, though what came last had nothing for it."""
        if cursor.sequence == self._next:
            cursor.advance(self.position)

    def rejoin(self, cursor: WalCursor) -> bool:
        """Let a client that caught up on its own continue here; False if it has not reached what is kept.

        It continues with the first chunk that holds a change it lacks.
        """
        if cursor.position.revision < self._begin.revision:
            return False
        cursor.sequence = self._next
        for chunk in reversed(self._chunks):
            if chunk.end.revision <= cursor.position.revision:
                break
            cursor.sequence -= 1
        return True


class LargeFrameCache:
    """The large frames that clients are in the middle of, as many as may be kept.

    The client that has taken nothing for longest loses its frame first, and has to find it in the tail, or in the log.
    """

    def __init__(self, most_idle: int = HELD_BYTES, most: int = MOST_HELD_BYTES) -> None:
        """Keep `most_idle` bytes of frames for idle clients, and `most` for all."""
        self._most_idle, self._most = most_idle, most
        self._frames: OrderedDict[WalCursor, tuple[Chunk, float]] = OrderedDict()
        self._uses: Counter[Chunk] = Counter()
        self._bytes = 0

    def note(self, cursor: WalCursor, now: float) -> None:
        """Note that `cursor` was given something, or is gone (then without `large`). `now`: seconds."""
        if cursor.large is None and cursor not in self._frames:
            return
        self._release(cursor)
        if cursor.large is not None:
            self._frames[cursor] = cursor.large, now
            self._uses[cursor.large] += 1
            if self._uses[cursor.large] == 1:
                self._bytes += len(cursor.large)
        self.evict(now)

    def evict(self, now: float) -> None:
        """Release frames until the limits hold. `now`: seconds."""
        while self._bytes > self._most_idle and len(self._frames) > 1:
            cursor, (_, given_at) = next(iter(self._frames.items()))
            if now - given_at < IDLE_S and self._bytes <= self._most:
                break
            cursor.large = None
            self._release(cursor)

    def _release(self, cursor: WalCursor) -> None:
        if cursor not in self._frames:
            return
        chunk, _ = self._frames.pop(cursor)
        self._uses[chunk] -= 1
        if not self._uses[chunk]:
            del self._uses[chunk]
            self._bytes -= len(chunk)
