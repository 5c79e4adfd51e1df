"""A cache of what was read from the log again, for clients that fell behind together. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class RereadCache(Generic[K, V]):
    """Keeps the values used last, up to a size; the newest one always stays."""

    def __init__(self, most_bytes: int) -> None:
        """Keep up to `most_bytes` of memory."""
        self._most_bytes = most_bytes
        self._bytes = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return a value, which then counts as used last; None: it is not kept."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep `value`, of `size` bytes, and drop those that were not used for longest."""
        if key in self._values:
            self._bytes -= self._values[key][1]
        self._values[key] = (value, size)
        self._bytes += size
        while len(self._values) > 1 and self._bytes > self._most_bytes:
            _, (_, dropped) = self._values.popitem(last=False)
            self._bytes -= dropped

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield keys and values, those used last at the end; `get` and `put` end that."""
        return ((key, value) for key, (value, _) in self._values.items())
