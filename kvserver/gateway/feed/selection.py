"""The set of keys that a client of `/v1/feed` sees: those with certain prefixes, and certain keys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvserver.gateway.feed.events import Block, Event


class KeyRange(NamedTuple):
    """A range of keys in byte order: all that begin with `start`, or `start` alone if `is_key`."""

    start: bytes
    is_key: bool


class Selection(NamedTuple):
    """A set of keys.

    Attributes:
        prefixes: of its keys, in byte order, none of which begins with another.
        keys: further ones, none of which has such a prefix.
    """

    prefixes: tuple[bytes, ...]
    keys: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, prefixes: Iterable[bytes], keys: Iterable[bytes]) -> Selection:
        """Make a selection of prefixes and keys in any order, some of which may include others."""
        outermost: list[bytes] = []
        for prefix in sorted(prefixes):
            if not outermost or not prefix.startswith(outermost[-1]):
                outermost.append(prefix)
        found = tuple(outermost)
        return cls(found, frozenset(key for key in keys if not key.startswith(found)))

    def covers(self, key: bytes) -> bool:
        """Whether `key` is in the selection."""
        return key.startswith(self.prefixes) or key in self.keys

    def covers_all(self, prefix: bytes) -> bool:
        """Whether every key that begins with `prefix` is in the selection."""
        return prefix.startswith(self.prefixes)

    def ranges(self) -> list[KeyRange]:
        """Return its ranges in byte order; no two overlap."""
        keys = [KeyRange(key, True) for key in self.keys]
        return sorted([*keys, *(KeyRange(prefix, False) for prefix in self.prefixes)])

    def events_in(self, block: Block, revision: int) -> Iterator[Event]:
        """Yield the events of `block` above `revision` that may be of its keys, in order.

        Others may be among them; but a selection of a few keys does not scan every event.
        """
        return block.events_after(revision) if self.prefixes else block.events_of(self.keys, revision)
