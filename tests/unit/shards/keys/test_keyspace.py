"""The keys of a shard: where entries are found, what committing and surveying make of them, and that its parts agree.

Any order of all that: `test_rules_machine`.
"""

from __future__ import annotations

import random
from array import array

import pytest

from shards.keys.entries import Entry, StagedEntries, Totals
from shards.keys.eviction import STAMPS, Evictor
from shards.keys.keyspace import Keyspace
from shards.wire.keys import SLOTS, shard_of
from tests.times import at
from tests.unit.shards.keys.groups import held, load

NOW = 1_700_000_000_000
STORED: dict[bytes, Entry] = {b"a": (5, 4, NOW + 1, 3), b"b": (6, 6, 0, 2), b"c": (7, 7, -(NOW + 5), 0)}


def walk(after: bytes | None, steps: int, expiring: bool) -> tuple[list[tuple[bytes, Entry]], bytes | None]:
    passed = [key for key in STORED if after is None or key > after][:steps]
    found = [(key, STORED[key]) for key in passed if STORED[key][2] or not expiring]
    return found, passed[-1] if len(passed) == steps else None


def keyspace(evictor: Evictor | None = None) -> Keyspace:
    """The keyspace of a shard that has just opened a map with `STORED`."""
    made = Keyspace(0, 1, 100, find_entry=STORED.get, list_entries=walk, totals=Totals(3, 8, 2), evictor=evictor)
    made.check(STORED)
    return made


def new_evictor() -> Evictor:
    return Evictor(memoryview(array("I", bytes(4 * STAMPS))), random.Random(1).random)


def found(*keys: bytes) -> list[tuple[bytes, Entry]]:
    return [(key, STORED[key]) for key in keys]


class TestStart:
    def test_entries_and_totals_are_there_at_once(self) -> None:
        space = keyspace()
        assert (len(space), space.bytes, space.expiring) == (3, 8, 2)
        assert {key: space.find_entry(key) for key in (*STORED, b"x")} == {**STORED, b"x": None}
        assert [space.stored_size(key) for key in (b"a", b"c", b"x")] == [3, 0, 0]

    @pytest.mark.parametrize("evicting", [False, True])
    def test_there_is_nothing_to_survey_if_nothing_expires_and_nothing_can_be_evicted(self, evicting: bool) -> None:
        evictor = new_evictor() if evicting else None
        assert Keyspace(0, 1, 100, totals=Totals(3, 8, 0), evictor=evictor).is_surveyed != evicting
        assert not Keyspace(0, 1, 100, totals=Totals(3, 8, 1), evictor=evictor).is_surveyed
        assert Keyspace(0, 1, 100, evictor=evictor).is_surveyed


class TestSurvey:
    def test_it_finds_what_expires(self) -> None:
        space = keyspace()
        assert space.expiries.due_in_ms(at(NOW)) is None
        space.survey(2)
        assert (space.is_surveyed, space.expiries.due_in_ms(at(NOW))) == (False, 1)
        space.survey(2)
        assert space.is_surveyed
        space.check(STORED)
        assert space.expiries.take_due(at(NOW + 9), 9, space.find_entry) == found(b"c", b"a")

    def test_a_change_that_is_ahead_of_it_counts(self) -> None:
        space = keyspace()
        staged = StagedEntries(space.find_entry)
        staged.stage(b"c", STORED[b"c"], (-1, -1, 0, 0))
        staged.stage(b"a", STORED[b"a"], None)
        staged.stage(b"d", None, (-2, -2, NOW + 3, 0))
        space.commit(staged, 100, NOW)
        assert space.expiries.due_in_ms(at(NOW)) == 3
        space.survey()  # as it would be if the map had none of these changes yet
        assert space.expiries.take_due(at(NOW + 9), 9, space.find_entry) == [(b"d", (101, 101, NOW + 3, 0))]

    def test_it_finds_what_can_be_evicted(self) -> None:
        evictor = new_evictor()
        space = keyspace(evictor)
        space.survey(1)
        space.check(STORED)
        assert evictor.take_oldest(space.find_entry, (), (), NOW) == found(b"a")[0]
        assert evictor.take_oldest(space.find_entry, (), (), NOW) is None

    def test_an_eviction_does_not_wait_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Keyspace.survey, "__defaults__", (1,))
        space = keyspace(new_evictor())
        assert space.take_victims(99, 9, (), (), NOW) == (found(b"a", b"b", b"c"), 8)

    def test_it_begins_again_when_most_that_could_be_evicted_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.eviction._SLACK", 0)
        space = keyspace(new_evictor())
        space.survey()
        for revision in range(100, 104):
            assert space.is_surveyed
            staged = StagedEntries({}.get)
            staged.stage(b"%d" % revision, None, (-1, -1, 0, 0))
            space.commit(staged, 2 * revision, NOW)
            gone = StagedEntries(space.find_entry)
            gone.stage(b"%d" % revision, space.find_entry(b"%d" % revision), None)
            space.commit(gone, 2 * revision + 1, NOW)
            space.check(STORED)
        assert not space.is_surveyed
        victims, size = space.take_victims(99, 9, (), (), NOW)
        assert (sorted(victims), size) == (found(b"a", b"b", b"c"), 8)


