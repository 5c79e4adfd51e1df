"""What the clients of `/v1/feed` of one gateway share: the history's latest blocks, the log before them, the maps.

`kvserver.gateway.history.source` shows records and activity here as they become visible, and only while there are
clients. Who is behind what is kept reads the log, in its own greenlet, through a cache of blocks; an index, which
grows as the log is read, says where.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from kvserver.gateway.feed.cursors import is_place
from kvserver.gateway.feed.events import OCTETS, Block, Item, Line, block_of
from kvserver.gateway.feed.follow import Overtaken
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import PAGE_BYTES, PAGE_ITEMS, Page, Part, read_page
from kvserver.gateway.history.index import Index
from kvserver.gateway.history.order import MOST_WAITING
from kvserver.gateway.transport.websocket import breathe
from kvserver.gateway.wal.tail import Position
from shards.host.board import Board
from shards.log.reader import SEGMENT, LogReader, Trimmed
from shards.log.records import HEADER, Record
from shards.maps.reader import Item as MapItem
from shards.maps.reader import MapReader
from shards.wire.keys import shard_of
from shards.wire.protocol import Activity

BLOCK_BYTES: Final = 256 << 10
"""Bytes of records in a block, unless one alone has more."""
RECENT_BYTES: Final = 16 << 20
"""Memory for blocks that were shown last."""
REREAD_BYTES: Final = 16 << 20
"""Memory for blocks that were read from the log."""
MOST_ANSWERS: Final = 4096
"""Revisions of earlier runs of which it is remembered whether they were given out: after a restart, all clients come
back, and most from the same place."""


class Member(Protocol):
    """A client, as far as its history knows it.

    Attributes:
        listens: it wants activity.
    """

    listens: bool

    def wake(self) -> None:
        """There may be something for it. Must not block."""

    def tick(self) -> None:
        """Called about every second. Must not block."""


class SharedHistory:
    """See `kvserver.gateway.feed.follow.History`."""

    def __init__(self, board: Board, reader: LogReader, counts: Counter[str], position: Position) -> None:
        """`position`: up to where the gateway has come."""
        self.epoch = board.facts.epoch
        self.members: set[Member] = set()
        self._board, self._reader, self._counts = board, reader, counts
        self._position = position
        self._recent = _Recent()
        self._reread: OrderedDict[int, Block] = OrderedDict()
        self._index = Index()
        self._index.note(position)
        self._lines: deque[Line] = deque(maxlen=MOST_WAITING)
        self._next_line = 0
        self._gave_out: dict[int, bool] = {}
        self._maps = [MapReader(board, shard) for shard in range(board.facts.shards)]

    def close(self) -> None:
        """Close maps and files."""
        self._reader.close()
        for reader in self._maps:
            reader.close()

    # What is shown

    def show(self, records: list[Record], activity: list[tuple[Activity, int]]) -> None:
        """Show records that go on from where this is, and activity, each behind its revision. May switch."""
        for line, place in activity:
            self._lines.append(Line(line, place))
            self._next_line += 1
        begin = 0
        while self.members and begin < len(records):
            end, size = begin, 0
            while end < len(records) and (end == begin or size < BLOCK_BYTES):
                size += records[end].end - records[end].lsn
                end += 1
            position = Position(records[end - 1].end, records[end - 1].next_revision - 1)
            self._recent.append(block_of(records[begin:end], self._position.revision, position.lsn))
            self._position = position
            self._index.note(position)
            begin = end
            self._wake_all()
            breathe()
            if self._position != position:
                return  # the last client left meanwhile, and who came then begins where the store is
        if begin < len(records):
            self.skip_to(Position(records[-1].end, records[-1].next_revision - 1))
        elif activity:
            self._wake_all()

    def skip_to(self, position: Position) -> None:
        """Nobody looks, or what comes before `position` is lost."""
        if position != self._position:
            self._recent = _Recent()
            self._lines.clear()
            self._position = position
            self._index.note(position)
            self._wake_all()

    def each_second(self) -> None:
        """Let clients look after themselves."""
        for member in list(self.members):
            member.tick()

    def _wake_all(self) -> None:
        for member in self.members:
            member.wake()

    # What clients ask

    def shown(self) -> int:
        """Revision up to which everything was shown here."""
        return self._position.revision

    def watermark(self) -> int:
        """Revision up to which everything may be shown."""
        return self._board.watermark()[1]

    def end(self) -> int:
        """The last revision there is."""
        return self._board.last_revision()

    def oldest(self) -> int:
        """The first revision that is kept."""
        return self._board.log.oldest_revision

    def now_ms(self) -> int:
        """Unix time by the store's clock."""
        return self._board.now_ms()

    def lines(self, number: int) -> tuple[int, Line | None]:
        """The first line of activity that is kept from `number` on, and the number after it; None: there is none."""
        first = self._next_line - len(self._lines)
        number = max(number, first)
        if number >= self._next_line:
            return self._next_line, None
        return number + 1, self._lines[number - first]

    def gave_out(self, revision: int) -> bool:
        """See `kvserver.gateway.feed.follow.History`. Of this run's revisions none is missing; of those of earlier ones
        the log tells. May switch."""
        if revision >= self._board.facts.first_revision - 1:
            return True
        known = self._gave_out.get(revision)
        if known is None:
            with self._overtaken_if_trimmed():
                known = self._find_in_log(revision)
            if len(self._gave_out) >= MOST_ANSWERS:
                self._gave_out.clear()
            self._gave_out[revision] = known
        return known

    def _find_in_log(self, revision: int) -> bool:
        """`is_place` by what the log says. Raises `Trimmed`, `LogError`."""
        lsn, reached = self._place_before(revision)
        if reached == revision:
            return True
        while True:
            records, lsn = self._reader.read(lsn, self._position.lsn, BLOCK_BYTES)
            if not records:
                raise Overtaken  # the history was replaced by another
            found = is_place(revision, records, reached)
            if found is not None:
                return found
            reached = records[-1].next_revision - 1
            breathe()

    def after(self, revision: int) -> Block:
        """The block that holds the revision after `revision`. May switch. Raises `Overtaken`, `LogError`."""
        breathe()
        block = self._recent.find(revision) or self._find_reread(revision)
        if block is None:
            with self._overtaken_if_trimmed():
                block = self._read_log(revision)
        return block

    @contextmanager
    def _overtaken_if_trimmed(self) -> Iterator[None]:
        """Raise `Overtaken` where the log does not reach back far enough any more."""
        try:
            yield
        except Trimmed:
            self._index.forget(self._board.log.oldest)
            raise Overtaken from None

    def _find_reread(self, revision: int) -> Block | None:
        for begin, block in self._reread.items():
            if begin <= revision < block.end:
                self._reread.move_to_end(begin)
                return block
        return None

    def _read_log(self, revision: int) -> Block:
        place = self._place_before(revision)
        while True:
            until = self._position
            records, following = self._reader.read(place.lsn, until.lsn, BLOCK_BYTES)
            self._counts["log_reads"] += 1
            block = block_of(records, place.revision, following)
            if block.end > revision:
                break
            if following >= until.lsn:
                raise Overtaken  # the history was replaced by another
            place = Position(following, block.end)
            self._index.note(place)
            breathe()
        self._index.note(Position(following, block.end))
        self._reread[block.begin] = block
        while len(self._reread) > 1 and sum(kept.weight for kept in self._reread.values()) > REREAD_BYTES:
            self._reread.popitem(last=False)
        return block

    def _place_before(self, revision: int) -> Position:
        """Where a record begins, not behind `revision` and not far before it. Raises `Trimmed`, `LogError`."""
        if revision < self.oldest() - 1:
            raise Trimmed(self._board.log.oldest)
        place = self._index.before(revision)
        if place is None or place.lsn < self._board.log.oldest:
            self._note_segments()
            place = self._index.before(revision)
        if place is None:
            raise Trimmed(self._board.log.oldest)
        return place

    def _note_segments(self) -> None:
        """Each segment begins with a record: read those, which tell their revisions."""
        oldest = self._board.log.oldest
        self._index.forget(oldest)
        for lsn in range(oldest, self._position.lsn, SEGMENT):
            records, _ = self._reader.read(lsn, self._position.lsn, HEADER)
            if records:
                self._index.note(Position(records[0].lsn, records[0].revision - 1))
            breathe()

    def page(self, selection: Selection, after: bytes, values: bool) -> Page:
        """What the maps have of the keys of `selection` above `after`. Raises `Unavailable`."""

        def read(prefix: bytes, after: bytes) -> Sequence[Part]:
            return [self._part(reader, prefix, after, values) for reader in self._maps]

        def read_key(key: bytes) -> Part:
            return self._part_of_key(self._maps[shard_of(key, len(self._maps))], key, values)

        return read_page(read, read_key, selection, after)

    def _part(self, reader: MapReader, prefix: bytes, after: bytes, values: bool) -> Part:
        most, most_bytes = max(PAGE_ITEMS // len(self._maps), 16), max(PAGE_BYTES // len(self._maps), 16 << 10)
        above = after if after.startswith(prefix) and after else None
        # Expired keys too: what tells their end is an event, and one that keeps them may have come before it.
        now = self._board.now()
        (_, applied), found = reader.read_page(
            prefix, above, most, now, values=values, max_bytes=most_bytes, expired=True
        )
        items = [_item(key, item) for key, item in found]
        full = len(items) >= most or sum(len(item.value) for item in items) >= most_bytes
        return Part(items, full, applied)

    def _part_of_key(self, reader: MapReader, key: bytes, values: bool) -> Part:
        (_, applied), item = reader.read_item(key, self._board.now(), values=values, expired=True)
        return Part([] if item is None else [_item(key, item)], False, applied)


def _item(key: bytes, item: MapItem) -> Item:
    content_type = item.content_type or OCTETS
    return Item(key, item.revision, item.modified_ms, item.expires_ms, content_type, item.value, item.size)


class _Recent:
    """The blocks shown last, without a gap between them."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._begins: list[int] = []
        self._weight = 0

    def append(self, block: Block) -> None:
        self._blocks.append(block)
        self._begins.append(block.begin)
        self._weight += block.weight
        if self._weight > RECENT_BYTES and len(self._blocks) > 1:
            self._drop()

    def _drop(self) -> None:
        """More than one too many, so that it is done seldom."""
        count = 0
        while self._weight > RECENT_BYTES * 3 // 4 and count < len(self._blocks) - 1:
            self._weight -= self._blocks[count].weight
            count += 1
        del self._blocks[:count], self._begins[:count]

    def find(self, revision: int) -> Block | None:
        at = bisect_right(self._begins, revision) - 1
        return self._blocks[at] if at >= 0 and revision < self._blocks[at].end else None
