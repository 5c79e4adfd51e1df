"""What the clients of `/v1/feed` of one gateway share: the history's latest blocks, the log before them, the maps.

`kvserver.gateway.history.source` shows records and activity here as they become visible, and only while there are
clients. A client that is behind what is kept reads the log in its own greenlet, through a cache of blocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from typing import Final, Protocol

from kvserver.gateway.feed.events import ActivityLine, Block, block_of
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import Page
from kvserver.gateway.history.log_blocks import BLOCK_BYTES, LogBlocks
from kvserver.gateway.history.map_pages import MapPages
from kvserver.gateway.history.order import MOST_WAITING
from kvserver.gateway.history.summaries import BlockSummary
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.wal.tail import Position
from shards.host.board import Board
from shards.log.reader import LogReader
from shards.log.records import Record
from shards.wire.protocol import Activity

RECENT_BYTES: Final = 16 << 20
"""Memory for the blocks that were shown last."""
NEAR_BYTES: Final = 1 << 20
"""Memory of the blocks shown last: a client that lacks no more than them, or than one, need not wait for its turn."""
_BEYOND_ALL: Final = 1 << 53
"""A revision above all there can be."""
MOST_PASSED: Final = 64
"""Blocks that are passed over in one step."""


class HistoryObserver(Protocol):
    """A client, as the history sees it. None of its methods blocks.

    Attributes:
        listens: whether it wants activity.
    """

    listens: bool

    def wake(self) -> None:
        """Take note that there may be more."""

    def each_second(self) -> None:
        """Do what is due; called about every second."""


class SharedHistory:
    """The `kvserver.gateway.feed.walk.FeedHistory` of a gateway.

    Attributes:
        epoch: the history's name.
        observers: its clients.
    """

    def __init__(self, board: Board, reader: LogReader, counts: Counter[str], position: Position) -> None:
        """Begin at `position`, up to where the gateway has come. Opens the maps."""
        self.epoch = board.facts.epoch
        self.observers: set[HistoryObserver] = set()
        self._board = board
        self._position = position
        self._recent = _RecentBlocks()
        self._log = LogBlocks(board, reader, counts, lambda: self._position)
        self._log.index.note(position)
        self._maps = MapPages(board)
        self._lines: deque[ActivityLine] = deque(maxlen=MOST_WAITING)
        self._next_line = 0

    def close(self) -> None:
        """Close maps and files."""
        self._log.close()
        self._maps.close()

    # What is shown

    def show(self, records: list[Record], activity: list[tuple[Activity, int]]) -> None:
        """Show records that follow what was shown, and activity, each line after its revision. May switch."""
        for line, place in activity:
            self._lines.append(ActivityLine(line, place))
            self._next_line += 1
        begin = 0
        while self.observers and begin < len(records):
            end, size = begin, 0
            while end < len(records) and (end == begin or size < BLOCK_BYTES):
                size += records[end].end - records[end].lsn
                end += 1
            position = Position(records[end - 1].end, records[end - 1].next_revision - 1)
            self._recent.append(block_of(records[begin:end], self._position.revision, position.lsn))
            self._position = position
            self._log.index.note(position)
            begin = end
            self._wake_all()
            breathe()
            if self._position != position:
                return  # the last client left in the meantime, and one that came then begins at the watermark
        if begin < len(records):
            self.skip_to(Position(records[-1].end, records[-1].next_revision - 1))
        elif activity:
            self._wake_all()

    def skip_to(self, position: Position) -> None:
        """Continue at `position`: there are no clients, or what is before it is lost."""
        if position != self._position:
            self._recent = _RecentBlocks()
            self._lines.clear()
            self._position = position
            self._log.index.note(position)
            self._wake_all()

    def each_second(self) -> None:
        """Let clients do what is due."""
        for observer in list(self.observers):
            observer.each_second()

    def _wake_all(self) -> None:
        for observer in self.observers:
            observer.wake()

    # What clients ask

    def shown(self) -> int:
        """Return the revision up to which everything was shown here."""
        return self._position.revision

    def watermark(self) -> int:
        """Return the revision up to which everything is visible."""
        return self._board.watermark()[1]

    def end(self) -> int:
        """Return the last revision of the history; of a cluster's the highest there can be, since another machine may
        have shown what this one does not have yet."""
        return _BEYOND_ALL if self._board.facts.node else self._board.last_revision()

    def oldest(self) -> int:
        """Return the first revision that the log holds."""
        return self._board.log.oldest_revision

    def now_ms(self) -> int:
        """Return the Unix time by the store's clock."""
        return self._board.now_ms()

    def activity_from(self, number: int) -> tuple[int, ActivityLine | None]:
        """Return the first line of activity that is kept from `number` on, and the number after it."""
        first = self._next_line - len(self._lines)
        number = max(number, first)
        if number >= self._next_line:
            return self._next_line, None
        return number + 1, self._lines[number - first]

    def was_given_out(self, revision: int) -> bool:
        """Whether `revision` is a place of this history. May switch. Raises `Overtaken`, `LogError`."""
        return self._log.was_given_out(revision)

    def block_after(self, revision: int) -> Block:
        """Return the block with the revision after `revision`. May switch. Raises `Overtaken`, `LogError`."""
        breathe()
        return self._recent.find(revision) or self._log.find(revision) or self._log.read(revision)

    def is_near(self, revision: int) -> bool:
        """Whether a client at `revision` lacks only what was shown just now."""
        return self._recent.weight_after(revision) <= NEAR_BYTES

    def pass_over(self, revision: int, selection: Selection, ops: frozenset[str] | None) -> int:
        """Return up to where, after `revision`, there are none of these keys and ops (None: all of them)."""
        for _ in range(MOST_PASSED):
            summary = self._log.summaries.find(revision) or self._summary_of_recent(revision)
            if summary is None or summary.may_show(selection, ops):
                break
            revision = summary.end
        return revision

    def _summary_of_recent(self, revision: int) -> BlockSummary | None:
        block = self._recent.find(revision)
        return None if block is None else self._log.summaries.note(block)

    def map_page(self, selection: Selection, after: bytes, values: bool) -> Page:
        """Return what the maps hold of the keys of `selection` above `after`. Raises `Unavailable`."""
        return self._maps.read(selection, after, values)


class _RecentBlocks:
    """The blocks shown last, without a gap between them."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._begins: list[int] = []
        self._weight = 0
        self._ends_at: list[int] = []  # the weight of all there ever was, up to the end of each block

    def append(self, block: Block) -> None:
        self._blocks.append(block)
        self._begins.append(block.begin)
        self._weight += block.weight
        self._ends_at.append((self._ends_at[-1] if self._ends_at else 0) + block.weight)
        if self._weight > RECENT_BYTES and len(self._blocks) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop a quarter at a time, since deleting from the front of a list moves all the rest."""
        count = 0
        while self._weight > RECENT_BYTES * 3 // 4 and count < len(self._blocks) - 1:
            self._weight -= self._blocks[count].weight
            count += 1
        del self._blocks[:count], self._begins[:count], self._ends_at[:count]

    def find(self, revision: int) -> Block | None:
        at = bisect_right(self._begins, revision) - 1
        return self._blocks[at] if at >= 0 and revision < self._blocks[at].end else None

    def weight_after(self, revision: int) -> float:
        """Return the weight of the blocks after the one that has revision + 1; infinite if none has it."""
        at = bisect_right(self._begins, revision) - 1
        return self._ends_at[-1] - self._ends_at[at] if at >= 0 and revision < self._blocks[at].end else float("inf")
