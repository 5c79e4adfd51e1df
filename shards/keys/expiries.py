"""When keys are to be looked at by one clock, because they may have expired. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from shards.wire.keys import MAX_TIME_MS

_SLACK = 4096


class Schedule:
    """A heap of (time, key), which holds an item not later than the time of each key that was added.

    An item that is too early, or whose key is gone or expires by the other clock now, is set right when its time comes.
    The earliest item of a key is known, so that a key whose expiry is moved on again and again has one item, not
    thousands.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes]] = []
        self._earliest: dict[bytes, int] = {}

    def load(self, items: Iterable[tuple[int, bytes]]) -> None:
        """Hold these items alone, one of a key."""
        self._heap = list(items)
        heapq.heapify(self._heap)
        self._earliest = {key: at_ms for at_ms, key in self._heap}

    def add(self, key: bytes, at_ms: int) -> None:
        """Have `take` give `key` at `at_ms`, if it would not earlier."""
        if self._earliest.get(key, MAX_TIME_MS + 1) > at_ms:
            self._earliest[key] = at_ms
            heapq.heappush(self._heap, (at_ms, key))

    def next_ms(self) -> int | None:
        """When `take` may have something to give; None: never."""
        return self._heap[0][0] if self._heap else None

    def take(self, now_ms: int) -> Iterator[bytes]:
        """The keys whose time has come. The item of each is gone when it is given."""
        heap, earliest = self._heap, self._earliest
        while heap and heap[0][0] <= now_ms:
            at_ms, key = heapq.heappop(heap)
            if earliest.get(key) == at_ms:  # else another item of this key came earlier and decided
                del earliest[key]
                yield key

    def is_untidy(self, wanted: int) -> bool:
        """Whether most items are about keys that are gone, where `wanted` keys have a time."""
        return len(self._heap) > 2 * wanted + _SLACK

    def check(self, due: dict[bytes, int]) -> None:
        """Raise AssertionError unless each key of `due` would be given at its time, or earlier."""
        items = set(self._heap)
        for key, at_ms in due.items():
            assert self._earliest[key] <= at_ms, (key, "would expire late")
        assert all((at_ms, key) in items for key, at_ms in self._earliest.items()), "known without an item"
