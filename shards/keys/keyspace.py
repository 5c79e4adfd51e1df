"""The keys of one shard: their entries, expiries and totals. Pure: time is an argument, the map a few functions.

The map has value and entry of every key, and `Keyspace.find_entry` looks there. A dict in front of it has the entries
of the keys that changed last: it answers for keys that are used all the time, and for what a group has committed until
the map has it. Since each entry is in the map by the end of its group, any of the dict may be dropped between groups.

So a shard knows all of its keys as soon as its map is open, however many there are. What cannot be looked up by key
alone is found by a **survey**, which walks through the map in steps, also between groups: which keys have an expiry,
and which keys there are to be evicted. Changes need not wait for it. Until it has come to an expired key, that key is
as absent as any expired one, but its delete event is late.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import islice
from typing import Final

from shards.keys.entries import (
    EXPIRY,
    SIZE,
    UNKNOWN,
    Entry,
    FindEntry,
    FindOutcome,
    ListEntries,
    ReadValue,
    StagedEntries,
    Totals,
)
from shards.keys.eviction import Evictor
from shards.keys.expiries import ExpiryHeaps
from shards.wire.clock import Now
from shards.wire.keys import MAX_KEY, SLOTS, slot_of, slots_of

RECENT_KEYS: Final = 1 << 16
"""Keys whose entries are kept in front of the map: about 14 MB."""
SURVEY_KEYS: Final = 1024
"""Keys that a step of the survey walks over: about 0.5 ms, or 1 ms if keys may be evicted."""

_NO_KEYS: Final = Totals(0, 0, 0)


def _no_entry(key: bytes) -> None:
    """Default for `find_entry`: the map is empty."""


def _no_entries(after: bytes | None, steps: int, expiring: bool) -> tuple[list[tuple[bytes, Entry]], None]:
    """Default for `list_entries`: the map is empty."""
    return [], None


def _no_map(key: bytes) -> tuple[bytes, str]:
    raise LookupError(f"there is no map to read {key!r} from")


def _no_outcomes(identity: bytes) -> None:
    """Default for `find_outcome`: nothing is remembered."""


class Keyspace:
    """What a shard knows of its keys. Its callers keep values and files.

    Args:
        shard: the index of the shard,
        shards: of how many.
        max_value: most bytes of a value.
        read_value: reads value and content type of a key that has an entry. Not called while a group is applied.
        find_entry, list_entries: find entries in the map, which lacks no group but those whose changes are `recent`.
        totals: of the map, before any group.
        find_outcome: finds what is remembered of an operation that was done once, by its identity.
        max_memory: most bytes of keys and values in all shards together; 0: unlimited.
        evictor: finds keys to evict when memory is full; None: writes that need more are refused.

    Attributes:
        recent: from keys that changed lately, or are about to, to their entries; None: they have none.
        expiries: when keys are to be looked at.
        expiring: number of keys with an expiry.
        bytes: sum of the sizes of keys and values, expired ones included until they are deleted.
        is_surveyed: whether all expiries, and all keys that may be evicted, are known.
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
        find_entry: FindEntry = _no_entry,
        list_entries: ListEntries = _no_entries,
        totals: Totals = _NO_KEYS,
        find_outcome: FindOutcome = _no_outcomes,
        max_memory: int = 0,
        evictor: Evictor | None = None,
    ) -> None:
        self.max_value, self.read_value, self.find_outcome = max_value, read_value, find_outcome
        self._find_in_map, self._list_in_map = find_entry, list_entries
        self.max_memory, self.fair_share = max_memory, max_memory // shards
        self.evictor = evictor
        self._due: list[tuple[bytes, Entry]] = []  # what was taken to be proposed, and is not decided
        slots = slots_of(shard, shards)
        self.owned_slots = slots if len(slots) < SLOTS else None
        self.recent: dict[bytes, Entry | None] = {}
        self.expiries = ExpiryHeaps()
        self._keys, self.bytes, self.expiring = totals
        self.is_surveyed = not self.expiring and (evictor is None or not self._keys)
        self._surveyed_to: bytes | None = None  # the last key that the survey came to

    def __len__(self) -> int:
        return self._keys

    @property
    def evicts(self) -> bool:
        """Whether keys are evicted when memory is full."""
        return self.evictor is not None

    def find_entry(self, key: bytes) -> Entry | None:
        """Return the committed entry of `key`, which may have expired; None: it has none. Any bytes are allowed."""
        entry = self.recent.get(key, UNKNOWN)
        return self._find_in_map(key) if entry is UNKNOWN else entry

    def stored_size(self, key: bytes) -> int:
        """Return the bytes of the value of `key`, expired or not; 0 if it has none."""
        entry = self.find_entry(key)
        return entry[SIZE] if entry is not None else 0

    def commit(self, staged: StagedEntries, first_revision: int, steady_ms: int) -> None:
        """Take over the changes of a group, which the map is to have before `forget_oldest`.

        Args:
            staged: the changes of a group, whose own revisions are negative (see `group`).
            first_revision: the revision of the group's first event: ~n becomes `first_revision` + n.
            steady_ms: when the group was decided. Its keys count as used then.
        """
        recent, expiries, may_expire = self.recent, self.expiries, self.expiring > 0
        last = first_revision - 1
        self._due.clear()
        if self.evictor is not None:
            self.evictor.record_changes(staged.changes, self.find_entry, steady_ms)
        for key, entry in staged.changes.items():
            expiry = 0
            if entry is None:
                recent[key] = None
            else:
                staged_revision, value_revision, expiry, size = entry
                if value_revision < 0:  # else a touch: the value is of an earlier group
                    value_revision = last - value_revision
                recent[key] = (last - staged_revision, value_revision, expiry, size)
            if expiry:
                expiries.schedule(key, expiry)
            elif may_expire:
                expiries.cancel(key)
        self._keys += staged.keys
        self.bytes += staged.bytes
        self.expiring += staged.expiring
        expiries.compact()
        if self.evictor is not None and self.evictor.is_mostly_stale(self._keys):
            self.evictor.clear()
            self.is_surveyed, self._surveyed_to = False, None

    def forget_oldest(self, most: int = RECENT_KEYS) -> None:
        """Leave entries to the map if more than `most` are recent, first those that have been so for longest.

        Only while the map has all that was committed.
        """
        if len(self.recent) > most:
            for key in list(islice(self.recent, max(len(self.recent) - most, most // 16))):
                del self.recent[key]

    def survey(self, steps: int = SURVEY_KEYS) -> None:
        """Walk over the next `steps` keys of the map for what must be known of keys beforehand: see `is_surveyed`."""
        found, self._surveyed_to = self._list_in_map(self._surveyed_to, steps, self.evictor is None)
        for key, entry in found:
            if entry[EXPIRY]:
                self.expiries.schedule(key, entry[EXPIRY])
        if self.evictor is not None:
            self.evictor.add_keys(key for key, _ in found)
        self.is_surveyed = self._surveyed_to is None

    def take_due(self, now: Now, most: int) -> list[tuple[bytes, Entry]]:
        """Return at most `most` keys that have expired at `now`, with their entries, in the order of
        `ExpiryHeaps.take_due`.

        Until the next `commit` they are not found again, unless by `restore_due`. Keys that the survey has not come
        to are not found yet.
        """
        due = self.expiries.take_due(now, most, self.find_entry)
        self._due += due
        return due

    def take_victims(
        self, needed: int, most: int, staged: Container[bytes], spared: Container[bytes], steady_ms: int
    ) -> tuple[list[tuple[bytes, Entry]], int]:
        """Return the keys to evict next with their entries, at most `most`, until they and their values make up
        `needed` bytes; and how many bytes these are.

        None of them is in `staged` or `spared`. They are not found again, unless they change, or by `restore_taken`.
        Until the keys are surveyed, each is the oldest of those that the survey has come to.
        """
        taken: list[tuple[bytes, Entry]] = []
        size = 0
        while size < needed and len(taken) < most:
            oldest = self._take_one(staged, spared, steady_ms)
            if oldest is None:
                break
            taken.append(oldest)
            size += len(oldest[0]) + oldest[1][SIZE]
        return taken, size

    def restore_taken(self) -> None:
        """Find again what was taken to be proposed, and was not decided."""
        self.restore_due()
        if self.evictor is not None:
            self.evictor.restore_taken()

    def restore_due(self) -> None:
        """Find again what `take_due` has returned, and was not decided."""
        for key, entry in self._due:
            self.expiries.schedule(key, entry[EXPIRY])
        self._due.clear()

    def _take_one(
        self, staged: Container[bytes], spared: Container[bytes], steady_ms: int
    ) -> tuple[bytes, Entry] | None:
        """Return the key to evict next, by the evictor, and its entry; None: none is left."""
        if self.evictor is None:
            return None
        oldest = self.evictor.take_oldest(self.find_entry, staged, spared, steady_ms)
        while oldest is None and not self.is_surveyed:
            self.survey()
            oldest = self.evictor.take_oldest(self.find_entry, staged, spared, steady_ms)
        return oldest

    def check(self, stored: Mapping[bytes, Entry] | None = None) -> None:
        """Raise AssertionError if any part contradicts another. Slow; changes nothing.

        `stored`: all entries of the map, which has all that was committed; None: all keys are recent.
        """
        recent = {key: entry for key, entry in self.recent.items() if entry is not None}
        entries = recent if stored is None else stored
        assert {key: entries.get(key) for key in self.recent} == self.recent, "recent entries"
        assert self._keys == len(entries), "keys"
        assert self.bytes == sum(len(key) + entry[SIZE] for key, entry in entries.items()), "bytes"
        assert self.expiring == sum(1 for entry in entries.values() if entry[EXPIRY]), "expiring entries"
        for key, (revision, value_revision, _, size) in entries.items():
            assert 0 < len(key) <= MAX_KEY, key
            assert self.owned_slots is None or slot_of(key) in self.owned_slots, key
            assert 0 < value_revision <= revision, (key, value_revision, revision)
            assert size >= 0, (key, size)
        last = self._surveyed_to or b""
        known = {key: entry for key, entry in entries.items() if self.is_surveyed or key <= last}
        self.expiries.check(known)
        if self.evictor is not None:
            self.evictor.check(known)
