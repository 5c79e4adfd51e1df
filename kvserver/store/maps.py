"""Reads of one worker: from the maps of all shards, in shared memory, without asking any shard."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Final

from kvserver.api.listing import Walk
from shards.host.board import Board
from shards.keys.last_use import open_use_recorder
from shards.maps.reader import Item, MapCursor, MapReader
from shards.wire.clock import Now
from shards.wire.errors import PreconditionFailed, Unavailable
from shards.wire.keys import shard_of
from shards.wire.protocol import Condition, Failed, Once, Reply, Value

PAGE_KEYS: Final = 1000
"""Keys read in one transaction of a list, or deleted in one step of a prefix delete."""
COUNT_KEYS: Final = 5000
"""Keys counted in one transaction."""

_ABSENT: Final = Value(0, False)


class StoreMaps:
    """One per worker, used from one thread. Transactions are short, and end before other tasks run.

    All methods raise `Unavailable` while a shard that they need has no map. A key that was read is protected from
    eviction: by `describe` and `look_up` themselves, after `get` and `get_record` by `record_use`.

    Attributes:
        records_uses: keys may be evicted; else `record_use` does nothing.
    """

    def __init__(self, board: Board) -> None:
        self._board, self._shards = board, board.facts.shards
        self._readers = [MapReader(board, index) for index in range(self._shards)]
        self._record_use = open_use_recorder(board)
        self.records_uses = self._record_use is not None

    def get(self, key: bytes) -> Item | None:
        """Return what `key` holds now, None if it is absent or expired."""
        return self._readers[shard_of(key, self._shards)].get(key, self._board.now())

    def describe(self, key: bytes) -> Item | None:
        """Return what `get` does, but without the value, however large it is."""
        now = self._board.now()
        item = self._readers[shard_of(key, self._shards)].describe(key, now)
        if self._record_use is not None and item is not None:
            self._record_use(key, now.steady_ms)
        return item

    def get_record(self, key: bytes) -> bytes | None:
        """Return the record of `key` as `MapReader.record` does; it may have expired."""
        shards = self._shards
        return self._readers[shard_of(key, shards) if shards > 1 else 0].read_record(key)

    def look_up(self, key: bytes, now: Now, condition: Condition | None = None) -> Reply:
        """Return what the shard would reply to a get at `now`."""
        try:
            item = self._readers[shard_of(key, self._shards)].get(key, now)
        except Unavailable as error:
            return Failed.of(error)
        if condition is not None:
            try:
                condition.check(0 if item is None else item.revision)
            except PreconditionFailed as error:
                return Failed.of(error)
        if item is None:
            return _ABSENT
        if self._record_use is not None:
            self._record_use(key, now.steady_ms)
        return Value(item.revision, True, item.value, item.content_type, item.expires_ms)

    def is_used_elsewhere(self, once: Once) -> bool:
        """Whether a shard remembers `once` as part of another request. What its own shard remembers it decides by
        itself: with one shard nothing is looked at."""
        return self._shards > 1 and self.is_used_by_another_request((once,))

    def is_used_by_another_request(self, operations: Iterable[Once]) -> bool:
        """Whether a shard remembers one of `operations`, of one request, as part of another request.

        What the operation's own shard remembers decides. A shard that has no map at the moment counts as one that
        remembers nothing.
        """
        now = self._board.now()
        for once in operations:
            own = self._readers[shard_of(once.key, self._shards)]
            for reader in (own, *self._readers):
                try:
                    fingerprint = reader.find_fingerprint(once.identity, now)
                except Unavailable:
                    continue
                if fingerprint == once.fingerprint:
                    break
                if fingerprint is not None:
                    return True
        return False

    def record_use(self, key: bytes) -> None:
        """Record that `key`, which is there, was read: it is not evicted soon."""
        if self._record_use is not None:
            self._record_use(key, self._board.steady_ms())

    def advance_walk(self, walk: Walk[Item], *, values: bool = False, steps: int = PAGE_KEYS) -> None:
        """Let `walk` read on, for one transaction, and look at `steps` keys at most."""
        now = self._board.now()
        cursors: list[MapCursor] = []
        try:
            for reader in self._readers:
                cursors.append(reader.open_cursor(now, values=values))  # noqa: PERF401  # closed if the next one fails
            walk.advance(cursors, steps)
        finally:
            for cursor in cursors:
                cursor.close()

    async def count_keys(
        self, prefix: bytes, after: bytes | None = None, before: bytes | None = None, cut: int | None = None
    ) -> AsyncGenerator[int, None]:
        """Count the keys that start with `prefix`, between `after` and `before`; with a cut, only values not newer.

        Yields counts to be added; other tasks run between them.
        """
        for reader in self._readers:
            place = after
            while True:
                count, place = reader.count_keys(prefix, place, before, cut, COUNT_KEYS, self._board.now())
                yield count
                await asyncio.sleep(0)
                if place is None:
                    break

    async def list_keys(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Yield all keys that start with `prefix`, in byte order, in pages; other tasks run between them.

        Not a snapshot: a key that exists throughout is listed once, one that comes or goes in the meantime may be. A
        `Walk` would yield the same, but take three times as long: it looks at each key in Python.
        """
        pages: list[list[bytes]] = [[] for _ in self._readers]
        after: list[bytes | None] = [None] * self._shards
        unread = set(range(self._shards))
        while unread or any(pages):
            for shard in [shard for shard in unread if not pages[shard]]:
                page = self._readers[shard].keys(prefix, after[shard], PAGE_KEYS, self._board.now())
                pages[shard] = page
                if len(page) < PAGE_KEYS:
                    unread.discard(shard)
                else:
                    after[shard] = page[-1]
            # Keys up to the smallest last key of the shards that have more are complete: no shard can add to them.
            bound = min((pages[shard][-1] for shard in unread), default=None)
            merged: list[bytes] = []
            for shard, page in enumerate(pages):
                count = len(page) if bound is None else bisect_right(page, bound)
                merged += page[:count]
                pages[shard] = page[count:]
            merged.sort()
            if merged:
                yield merged
            await asyncio.sleep(0)

    def close(self) -> None:
        """Close all maps."""
        for reader in self._readers:
            reader.close()
