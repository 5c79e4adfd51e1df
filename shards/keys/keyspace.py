"""The keys of one shard: a dict from key to entry, its expiries and its totals. Pure: time is an argument.

Values live in the map; they are read from there where a change depends on one. A `Group` decides operations in front of
the dict, and `Keyspace.commit` takes over what it has staged.
"""

from __future__ import annotations

from collections.abc import Iterable

from shards.keys.entries import EXPIRY, SIZE, Entry, FindOutcome, ReadValue, StagedEntries
from shards.keys.eviction import Evictor
from shards.keys.expiries import ExpiryHeaps
from shards.wire.keys import MAX_KEY, SLOTS, slot_of, slots_of


def _no_map(key: bytes) -> tuple[bytes, str]:
    raise LookupError(f"there is no map to read {key!r} from")


def _no_outcomes(identity: bytes) -> None:
    """Default for `find_outcome`: nothing is remembered."""


class Keyspace:
    """The dict of a shard. Its callers keep values and files.

    Args:
        shard: the index of the shard,
        shards: of how many.
        max_value: most bytes of a value.
        read_value: reads value and content type of a key that is in the dict. Not called while a group is applied.
        find_outcome: finds what is remembered of an operation that was done once, by its identity.
        max_memory: most bytes of keys and values in all shards together; 0: unlimited.
        evictor: finds keys to evict when memory is full; None: writes that need more are refused.

    Attributes:
        entries: from key to entry. Only `load` and `commit` change it.
        expiries: when keys are to be looked at.
        expiring: number of entries with an expiry.
        bytes: sum of the sizes of keys and values, expired ones included until they are deleted.
        fair_share: bytes of `max_memory` that this shard may always fill.
        owned_slots: the slots of this shard; None: all slots are.
    """

    def __init__(
        self,
        shard: int,
        shards: int,
        max_value: int,
        read_value: ReadValue = _no_map,
        *,
        find_outcome: FindOutcome = _no_outcomes,
        max_memory: int = 0,
        evictor: Evictor | None = None,
    ) -> None:
        self.max_value, self.read_value, self.find_outcome = max_value, read_value, find_outcome
        self.max_memory, self.fair_share = max_memory, max_memory // shards
        self.evictor = evictor
        slots = slots_of(shard, shards)
        self.owned_slots = slots if len(slots) < SLOTS else None
        self.entries: dict[bytes, Entry] = {}
        self.expiries = ExpiryHeaps()
        self.expiring = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, entries: Iterable[tuple[bytes, int, int, int, int]]) -> None:
        """Fill the empty dict from a map: key, revision, revision of the value, expiry, size of the value."""
        for key, revision, value_revision, expiry, size in entries:
            if value_revision == revision:
                value_revision = revision  # the same object: saves 32 bytes per key
            self.entries[key] = (revision, value_revision, expiry, size)
            self.bytes += len(key) + size
            self.expiring += expiry != 0
        self.expiries.load(self.entries)
        if self.evictor is not None:
            self.evictor.load(self.entries)

    def commit(self, staged: StagedEntries, first_revision: int, steady_ms: int) -> None:
        """Put `staged` into the dict.

        Args:
            staged: the changes of a group, whose own revisions are negative (see `group`).
            first_revision: the revision of the group's first event: ~n becomes `first_revision` + n.
            steady_ms: when the group was decided. Its keys count as used then.
        """
        entries, evictor = self.entries, self.evictor
        last = first_revision - 1
        if evictor is not None:
            evictor.record_changes(staged.changes, entries, steady_ms)
        for key, entry in staged.changes.items():
            if entry is None:
                entries.pop(key, None)
                continue
            staged_revision, value_revision, expiry, size = entry
            revision = last - staged_revision
            if value_revision == staged_revision:
                value_revision = revision  # the same object: saves 32 bytes per key
            elif value_revision < 0:  # else a touch: the value is of an earlier group
                value_revision = last - value_revision
            entries[key] = (revision, value_revision, expiry, size)
            if expiry:
                self.expiries.schedule(key, expiry)
        self.bytes += staged.bytes
        self.expiring += staged.expiring
        self.expiries.compact(entries, self.expiring)
        if evictor is not None:
            evictor.compact(entries)

    def stored_size(self, key: bytes) -> int:
        """Return the bytes of the value of `key`, expired or not; 0 if it has none."""
        entry = self.entries.get(key)
        return entry[SIZE] if entry is not None else 0

    def check(self) -> None:
        """Raise AssertionError if any part contradicts another. Slow; changes nothing."""
        entries = self.entries
        assert self.bytes == sum(len(key) + entry[SIZE] for key, entry in entries.items()), "bytes"
        assert self.expiring == sum(1 for entry in entries.values() if entry[EXPIRY]), "expiring entries"
        if self.evictor is not None:
            self.evictor.check(entries)
        for key, (revision, value_revision, _, size) in entries.items():
            assert 0 < len(key) <= MAX_KEY, key
            assert self.owned_slots is None or slot_of(key) in self.owned_slots, key
            assert 0 < value_revision <= revision, (key, value_revision, revision)
            assert size >= 0, (key, size)
        self.expiries.check(entries)
