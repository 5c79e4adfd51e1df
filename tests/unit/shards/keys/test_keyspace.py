"""The dict of a shard: what loading and committing make of it, and that its parts agree."""

from __future__ import annotations

import random
from array import array

import pytest

from shards.keys.entries import StagedEntries
from shards.keys.eviction import STAMPS, Evictor
from shards.keys.keyspace import Keyspace
from shards.wire.keys import SLOTS, shard_of
from tests.times import at

NOW = 1_700_000_000_000
LOADED = [(b"a", 5, 4, NOW + 1, 3), (b"b", 6, 6, 0, 2), (b"c", 7, 7, -(NOW + 5), 0)]


def keyspace(evictor: Evictor | None = None) -> Keyspace:
    made = Keyspace(0, 1, 100, evictor=evictor)
    made.load(LOADED)
    made.check()
    return made


def new_evictor() -> Evictor:
    return Evictor(memoryview(array("I", bytes(4 * STAMPS))), random.Random(1).random)


class TestLoad:
    def test_totals(self) -> None:
        space = keyspace()
        assert (len(space), space.bytes, space.expiring) == (3, 8, 2)
        assert space.entries == {key: tuple(entry) for key, *entry in LOADED}
        assert [space.stored_size(key) for key in (b"a", b"c", b"x")] == [3, 0, 0]

    def test_loaded_keys_expire(self) -> None:
        space = keyspace()
        assert space.expiries.due_in_ms(at(NOW)) == 1
        assert space.expiries.take_due(at(NOW + 9), 9, space.entries) == [b"c", b"a"]

    def test_loaded_keys_can_be_evicted(self) -> None:
        evictor = new_evictor()
        space = keyspace(evictor)
        assert {evictor.take_oldest(space.entries, (), (), NOW) for _ in LOADED} == {b"a", b"b", b"c"}

    def test_one_object_for_two_equal_revisions(self) -> None:
        """Thirty-two bytes for each key."""
        space = Keyspace(0, 1, 100)
        space.load([(b"k", int("123456789"), int("123456789"), 0, 0)])
        entry = space.entries[b"k"]
        assert entry[0] is entry[1]


class TestCommit:
    def test_revisions_become_real_ones(self) -> None:
        space = keyspace()
        staged = StagedEntries(space.entries)
        staged.stage(b"a", staged.lookup(b"a"), (-1, 4, 0, 3))  # a touch: the value keeps its revision
        staged.stage(b"b", staged.lookup(b"b"), (-2, -2, 0, 9))
        staged.stage(b"d", None, (-4, -3, NOW + 7, 1))  # a touch of a value of the same group
        staged.stage(b"c", staged.lookup(b"c"), None)
        space.commit(staged, 100, NOW)
        space.check()
        assert space.entries == {b"a": (100, 4, 0, 3), b"b": (101, 101, 0, 9), b"d": (103, 102, NOW + 7, 1)}
        assert (space.bytes, space.expiring) == (16, 1)
        assert space.entries[b"b"][0] is space.entries[b"b"][1]
        assert space.expiries.take_due(at(NOW + 7), 9, space.entries) == [b"d"]

    def test_new_keys_can_be_evicted_and_count_as_used(self) -> None:
        evictor = new_evictor()
        space = keyspace(evictor)
        staged = StagedEntries(space.entries)
        staged.stage(b"d", None, (-1, -1, 0, 1))
        staged.stage(b"a", staged.lookup(b"a"), (-2, -2, 0, 1))
        space.commit(staged, 100, NOW)
        space.check()
        found = [evictor.take_oldest(space.entries, (), (), NOW) for _ in range(4)]
        assert ({*found[:2]}, {*found[2:]}) == ({b"b", b"c"}, {b"a", b"d"})

    def test_nothing_changes_nothing(self) -> None:
        space = keyspace()
        before = (dict(space.entries), space.bytes, space.expiring)
        space.commit(StagedEntries(space.entries), 0, NOW)
        assert (space.entries, space.bytes, space.expiring) == before


class TestCheck:
    @pytest.mark.parametrize(
        ("entries", "problem"),
        [
            ({b"a": (1, 1, 0, 1)}, "bytes"),
            ({b"a": (1, 1, 5, 0)}, "expiring entries"),
            ({b"a": (1, 2, 0, 0)}, "a"),
        ],
    )
    def test_contradictions_are_found(self, entries: dict[bytes, tuple[int, int, int, int]], problem: str) -> None:
        space = Keyspace(0, 1, 100)
        space.load([(b"a", 1, 1, 0, 0)])
        space.entries.update(entries)
        with pytest.raises(AssertionError, match=problem):
            space.check()

    def test_keys_of_other_shards_are_found(self) -> None:
        key = next(b"%d" % number for number in range(99) if shard_of(b"%d" % number, 2) == 1)
        for shard, mine in ((0, False), (1, True)):
            space = Keyspace(shard, 2, 100)
            space.load([(key, 1, 1, 0, 0)])
            if mine:
                space.check()
            else:
                with pytest.raises(AssertionError):
                    space.check()


def test_slots_are_looked_at_only_if_there_are_others() -> None:
    assert Keyspace(0, 1, 100).owned_slots is None
    owned = [Keyspace(shard, 3, 100).owned_slots for shard in range(3)]
    assert sorted(slot for slots in owned if slots is not None for slot in slots) == list(range(SLOTS))


def test_without_a_map_no_value_can_be_read() -> None:
    with pytest.raises(LookupError):
        keyspace().read_value(b"a")
