"""Lists of keys over all shards: one cursor per shard, merged in key order, folded at delimiters. Pure.

A list consists of rows. A key is a row of its own, unless it has a delimiter after the prefix: all keys that are
equal up to the end of the first one there are one row, a prefix. A row's name is its key or that prefix. Of several
delimiters the first is the one that ends first: then all keys that start with a folded name are folded to it, whatever
delimiters overlap in them.

Rows are in byte order of their names, and `after` and `before` are names, so a page continues wherever another ended.
Folding keeps the order of keys, so a walk over the keys meets the rows in order, and skips what a prefix folds.

A range may be a few parts of its prefix, which are walked one after the other. Keys between them do not exist for it: a
prefix is a row if a key in a part is folded there.

A walk may pause after any key and continue with other cursors: each needs a transaction, which must be short.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

Item = TypeVar("Item")
"""What a cursor reads of a key."""
ItemRead = TypeVar("ItemRead", covariant=True)
Row = tuple[bytes, Item | None]
"""Name, and what the key holds; None: a prefix."""


class KeyCursor(Protocol[ItemRead]):
    """A place among a shard's keys, expired ones included. Moves return the key at the new place, None at an end."""

    def seek(self, key: bytes) -> bytes | None:
        """Go to the first key that is not below `key`."""

    def seek_below(self, key: bytes | None) -> bytes | None:
        """Go to the last key that is below `key`; None: the last of all."""

    def next(self) -> bytes | None:
        """Go to the next higher key."""

    def prev(self) -> bytes | None:
        """Go to the next lower key."""

    def size(self) -> int | None:
        """Return the bytes of the value that `item` would read, None if the key is expired."""

    def item(self) -> ItemRead:
        """Return what the key holds, after `size`."""


class ListRange(NamedTuple):
    """The rows of a list, and their order. `after` and `before` are exclusive in either order.

    `delimiters`: none of them is empty.
    `parts`: only keys that start with one of these, which start with `prefix`; in byte order, none inside another.
    Empty: all keys that start with `prefix`.
    """

    prefix: bytes = b""
    after: bytes | None = None
    before: bytes | None = None
    reverse: bool = False
    delimiters: tuple[bytes, ...] = ()
    parts: tuple[bytes, ...] = ()


class Walk(Generic[Item]):
    """Reads the rows of a range, as many as are wanted at a time.

    Attributes:
        rows: read and not taken.
        bytes_read: of the values in `rows`.
        done: all rows were read.
        full: the next row did not fit; `take_rows` makes room.
    """

    def __init__(self, wanted: ListRange, limit: int, max_bytes: int) -> None:
        """`rows` holds at most `limit` rows, and `max_bytes` of values, but at least one row."""
        self._wanted, self._reverse = wanted, wanted.reverse
        self._limit, self._max_bytes = limit, max_bytes
        self.rows: list[Row[Item]] = []
        self.done = self.full = False
        self.bytes_read = 0
        self._at = self._highest_start() if wanted.reverse else self._lowest_start()  # seek's argument
        parts = wanted.parts or (wanted.prefix,)
        self._parts = deque(reversed(parts) if wanted.reverse else parts)
        self._part = self._parts[0]
        self._enter_next()

    def take_rows(self) -> list[Row[Item]]:
        """Take the rows read so far, which makes room for as many again."""
        rows, self.rows = self.rows, []
        self.bytes_read, self.full = 0, False
        return rows

    def advance(self, cursors: Sequence[KeyCursor[Item]], steps: int) -> None:
        """Read rows until the walk is `done` or `full`, or has looked at `steps` keys."""
        _, after, before, reverse, delimiters, _ = self._wanted
        end = after if reverse else before
        heads: dict[bytes, KeyCursor[Item]] = {}
        self._place_cursors(heads, cursors)
        nearest = max if reverse else min
        for _ in range(steps):
            key = nearest(heads) if heads else None
            if key is None or not key.startswith(self._part):
                if key is not None and self._enter_next():
                    heads.clear()
                    self._place_cursors(heads, cursors)
                    continue
                self.done = True
                return
            folded = self._fold_key(key) if delimiters else None
            if end is not None and ((folded or key) <= end if reverse else (folded or key) >= end):
                self.done = True
                return
            cursor = heads[key]
            size = cursor.size()
            if size is None:
                self._pass_key(heads, key)
            elif self.rows and (len(self.rows) >= self._limit or self.bytes_read + size > self._max_bytes):
                self.full = True
                return
            elif folded is None:
                self.rows.append((key, cursor.item()))
                self.bytes_read += size
                self._pass_key(heads, key)
            else:
                self.rows.append((folded, None))
                self._leap_over(heads, folded)

    def _fold_key(self, key: bytes) -> bytes | None:
        """Return the prefix whose row the key is in, None if it is a row of its own."""
        start = len(self._wanted.prefix)
        ends = [at + len(each) for each in self._wanted.delimiters if (at := key.find(each, start)) >= 0]
        return key[: min(ends)] if ends else None

    # Places. Upwards, one is the lowest key that may follow; downwards, a bound that every key must be below.

    def _lowest_start(self) -> bytes:
        prefix, after, *_ = self._wanted
        if after is None or after < prefix:
            return prefix
        name = self._fold_key(after)
        return after + b"\0" if name is None else end_of_prefix(name) or after

    def _highest_start(self) -> bytes | None:
        prefix, _, before, *_ = self._wanted
        end = end_of_prefix(prefix)
        if before is None or (end is not None and before >= end):
            return end
        name = self._fold_key(before) if before.startswith(prefix) else None
        return before if name in (None, before) else end_of_prefix(name)

    def _enter_next(self) -> bool:
        """Enter the next part that may have keys the walk has not passed; False after the last one."""
        while self._parts:
            part = self._parts.popleft()
            end = end_of_prefix(part)
            if self._wanted.reverse:
                if self._at is not None and self._at <= part:
                    continue
                if self._at is None or (end is not None and end < self._at):
                    self._at = end
            else:
                assert self._at is not None
                if end is not None and end <= self._at:
                    continue
                self._at = max(self._at, part)
            self._part = part
            return True
        return False

    def _place_cursors(self, heads: dict[bytes, KeyCursor[Item]], cursors: Sequence[KeyCursor[Item]]) -> None:
        for cursor in cursors:
            if self._wanted.reverse:
                key = cursor.seek_below(self._at)
            else:
                assert self._at is not None
                key = cursor.seek(self._at)
            if key is not None:
                heads[key] = cursor

    def _pass_key(self, heads: dict[bytes, KeyCursor[Item]], key: bytes) -> None:
        """Move the cursor at `key` to its next key."""
        cursor = heads.pop(key)
        if self._reverse:
            self._at, following = key, cursor.prev()
        else:
            self._at, following = key + b"\0", cursor.next()
        if following is not None:
            heads[following] = cursor

    def _leap_over(self, heads: dict[bytes, KeyCursor[Item]], name: bytes) -> None:
        """Skip all keys that start with `name`."""
        self._at = name if self._wanted.reverse else end_of_prefix(name)
        inside = [heads.pop(key) for key in list(heads) if key.startswith(name)]
        self._place_cursors(heads, inside)


def end_of_prefix(prefix: bytes) -> bytes | None:
    """Return the lowest text above all that starts with `prefix`, which is UTF-8; None for the empty prefix."""
    return prefix[:-1] + bytes((prefix[-1] + 1,)) if prefix else None
