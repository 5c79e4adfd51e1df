"""Which keys a client of `/v1/feed` gets to see: those with certain prefixes, and certain keys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvserver.gateway.feed.events import Block, Event


class KeyRange(NamedTuple):
    """Neighbours in byte order: the keys that begin with `start`, or `start` alone if `is_key`."""

    start: bytes
    is_key: bool


class Selection(NamedTuple):
    """A set of keys.

    Attributes:
        prefixes: of its keys, in byte order, none inside another.
        keys: those that are in it beside the ones with such a prefix.
    """

    prefixes: tuple[bytes, ...]
    keys: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, prefixes: Iterable[bytes], keys: Iterable[bytes]) -> Selection:
        """Of prefixes and keys in any order, some of which may lie inside others."""
        outermost: list[bytes] = []
        for prefix in sorted(prefixes):
            if not outermost or not prefix.startswith(outermost[-1]):
                outermost.append(prefix)
        found = tuple(outermost)
        return cls(found, frozenset(key for key in keys if not key.startswith(found)))

    def covers(self, key: bytes) -> bool:
        """Whether `key` is in it."""
        return key.startswith(self.prefixes) or key in self.keys

    def covers_all(self, prefix: bytes) -> bool:
        """Whether every key that begins with `prefix` is in it."""
        return prefix.startswith(self.prefixes)

    def ranges(self) -> list[KeyRange]:
        """What it is made of, in byte order; no two overlap."""
        keys = [KeyRange(key, True) for key in self.keys]
        return sorted([*keys, *(KeyRange(prefix, False) for prefix in self.prefixes)])

    def among(self, block: Block, revision: int) -> Iterator[Event]:
        """The events of `block` above `revision` that may be of its keys, in order. Others may be among them, but a
        selection of a few keys does not look at every event."""
        return block.after(revision) if self.prefixes else block.of(self.keys, revision)
