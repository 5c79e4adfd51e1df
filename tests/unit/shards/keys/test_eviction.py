"""Which key goes: by age, near enough, and without walking through all of them."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable

from shards.keys import rules
from shards.keys.entries import Entry
from shards.keys.eviction import SAMPLE, STAMPS, Evictor, record_use
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.wire.protocol import Put
from tests.times import at

NOW = 1_700_000_000_000


ENTRY = (1, 1, 0, 0)


def entries(keys: Iterable[bytes]) -> dict[bytes, Entry]:
    return dict.fromkeys(keys, ENTRY)


def table() -> memoryview[int]:
    return memoryview(array("I", bytes(4 * STAMPS)))


def test_what_is_used_all_the_time_stays() -> None:
    """A tenth of the keys is read while four times of what fits is written: by chance some 5 in 100 would stay."""
    keys, stamps = 2000, table()
    size = len(b"key-0000") + 10
    space = Keyspace(0, 1, 100, max_memory=keys * size, evictor=Evictor(stamps, random.Random(7).random))
    hot = [b"key-%04d" % n for n in range(0, keys, 10)]
    now_ms, revision = NOW, 1

    def put(key: bytes) -> None:
        nonlocal now_ms, revision
        now_ms += 10
        group = Group(space, at(now_ms))
        rules.decide(group, Put(key, b"v" * 10))
        revision += len(group.events)
        group.commit(revision - len(group.events))

    for n in range(keys):
        put(b"key-%04d" % n)
    for n in range(4 * keys):
        put(b"new-%04d" % n)
        if n % 100 == 0:
            for key in hot:
                record_use(stamps, key, now_ms)
    space.check()
    assert space.bytes <= keys * size
    stayed = sum(space.find_entry(key) is not None for key in hot)
    assert stayed >= 0.98 * len(hot), f"{stayed} of {len(hot)}"


def test_the_oldest_of_few_is_found_for_sure() -> None:
    stamps = table()
    evictor = Evictor(stamps, random.Random(1).random)
    keys = entries((b"a", b"b", b"c"))
    evictor.add_keys(keys)
    for age, key in enumerate((b"c", b"a", b"b")):
        record_use(stamps, key, NOW - 1000 * age)
    assert evictor.take_oldest(keys.get, (), (), NOW) == (b"b", ENTRY)
    evictor.restore([b"b"])
    assert evictor.take_oldest(keys.get, {b"b": None}, (), NOW) == (b"a", ENTRY)
    evictor.restore([b"a"])
    assert evictor.take_oldest(keys.get, {b"b": None}, (b"a",), NOW) == (b"c", ENTRY)
    assert evictor.take_oldest(keys.get, {b"b": None, b"c": None}, (b"a",), NOW) is None


def test_what_was_given_is_not_given_again() -> None:
    evictor = Evictor(table(), random.Random(1).random)
    keys = entries(b"%d" % n for n in range(40))
    evictor.add_keys(keys)
    assert {evictor.take_oldest(keys.get, (), (), NOW) for _ in range(40)} == set(keys.items())
    assert evictor.take_oldest(keys.get, (), (), NOW) is None


def test_one_that_the_sample_never_meets_is_found_when_all_others_are_spared() -> None:
    evictor = Evictor(table(), lambda: 0.0)  # always draws the first
    keys = entries(b"%d" % n for n in range(100))
    evictor.add_keys(keys)
    assert evictor.take_oldest(keys.get, dict.fromkeys(b"%d" % n for n in range(99)), (), NOW) == (b"99", ENTRY)


def test_ages_are_right_when_the_clock_of_the_stamps_begins_anew() -> None:
    """It does so every year; what is older than that may seem young."""
    stamps = table()
    evictor = Evictor(stamps, random.Random(1).random)
    turn_ms = NOW - NOW % (8 << 32)
    record_use(stamps, b"old", turn_ms - 1000)
    record_use(stamps, b"new", turn_ms + 1000)
    keys = entries((b"old", b"new"))
    evictor.add_keys(keys)
    assert evictor.take_oldest(keys.get, (), (), turn_ms + 2000) == (b"old", ENTRY)


def test_a_store_of_nothing_has_nothing_to_give() -> None:
    assert Evictor(table(), random.Random(1).random).take_oldest({}.get, (), (), NOW) is None


def test_keys_that_come_and_go_are_forgotten() -> None:
    """Without an eviction too, and also if it is the same ones again and again."""
    evictor = Evictor(table(), random.Random(1).random)
    for n in range(4097):
        assert not evictor.is_mostly_stale(0)
        evictor.record_changes({b"%d" % (n % 3): ENTRY, b"deleted": None}, {}.get, NOW)
    assert evictor.is_mostly_stale(0) and not evictor.is_mostly_stale(1)
    evictor.clear()
    evictor.check({})
    assert evictor.take_oldest({b"1": ENTRY}.get, (), (), NOW) is None


def test_what_is_gone_is_no_part_of_the_sample() -> None:
    stamps = table()
    evictor = Evictor(stamps, random.Random(3).random)
    evictor.add_keys([b"%d" % n for n in range(32 * SAMPLE)])
    keys = entries(b"%d" % n for n in range(SAMPLE))
    for n, key in enumerate(keys):
        record_use(stamps, key, NOW - 8 * n)
    found = []
    for _ in range(200):
        taken = evictor.take_oldest(keys.get, (), (), NOW)
        assert taken is not None
        evictor.restore([taken[0]])
        found.append(taken[0])
    assert found.count(b"%d" % (SAMPLE - 1)) > 100, "of 16 it is among 16 draws in 64 of 100 cases"
