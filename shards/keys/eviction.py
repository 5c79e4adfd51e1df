"""Which key to evict when memory is full: the least recently used of a sample. Pure: time and chance are arguments.

**Stamps** record when a key was last used: a table of `STAMPS` words of 4 bytes that all processes of a store share.
The CRC of a key selects its word, which holds a time in ticks of 8 ms, modulo 2^32 (a year). Readers and the shard
record a use by one plain store. Keys that share a word are all as young as the youngest.

**The sample** is drawn from a list of the shard's keys, since a map cannot be indexed by number. Deleted keys stay in
the list until they are the oldest of a sample or make up half of it, so a new key costs one append, and its own bytes.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import Final

from shards.keys.entries import Entry, FindEntry

STAMPS: Final = 1 << 20
SAMPLE: Final = 16
"""Keys that are compared to find one to evict."""
EVICT_KEYS: Final = 1000
"""Most keys that one group evicts: about 15 ms, logging and applying included."""

_WORD: Final = (1 << 32) - 1
_SLACK: Final = 4096


def stamp_at(now_ms: int) -> int:
    """Return the stamp of a key that is used at `now_ms`, steady time."""
    return now_ms >> 3 & _WORD


def record_use(stamps: memoryview[int], key: bytes, now_ms: int) -> None:
    """Record that `key` is used at `now_ms`, steady time. Called for each read: one store, no more."""
    stamps[crc32(key) & STAMPS - 1] = now_ms >> 3 & _WORD


class Evictor:
    """Finds the keys to evict from one shard.

    Args:
        stamps: the table, `STAMPS` words.
        random: returns numbers from 0 to below 1.
        max_per_group: most keys that one group evicts.
    """

    def __init__(self, stamps: memoryview[int], random: Callable[[], float], max_per_group: int = EVICT_KEYS) -> None:
        self.max_per_group = max_per_group
        self._stamps, self._random = stamps, random
        self._keys: list[bytes] = []  # all keys of the shard, once each was added, and some deleted ones
        self._taken: set[bytes] = set()  # keys that are not in the list as they may be about to be evicted

    def add_keys(self, keys: Iterable[bytes]) -> None:
        """Sample `keys`, too. Their ages are those of their stamps."""
        self._keys += keys

    def record_changes(self, changes: Mapping[bytes, Entry | None], find: FindEntry, now_ms: int) -> None:
        """Record that `changes` are about to be committed: those that are not None are used, and new unless `find`
        finds them. What was taken and is among them is decided: it is gone, or sampled again."""
        stamps, word, taken = self._stamps, stamp_at(now_ms), self._taken
        for key, entry in changes.items():
            if entry is not None:
                stamps[crc32(key) & STAMPS - 1] = word
                if find(key) is None or (taken and key in taken):
                    self._keys.append(key)
            if taken:
                taken.discard(key)

    def restore(self, keys: Iterable[bytes]) -> None:
        """Sample `keys` again, which were taken."""
        for key in keys:
            self._taken.discard(key)
            self._keys.append(key)

    def restore_taken(self) -> None:
        """Sample again what was taken and not decided."""
        self._keys += self._taken
        self._taken.clear()

    def record_read(self, key: bytes, now_ms: int) -> None:
        """Record that `key` is read at `now_ms`."""
        record_use(self._stamps, key, now_ms)

    def take_oldest(
        self, find: FindEntry, staged: Container[bytes], spared: Container[bytes], now_ms: int
    ) -> tuple[bytes, Entry] | None:
        """Return the key used longest ago of a sample of those that `find` finds, without `staged` and `spared`, and
        its entry; None: none is left.

        It is not sampled again unless it is changed, or by `restore_taken`.
        """
        known, taken, random, stamps, now = self._keys, self._taken, self._random, self._stamps, stamp_at(now_ms)
        while known:
            count, found, most = len(known), -1, -1
            few = count <= SAMPLE  # then compare all of them, once each
            for place in range(count if few else SAMPLE):
                at = place if few else int(random() * count)
                key = known[at]
                age = now - stamps[crc32(key) & STAMPS - 1] & _WORD
                if age > most and key not in staged and key not in spared and key not in taken:
                    found, most = at, age
            if found < 0:  # all of the sample is staged or spared, and perhaps most of the shard: look at each key
                others = (at for at, key in enumerate(known) if not (key in staged or key in spared or key in taken))
                found = next((at for at in others if find(known[at]) is not None), -1)
                if found < 0:
                    return None
            key, known[found] = known[found], known[-1]  # remove it in constant time: the list has no order
            known.pop()
            entry = find(key)
            if entry is not None:  # else it was deleted long ago: sample again
                taken.add(key)
                return key, entry
        return None

    def is_mostly_stale(self, count: int) -> bool:
        """Whether most keys in the list are deleted ones, if the shard has `count`."""
        return len(self._keys) > 2 * count + _SLACK

    def clear(self) -> None:
        """Forget all keys: they will be added anew."""
        self._keys = []
        self._taken.clear()

    def check(self, keys: Collection[bytes]) -> None:
        """Raise AssertionError if one of `keys` can never be evicted, or too many deleted keys are held."""
        assert self._taken.union(self._keys).issuperset(keys), "keys that cannot be evicted"
        assert not self.is_mostly_stale(len(keys)), "keys that are gone"
