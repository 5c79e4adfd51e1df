"""The clients of `/wal`, and what they read: a tail for each view in use, and the log for clients left behind."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from kvserver.gateway.history.catch_up import CatchUpTurns
from kvserver.gateway.history.order import activity_frames, chunks_from_log, merge_frames
from kvserver.gateway.history.reread import RereadCache
from kvserver.gateway.transport.frames import Piece
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.gateway.wal.tail import (
    TAIL_BYTES,
    Behind,
    Chunk,
    LargeFrameCache,
    PlacedFrame,
    Position,
    Tail,
    WalCursor,
)
from kvserver.gateway.wal.views import Marks, View
from shards.log.reader import LogReader, Trimmed
from shards.wire.protocol import Activity

READ_BYTES: Final = 256 << 10
"""Bytes read from the log at a time."""
REREAD_BYTES: Final = 8 << 20
"""Bytes kept of what clients that were left behind have read."""
MOST_TAIL_BYTES: Final = 4 * TAIL_BYTES
"""Bytes kept in the tails of all views."""


class WalReader:
    """One client of `/wal`.

    Attributes:
        view: what it sees.
        tail: of its view.
        cursor: how far it has got.
        wake: called when there may be more for it.
        turn: to read the log, where the tail has left it behind.
        overtaken: why what it lacks is gone; None: it is not.
        waits: whether it got nothing because its budget is full.
    """

    def __init__(
        self, readers: WalReaders, view: View, position: Position, wake: Callable[[], None], budget: SendBudget
    ) -> None:
        """Begin at `position`, with a tail of `readers` for `view`."""
        self.view, self.tail, self.wake = view, readers.tails[view], wake
        self.cursor = self.tail.join(position)
        self.turn = readers.turns.of(budget)
        self.overtaken: Trimmed | None = None
        self.waits = False
        self._readers, self._budget = readers, budget

    def next_piece(self) -> Piece | None:
        """Return what this client gets next, which it then has; None if it has everything. May switch.

        Raises `Trimmed` if the log does not reach back to where it is, `LogError`, `ClientGone`.
        """
        cursor, readers = self.cursor, self._readers
        self.waits = self._budget.is_full and not cursor.begun  # the rest of a frame must follow
        if self.waits:
            return None
        before = cursor.delivered
        data: bytes | memoryview | None = b""
        while data is not None and not data:  # a chunk may have nothing that is new to this client
            if cursor.large is not None:
                data = cursor.give(cursor.large)
                break
            if self.overtaken is not None:
                raise self.overtaken
            try:
                data = self.tail.next(cursor)
            except Behind:
                if not self.tail.rejoin(cursor):
                    self.turn.wait()
                    data = readers.reread(self.view, cursor, self.tail.position)
                    self.tail.rejoin(cursor)
                breathe()
        readers.large_frames.note(cursor, time.monotonic())
        readers.counts["deliveries"] += cursor.delivered - before
        return None if data is None else Piece(data, not cursor.begun)


class WalReaders:
    """All clients of `/wal` of one gateway.

    Attributes:
        counts: figures for the board.
        tails: what was shown last, for each view in use.
        marks: the prefix deletes that were shown last.
        large_frames: those that clients are in the middle of.
        turns: of clients that are left behind.
    """

    def __init__(self, log_reader: LogReader, counts: Counter[str], turns: CatchUpTurns) -> None:
        """Read the log with `log_reader` for clients that are left behind."""
        self.counts, self.turns = counts, turns
        self.tails: dict[View, Tail] = {}
        self.marks = Marks()
        self.large_frames = LargeFrameCache()
        self._log_reader = log_reader
        self._readers: set[WalReader] = set()
        self._reread: RereadCache[tuple[View, int], list[Chunk]] = RereadCache(REREAD_BYTES)

    def __len__(self) -> int:
        return len(self._readers)

    def add(
        self, view: View, shown: Position, position: Position, wake: Callable[[], None], budget: SendBudget
    ) -> WalReader:
        """Add a client that has everything up to `position`. `shown`: up to where the history was shown, not above."""
        if view not in self.tails:
            self.tails[view] = Tail(shown)
            self._share_memory()
        reader = WalReader(self, view, position, wake, budget)
        self._readers.add(reader)
        return reader

    def remove(self, reader: WalReader) -> None:
        """Remove a client, and its tail if no other client has the view."""
        self._readers.discard(reader)
        reader.wake = lambda: None
        reader.turn.end()
        reader.cursor.large = None
        self.large_frames.note(reader.cursor, time.monotonic())
        if not any(other.view == reader.view for other in self._readers):
            self.tails.pop(reader.view, None)
            self._share_memory()

    def show(
        self, shown: Position, end: Position, frames: dict[View, list[PlacedFrame]], lines: list[Activity]
    ) -> None:
        """Show what is between `shown` and `end`: the frames of each view, and lines of activity."""
        grown = set()
        for view, tail in self.tails.items():
            activity = activity_frames([line for line in lines if view.shows(line)], shown.revision, view.encode)
            if tail.append(end, merge_frames(frames.get(view, []), activity)):
                grown.add(tail)
        for reader in self._readers:
            if reader.tail in grown:
                reader.wake()

    def overtake(self, error: Trimmed, position: Position) -> None:
        """End all clients with `error`: what they lack, before `position`, is gone."""
        for reader in self._readers:
            reader.overtaken = error
            reader.wake()
        self.tails = {view: Tail(position) for view in self.tails}
        self._share_memory()

    def each_second(self) -> None:
        """Release what is kept too long, and let clients for whom nothing comes keep up."""
        self.large_frames.evict(time.monotonic())
        for reader in self._readers:
            reader.tail.settle(reader.cursor)
            if reader.waits:
                reader.wake()

    def _share_memory(self) -> None:
        """Divide memory among the tails: those of many views together take no more than those of a few."""
        for tail in self.tails.values():
            tail.most_bytes = min(TAIL_BYTES, MOST_TAIL_BYTES // len(self.tails))

    def reread(self, view: View, cursor: WalCursor, until: Position) -> bytes | memoryview:
        """Return what comes next, below `until`, for a client that the tail has left behind, which it then has.

        Clients that were left behind together share what is read. Raises `Trimmed`, `LogError`.
        """
        position = cursor.position
        key = (view, position.lsn)
        found = self._reread.get(key)
        if found is None:
            records, following = self._log_reader.read(position.lsn, until.lsn, READ_BYTES)
            self.counts["log_reads"] += 1
            found = chunks_from_log(records, following, position, view, self.marks)
            if records:
                self._reread.put(key, found, sum(map(len, found)))
        return cursor.give(next((chunk for chunk in found if chunk.end.revision > position.revision), found[-1]))
