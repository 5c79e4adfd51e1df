"""When a shard must look at keys because they may have expired: a heap for each of the two clocks. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Final

from shards.keys.entries import EXPIRY, Entry, FindEntry
from shards.wire.clock import Now
from shards.wire.keys import MAX_TIME_MS

_SLACK: Final = 4096
"""Stale items that a heap may hold before it is worth compacting."""


class ExpiryHeap:
    """A heap of (time, key) by one clock. Each pushed key has an item at its time or earlier.

    `_earliest` holds the item of each key that counts, so a key whose expiry is postponed thousands of times has one.
    Where it is too early, or its key expires by the other clock now, that is corrected when its time comes. Items that
    do not count stay in the heap until then, or until they are most of it.

    Attributes:
        items: the heap.
    """

    def __init__(self) -> None:
        self.items: list[tuple[int, bytes]] = []
        self._earliest: dict[bytes, int] = {}

    def push(self, key: bytes, at_ms: int) -> None:
        """Make `pop_due` yield `key` at `at_ms`, unless it would earlier."""
        if self._earliest.get(key, MAX_TIME_MS + 1) > at_ms:
            self._earliest[key] = at_ms
            heapq.heappush(self.items, (at_ms, key))

    def cancel(self, key: bytes) -> None:
        """Make `pop_due` not yield `key`."""
        if self._earliest:
            self._earliest.pop(key, None)

    def next_ms(self) -> int | None:
        """Return the time of the first item; None: the heap is empty."""
        return self.items[0][0] if self.items else None

    def pop_due(self, now_ms: int) -> Iterator[tuple[int, bytes]]:
        """Remove the items whose time has come, and yield them in order. What is pushed meanwhile counts, too."""
        heap, earliest = self.items, self._earliest
        while heap and heap[0][0] <= now_ms:
            at_ms, key = heapq.heappop(heap)
            if earliest.get(key) == at_ms:  # else it does not count
                del earliest[key]
                yield at_ms, key

    def compact(self) -> None:
        """Drop the items that do not count, if they are most of the heap."""
        if len(self.items) > 2 * len(self._earliest) + _SLACK:
            self.items = [(at_ms, key) for key, at_ms in self._earliest.items()]
            heapq.heapify(self.items)

    def check(self, due: Mapping[bytes, int]) -> None:
        """Raise AssertionError unless `pop_due` would yield each key of `due` at its time, or earlier."""
        items = set(self.items)
        for key, at_ms in due.items():
            assert self._earliest[key] <= at_ms, (key, "would expire late")
        assert all((at_ms, key) in items for key, at_ms in self._earliest.items()), "known without an item"


class ExpiryHeaps:
    """The expiries of a shard: a heap by wall time, and one by steady time (see `clock`)."""

    def __init__(self) -> None:
        self._by_wall, self._by_steady = ExpiryHeap(), ExpiryHeap()

    @property
    def is_empty(self) -> bool:
        """Whether `take_due` will never find a key unless one is scheduled."""
        return not (self._by_wall.items or self._by_steady.items)

    def schedule(self, key: bytes, expiry: int) -> None:
        """Make `take_due` look at `key` at `expiry`, unless it would earlier."""
        if expiry > 0:
            self._by_wall.push(key, expiry)
        else:
            self._by_steady.push(key, -expiry)

    def cancel(self, key: bytes) -> None:
        """Make `take_due` not look at `key`, which has no expiry any more."""
        self._by_wall.cancel(key)
        self._by_steady.cancel(key)

    def take_due(self, now: Now, limit: int, find: FindEntry) -> list[tuple[bytes, Entry]]:
        """Remove and return at most `limit` keys that have expired by the entries that `find` finds, and these entries:
        delete or reschedule the keys.

        First those by steady time, then those by wall time; of each, as they expired, and of one moment by key. So the
        order is the same however the keys came to have their expiries.
        """
        due: list[tuple[bytes, Entry]] = []
        for heap, now_ms, sign in ((self._by_steady, now.steady_ms, -1), (self._by_wall, now.wall_ms, 1)):
            for at_ms, key in heap.pop_due(now_ms):
                entry = find(key)
                # Skip keys that expire never or by the other clock now: its heap has an item of them, and a key with
                # items in both must not be returned twice.
                if entry is None or entry[EXPIRY] * sign <= 0:
                    continue
                if entry[EXPIRY] * sign > at_ms:  # its expiry was postponed after the item was made
                    heap.push(key, entry[EXPIRY] * sign)
                    continue
                due.append((key, entry))
                if len(due) == limit:
                    return due
        return due

    def due_in_ms(self, now: Now) -> int | None:
        """Return how long after `now` `take_due` may find a key; 0 or less: at once; None: never."""
        by_wall, by_steady = self._by_wall.next_ms(), self._by_steady.next_ms()
        waits = [] if by_wall is None else [by_wall - now.wall_ms]
        if by_steady is not None:
            waits.append(by_steady - now.steady_ms)
        return min(waits, default=None)

    def compact(self) -> None:
        """Give the memory back of what was cancelled and postponed, if it is much."""
        if not self.is_empty:
            self._by_wall.compact()
            self._by_steady.compact()

    def check(self, entries: Mapping[bytes, Entry]) -> None:
        """Raise AssertionError unless each of `entries` that expires will be found in time."""
        self._by_wall.check({key: entry[EXPIRY] for key, entry in entries.items() if entry[EXPIRY] > 0})
        self._by_steady.check({key: -entry[EXPIRY] for key, entry in entries.items() if entry[EXPIRY] < 0})
