"""Which keys go when memory is full: the least recently used of a sample. Pure: time and chance are arguments.

**Stamps** say when a key was last used: a table of `STAMPS` words of 4 bytes that all processes of a store share. A
key's word is found by its CRC, and holds a time in ticks of 8 ms, modulo 2^32 (a year). Readers and the shard note a
use by one plain store. Two keys that have the same word are both as young as the younger.

**The sample** is drawn from a list of the shard's keys, which a dict cannot give by number. Deletes leave keys in the
list until they are the oldest of a sample or make up half of it, so it costs a new key one append, and 8 to 16 bytes.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import Final

STAMPS: Final = 1 << 20
SAMPLE: Final = 16
"""Keys that are looked at to find one that goes."""
EVICT_KEYS: Final = 1000
"""Most keys that go in one group: some 15 ms, what it takes to log and apply that included."""

_WORD: Final = (1 << 32) - 1
_SLACK: Final = 4096


def stamp(now_ms: int) -> int:
    """The word of a key that is used at `now_ms`."""
    return now_ms >> 3 & _WORD


def note_use(stamps: memoryview[int], key: bytes, now_ms: int) -> None:
    """Note that `key` is used."""
    stamps[crc32(key) & STAMPS - 1] = now_ms >> 3 & _WORD


class Evictor:
    """Finds what is to be evicted from the keys of one shard.

    Args:
        stamps: the table, `STAMPS` words.
        random: gives numbers from 0 to below 1.

    Attributes:
        most: keys that one group evicts at most.
    """

    def __init__(self, stamps: memoryview[int], random: Callable[[], float], most: int = EVICT_KEYS) -> None:
        self.most = most
        self._stamps, self._random = stamps, random
        self._keys: list[bytes] = []  # all that there are, and some that there were

    def load(self, keys: Iterable[bytes]) -> None:
        """Begin with `keys`. They are as old as their stamps say, however often they were used before."""
        self._keys = list(keys)

    def use_all(self, staged: Mapping[bytes, object], keys: Container[bytes], now_ms: int) -> None:
        """Note that `staged` is about to change `keys`: what is not None is used, and may be new."""
        stamps, word = self._stamps, stamp(now_ms)
        for key, entry in staged.items():
            if entry is not None:
                stamps[crc32(key) & STAMPS - 1] = word
                if key not in keys:
                    self._keys.append(key)

    def tidy(self, keys: Collection[bytes]) -> None:
        """Forget what is not in `keys` any more if that is most of it."""
        if len(self._keys) > 2 * len(keys) + _SLACK:
            self._keys = list(keys)

    def use(self, key: bytes, now_ms: int) -> None:
        """Note that `key` is read."""
        note_use(self._stamps, key, now_ms)

    def oldest(
        self, keys: Collection[bytes], staged: Container[bytes], spared: Container[bytes], now_ms: int
    ) -> bytes | None:
        """One of `keys` that is in neither `staged` nor `spared`, used longest ago of a sample; None: there is none.

        It is not drawn again: `keep` it if it is not deleted after all.
        """
        known, random, stamps, now = self._keys, self._random, self._stamps, stamp(now_ms)
        while known:
            count, found, most = len(known), -1, -1
            few = count <= SAMPLE  # then all of them, once each
            for place in range(count if few else SAMPLE):
                at = place if few else int(random() * count)
                key = known[at]
                age = now - stamps[crc32(key) & STAMPS - 1] & _WORD
                if age > most and key not in staged and key not in spared:
                    found, most = at, age
            if found < 0:  # the shard has few others
                return next((key for key in keys if key not in staged and key not in spared), None)
            key, known[found] = known[found], known[-1]
            known.pop()
            if key in keys:
                return key
        return None

    def keep(self, keys: Iterable[bytes]) -> None:
        """What `oldest` gave is there all the same."""
        self._keys += keys

    def check(self, keys: Collection[bytes]) -> None:
        """Raise AssertionError if one of `keys` can never go, or too much is kept of those that are gone."""
        assert set(self._keys).issuperset(keys), "keys that cannot be evicted"
        assert len(self._keys) <= 2 * len(keys) + _SLACK, "keys that are gone"