class TestCommit:
    def test_revisions_become_real_ones(self) -> None:
        space = keyspace()
        space.survey()
        staged = StagedEntries(space.find_entry)
        staged.stage(b"a", staged.lookup(b"a"), (-1, 4, 0, 3))  # a touch: the value keeps its revision
        staged.stage(b"b", staged.lookup(b"b"), (-2, -2, 0, 9))
        staged.stage(b"d", None, (-4, -3, NOW + 7, 1))  # a touch of a value of the same group
        staged.stage(b"c", staged.lookup(b"c"), None)
        space.commit(staged, 100, NOW)
        entries: dict[bytes, Entry] = {b"a": (100, 4, 0, 3), b"b": (101, 101, 0, 9), b"d": (103, 102, NOW + 7, 1)}
        assert held(space) == entries and space.find_entry(b"c") is None
        assert (len(space), space.bytes, space.expiring) == (3, 16, 1)
        assert space.expiries.take_due(at(NOW + 7), 9, space.find_entry) == [(b"d", entries[b"d"])]
        space.expiries.schedule(b"d", NOW + 7)
        space.check(entries)

    def test_new_keys_can_be_evicted_and_count_as_used(self) -> None:
        space = keyspace(new_evictor())
        space.survey()
        staged = StagedEntries(space.find_entry)
        staged.stage(b"d", None, (-1, -1, 0, 1))
        staged.stage(b"a", staged.lookup(b"a"), (-2, -2, 0, 1))
        space.commit(staged, 100, NOW)
        keys = [key for key, _ in space.take_victims(99, 9, (), (), NOW)[0]]
        assert ({*keys[:2]}, {*keys[2:]}) == ({b"b", b"c"}, {b"a", b"d"})

    def test_expiries_that_are_taken_back_leave_nothing(self) -> None:
        space = Keyspace(0, 1, 100)
        load(space, [(b"%d" % n, n + 1, n + 1, NOW + n, 0) for n in range(10_000)])
        staged = StagedEntries(space.find_entry)
        for n in range(10_000):
            key = b"%d" % n
            staged.stage(key, staged.lookup(key), (-n - 1, n + 1, 0, 0) if n % 2 else None)
        space.commit(staged, 20_000, NOW)
        space.check()
        assert (space.expiring, space.expiries._by_wall.items) == (0, [])

    def test_nothing_changes_nothing(self) -> None:
        space = keyspace()
        space.commit(StagedEntries(space.find_entry), 0, NOW)
        assert (space.recent, len(space), space.bytes, space.expiring) == ({}, 3, 8, 2)


class TestForgetOldest:
    @pytest.mark.parametrize(("most", "left"), [(40, 40), (39, 38), (32, 32), (31, 31), (0, 0)])
    def test_no_more_stay_than_may(self, most: int, left: int) -> None:
        space = Keyspace(0, 1, 100)
        load(space, [(b"%02d" % n, n + 1, n + 1, 0, 0) for n in range(40)])
        space.forget_oldest(most)
        assert list(space.recent) == [b"%02d" % n for n in range(40 - left, 40)]

    def test_several_go_at_once(self) -> None:
        space = Keyspace(0, 1, 100)
        load(space, [(b"%03d" % n, n + 1, n + 1, 0, 0) for n in range(161)])
        space.forget_oldest(160)
        assert len(space.recent) == 151

    def test_what_is_forgotten_is_found_in_the_map(self) -> None:
        space = keyspace()
        space.recent[b"b"] = None
        assert space.find_entry(b"b") is None
        space.forget_oldest(0)
        assert space.find_entry(b"b") == STORED[b"b"]


class TestCheck:
    @pytest.mark.parametrize(
        ("entries", "problem"),
        [
            ({b"a": (1, 1, 0, 1)}, "bytes"),
            ({b"a": (1, 1, 5, 0)}, "expiring entries"),
            ({b"a": (1, 2, 0, 0)}, "a"),
            ({b"b": (1, 1, 0, 0)}, "keys"),
        ],
    )
    def test_contradictions_are_found(self, entries: dict[bytes, Entry], problem: str) -> None:
        space = Keyspace(0, 1, 100)
        load(space, [(b"a", 1, 1, 0, 0)])
        space.recent.update(entries)
        with pytest.raises(AssertionError, match=problem):
            space.check()

    def test_a_map_that_says_otherwise_is_found(self) -> None:
        space = keyspace()
        for wrong in ((6, 6, 0, 1), None):
            space.recent[b"b"] = wrong
            with pytest.raises(AssertionError, match="recent"):
                space.check(STORED)

    def test_keys_of_other_shards_are_found(self) -> None:
        key = next(b"%d" % number for number in range(99) if shard_of(b"%d" % number, 2) == 1)
        for shard, mine in ((0, False), (1, True)):
            space = Keyspace(shard, 2, 100)
            load(space, [(key, 1, 1, 0, 0)])
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
        Keyspace(0, 1, 100).read_value(b"a")
