"""A place in a map, for lists that leap: over one transaction, so not to be kept over a turn of an event loop."""

from __future__ import annotations

import lmdb

from shards.maps.layout import HEADER, HEADER_SIZE, Item, parse_record, parse_without_value, with_wall_times
from shards.wire.clock import Now, is_live

_unpack = HEADER.unpack_from


class MapCursor:
    """See `MapReader.open_cursor`. Expired keys are met, too. Each move returns the key there, or None."""

    def __init__(self, txn: lmdb.Transaction[memoryview], database: lmdb._Database, now: Now, values: bool) -> None:
        self._txn, self._cursor, self._now, self._values = txn, txn.cursor(database), now, values

    def close(self) -> None:
        """End the transaction, and with it the use of this cursor."""
        self._txn.abort()

    def seek(self, key: bytes) -> bytes | None:
        """Go to the first key that is not below `key`."""
        return self._key_here(self._cursor.set_range(key) if key else self._cursor.first())

    def seek_below(self, key: bytes | None) -> bytes | None:
        """Go to the last key that is below `key`; None: the last of all."""
        if key == b"":
            return None
        if key is None or not self._cursor.set_range(key):
            return self._key_here(self._cursor.last())
        return self._key_here(self._cursor.prev())

    def next(self) -> bytes | None:
        """Go one up."""
        cursor = self._cursor  # `_key_here`, unrolled: lists go up from key to key
        return bytes(cursor.key()) if cursor.next() else None

    def prev(self) -> bytes | None:
        """Go one down."""
        return self._key_here(self._cursor.prev())

    def size(self) -> int | None:
        """Return the bytes of the value that `item` reads, 0 where it leaves values out; None if the key is expired."""
        self._record = record = self._cursor.value()
        _, _, expiry, _, _, length = _unpack(record)
        if expiry and not is_live(expiry, self._now):
            return None
        return len(record) - HEADER_SIZE - length if self._values else 0

    def item(self) -> Item:
        """Return the item of the key whose size was just asked for."""
        return with_wall_times(
            parse_record(self._record) if self._values else parse_without_value(self._record), self._now
        )

    def _key_here(self, found: bool) -> bytes | None:
        return bytes(self._cursor.key()) if found else None
