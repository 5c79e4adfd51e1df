"""Reads the map of a shard, from any process but the shard's own: one transaction per lookup or page.

A reader learns from the shard's row of the board which generation of the map to open, and compares it at each
transaction. No transaction lasts longer than one call, because an old one keeps the map from using its pages again.
"""

from __future__ import annotations

from pathlib import Path

import lmdb

from shards.host.board import Board, ShardRow
from shards.maps.cursor import MapCursor
from shards.maps.layout import (
    HEADER,
    Item,
    MapError,
    map_path,
    open_environment,
    parse_record,
    parse_without_value,
    read_applied,
    scan,
    with_wall_times,
)
from shards.wire.clock import Now, is_live
from shards.wire.errors import Unavailable
from shards.wire.outcomes import OutcomeRecord

__all__ = ["PAGE_BYTES", "Item", "MapCursor", "MapReader"]

PAGE_BYTES = 1 << 20
"""Bytes of values after which a page of a listing ends."""

_unpack = HEADER.unpack_from


class MapReader:
    """A reader's handle on the map of one shard: one per process and shard, from one thread.

    LMDB opens an environment once per process, so the shard itself, which has a `MapOwner`, cannot have a reader.
    """

    def __init__(self, board: Board, shard: int) -> None:
        self._map_dir, self._shard = Path(board.facts.map_dir), shard
        self._row = row = board.shards[shard]
        self._words, self._generation_at = row.words, row.base + ShardRow.map_generation.index
        self._generation = -1  # of the open environment; no word is negative
        self._env: lmdb.Environment | None = None

    def get(self, key: bytes, now: Now) -> Item | None:
        """Return the item of `key` (1 to 511 bytes) at `now`, by wall time; None if it is absent or expired.

        Raises `Unavailable` if the shard has no map at the moment.
        """
        if self._words[self._generation_at] != self._generation:
            self._open_generation()
        txn = self._begin(self._data, None, False, True)
        record = txn.get(key)
        item = None if record is None else parse_record(record)
        txn.abort()
        if item is None or not is_live(item[2], now):
            return None
        return with_wall_times(item, now)

    def describe(self, key: bytes, now: Now) -> Item | None:
        """Return the item of `key` as `get` does, but without its value: however large it is, none of it is copied."""
        with self._begin_transaction() as txn:
            record = txn.get(key)
            if record is None or not is_live(_unpack(record)[2], now):
                return None
            return with_wall_times(parse_without_value(record), now)

    def read_record(self, key: bytes) -> bytes | None:
        """Return the record of `key` (1 to 511 bytes) as `layout` specifies it; it may have expired. None if absent.

        For fast access to little of it. Raises `Unavailable` if the shard has no map at the moment.
        """
        if self._words[self._generation_at] != self._generation:
            self._open_generation()
        txn = self._begin(self._data, None, False, False)
        record: bytes | None = txn.get(key)
        txn.abort()
        return record

    def find_fingerprint(self, identity: bytes, now: Now) -> bytes | None:
        """Return the fingerprint of the request of `identity` that the shard remembers at `now`; None: it has none.

        Raises `Unavailable`.
        """
        if self._words[self._generation_at] != self._generation:
            self._open_generation()
        txn = self._begin(self._identities, None, False, False)
        place = txn.get(identity)
        record = None if place is None else txn.get(place, db=self._outcomes)
        txn.abort()
        outcome = None if record is None else OutcomeRecord.decode(record)
        return None if outcome is None or outcome.is_over(now) else outcome.fingerprint

    def read_page(
        self,
        prefix: bytes,
        after: bytes | None,
        limit: int,
        now: Now,
        *,
        values: bool = False,
        max_bytes: int = PAGE_BYTES,
        expired: bool = False,
    ) -> tuple[tuple[int, int], list[tuple[bytes, Item]]]:
        """Read at most `limit` live keys that start with `prefix` and are above `after`, with their items.

        Returns what was applied (LSN, revision) to the very state that is read, and the pairs in key order. Values are
        left empty unless `values`; then the page ends with the item that takes it past `max_bytes` of values. An empty
        page ends the listing. `expired`: expired keys, too. Raises `Unavailable`.
        """
        found: list[tuple[bytes, Item]] = []
        with self._begin_transaction() as txn:
            applied = read_applied(txn, self._meta)
            for key, record in scan(txn, self._data, prefix, after):
                if len(found) >= limit or max_bytes <= 0:
                    break
                if expired or is_live(_unpack(record)[2], now):
                    item = with_wall_times(parse_record(record) if values else parse_without_value(record), now)
                    max_bytes -= len(item.value)
                    found.append((bytes(key), item))
        return applied, found

    def read_item(
        self, key: bytes, now: Now, *, values: bool = False, expired: bool = False
    ) -> tuple[tuple[int, int], Item | None]:
        """Read the item of `key`, and what was applied (LSN, revision) to the very state that is read.

        Without its value unless `values`. `expired`: return expired items, too.
        """
        with self._begin_transaction() as txn:
            applied = read_applied(txn, self._meta)
            record = txn.get(key)
            if record is None or not (expired or is_live(_unpack(record)[2], now)):
                return applied, None
            return applied, with_wall_times(parse_record(record) if values else parse_without_value(record), now)

    def keys(self, prefix: bytes, after: bytes | None, limit: int, now: Now) -> list[bytes]:
        """List at most `limit` live keys that start with `prefix` and are above `after`, in key order.

        Fewer only if there are no more. Raises `Unavailable`.
        """
        found: list[bytes] = []
        with self._begin_transaction() as txn:
            for key, record in scan(txn, self._data, prefix, after):
                if len(found) >= limit:
                    break
                if is_live(_unpack(record)[2], now):
                    found.append(bytes(key))
        return found

    def count_keys(
        self, prefix: bytes, after: bytes | None, before: bytes | None, cut: int | None, steps: int, now: Now
    ) -> tuple[int, bytes | None]:
        """Count the live ones of the next `steps` keys that start with `prefix` and are between `after` and `before`.

        With a cut, only keys count whose value is not newer. Returns the count and the last of the keys; None: there
        are no more. Raises `Unavailable`.
        """
        count = 0
        with self._begin_transaction() as txn:
            for key, record in scan(txn, self._data, prefix, after):
                if before is not None and key >= before:
                    break
                _, value_revision, expires_ms, *_ = _unpack(record)
                count += is_live(expires_ms, now) and (cut is None or value_revision <= cut)
                steps -= 1
                if not steps:
                    return count, key
        return count, None

    def open_cursor(self, now: Now, *, values: bool = False) -> MapCursor:
        """Open a cursor at `now`, whose items hold values if `values`. It is to be closed, which ends its transaction.

        Raises `Unavailable`.
        """
        return MapCursor(self._begin_transaction(), self._data, now, values)

    def applied(self) -> tuple[int, int]:
        """Read the LSN after the last record applied, and its last revision. Raises `Unavailable`."""
        with self._begin_transaction() as txn:
            return read_applied(txn, self._meta)

    def close(self) -> None:
        """Close the map; the next read opens it again."""
        if self._env is not None:
            self._env.close()
        self._env, self._generation = None, -1

    def _begin_transaction(self) -> lmdb.Transaction[memoryview]:
        if self._words[self._generation_at] != self._generation:
            self._open_generation()
        return self._begin(self._data, None, False, True)

    def _open_generation(self) -> None:
        self.close()
        generation = self._row.load_before_file(ShardRow.map_generation)
        if generation == 0:
            raise Unavailable(f"shard {self._shard} has no map yet")
        try:
            env = open_environment(map_path(self._map_dir, self._shard, generation), readonly=True)
            self._data = env.open_db(b"data", create=False)
            self._meta = env.open_db(b"meta", create=False)
            self._outcomes = env.open_db(b"outcomes", create=False)
            self._identities = env.open_db(b"identities", create=False)
        except (MapError, lmdb.Error) as error:
            raise Unavailable(f"the map of shard {self._shard} cannot be opened: {error}") from None
        self._env, self._begin, self._generation = env, env.begin, generation
