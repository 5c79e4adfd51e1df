"""Blocks of the log, for clients of `/v1/feed` that are behind what is kept; and which revisions were given out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from kvserver.gateway.feed.cursors import is_place
from kvserver.gateway.feed.events import Block, block_of
from kvserver.gateway.feed.walk import Overtaken
from kvserver.gateway.history.index import LogIndex
from kvserver.gateway.history.reread import RereadCache
from kvserver.gateway.history.summaries import BlockSummaries
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.wal.tail import Position
from shards.host.board import Board
from shards.log.reader import SEGMENT, LogReader, Trimmed
from shards.log.records import HEADER

BLOCK_BYTES: Final = 256 << 10
"""Bytes of records in a block, unless one record alone has more."""
REREAD_BYTES: Final = 16 << 20
"""Memory for blocks that were read from the log."""
MOST_ANSWERS: Final = 4096
"""Revisions of earlier runs of which it is remembered whether they were given out: after a restart all clients return,
and most of them to the same place."""


class LogBlocks:
    """Reads the log below what the gateway has shown. Clients that are behind together share the blocks.

    Attributes:
        index: where in the log revisions are; it grows as the log is read.
        summaries: of the blocks that were read.
    """

    def __init__(self, board: Board, reader: LogReader, counts: Counter[str], shown: Callable[[], Position]) -> None:
        """Read with `reader`. `shown`: returns up to where the gateway has come."""
        self.index = LogIndex()
        self.summaries = BlockSummaries()
        self._board, self._reader, self._counts, self._shown = board, reader, counts, shown
        self._blocks: RereadCache[int, Block] = RereadCache(REREAD_BYTES)
        self._given_out: dict[int, bool] = {}

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def find(self, revision: int) -> Block | None:
        """Return the block with the revision after `revision` if it was read before."""
        for begin, block in self._blocks.items():
            if begin <= revision < block.end:
                return self._blocks.get(begin)
        return None

    def read(self, revision: int) -> Block:
        """Read the block with the revision after `revision`. May switch. Raises `Overtaken`, `LogError`."""
        with self._overtaken_if_trimmed():
            return self._read_block(revision)

    def was_given_out(self, revision: int) -> bool:
        """Whether `revision` is a place of this history. May switch. Raises `Overtaken`, `LogError`.

        All of this run's are, up to its end; of those of earlier runs the log says. In a cluster all are: its history
        goes on over all runs, and other machines show of it what this one may not show yet.
        """
        if self._board.facts.node or revision >= self._board.facts.first_revision - 1:
            return True
        known = self._given_out.get(revision)
        if known is None:
            with self._overtaken_if_trimmed():
                known = self._find_place(revision)
            if len(self._given_out) >= MOST_ANSWERS:
                self._given_out.clear()
            self._given_out[revision] = known
        return known

    @contextmanager
    def _overtaken_if_trimmed(self) -> Iterator[None]:
        """Raise `Overtaken` where the log does not reach back far enough any more."""
        try:
            yield
        except Trimmed:
            self.index.forget(self._board.log.oldest)
            raise Overtaken from None

    def _find_place(self, revision: int) -> bool:
        """Apply `is_place` to what the log has. Raises `Trimmed`, `LogError`."""
        lsn, reached = self._place_before(revision)
        if reached == revision:
            return True
        while True:
            records, lsn = self._reader.read(lsn, self._shown().lsn, BLOCK_BYTES)
            if not records:
                raise Overtaken  # the history was replaced by another
            found = is_place(revision, records, reached)
            if found is not None:
                return found
            reached = records[-1].next_revision - 1
            breathe()

    def _read_block(self, revision: int) -> Block:
        place = self._place_before(revision)
        while True:
            until = self._shown()
            records, following = self._reader.read(place.lsn, until.lsn, BLOCK_BYTES)
            self._counts["log_reads"] += 1
            block = block_of(records, place.revision, following)
            self.summaries.note(block)
            if block.end > revision:
                break
            if following >= until.lsn:
                raise Overtaken  # the history was replaced by another
            place = Position(following, block.end)
            self.index.note(place)
            breathe()
        self.index.note(Position(following, block.end))
        self._blocks.put(block.begin, block, block.weight)
        return block

    def _place_before(self, revision: int) -> Position:
        """Return where a record begins, not after `revision` and not far before it. Raises `Trimmed`, `LogError`."""
        if revision < self._board.log.oldest_revision - 1:
            raise Trimmed(self._board.log.oldest)
        place = self.index.before(revision)
        if place is None or place.lsn < self._board.log.oldest:
            self._note_segments()
            place = self.index.before(revision)
        if place is None:
            raise Trimmed(self._board.log.oldest)
        return place

    def _note_segments(self) -> None:
        """Put the first record of each segment into the index: every segment begins with one."""
        oldest = self._board.log.oldest
        self.index.forget(oldest)
        for lsn in range(oldest, self._shown().lsn, SEGMENT):
            records, _ = self._reader.read(lsn, self._shown().lsn, HEADER)
            if records:
                self.index.note(Position(records[0].lsn, records[0].revision - 1))
            breathe()
