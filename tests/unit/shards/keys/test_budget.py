"""The load of a group, and the memory limit: what is refused, and what is evicted for what. (All at once:
test_rules_machine.)"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import pytest

from shards.keys import rules
from shards.keys.budget import FULL_BYTES, GroupLoad, Starved
from shards.keys.eviction import STAMPS, Evictor, record_use
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.server.proposals import decide_starved, propose_evictions
from shards.wire.keys import shard_of
from shards.wire.protocol import (
    Atomic,
    AtomicBatch,
    Change,
    Condition,
    Delete,
    DeleteEvent,
    Done,
    Evict,
    Failed,
    Get,
    Incr,
    Operation,
    Patch,
    PrefixMarked,
    Put,
    PutEvent,
    Reply,
    Results,
    Touch,
    Value,
)
from tests.times import at
from tests.unit.shards.keys.groups import held, load

NOW = 1_700_000_000_000
MINE = b"{t}"
"""Keys that begin like this belong to the shard, of however many there are."""


def keyspace(limit: int, *keys: bytes, evicting: int = 0, size: int = 9, shards: int = 1) -> Keyspace:
    """Keys with values of `size` bytes, the first used longest ago. `evicting`: how many may go in a group."""
    stamps = memoryview(array("I", bytes(4 * STAMPS)))
    evictor = Evictor(stamps, random.Random(5).random, evicting) if evicting else None
    space = Keyspace(
        shard_of(MINE, shards), shards, 1000, lambda key: (b"5" * size, ""), max_memory=limit, evictor=evictor
    )
    load(space, [(key, number, number, 0, size) for number, key in enumerate(keys, 1)])
    for number, key in enumerate(keys):
        record_use(stamps, key, NOW - 1000 * (len(keys) - number))
    return space


def open_group(space: Keyspace, others: int = 0, now_ms: int = NOW) -> Group:
    """A group of a shard that is alone."""
    group = Group(space, at(now_ms), others_bytes=others)
    group.memory.shrinks = True
    return group


def decide(group: Group, operation: Operation) -> Reply | Starved:
    """Decide `operation`, evicting for it."""
    reply = rules.decide(group, operation)
    return decide_starved(group, operation, reply, rules.decide) if isinstance(reply, Starved) else reply


def do(
    space: Keyspace, *operations: Operation, others: int = 0, now_ms: int = NOW
) -> tuple[list[Reply | Starved], Group]:
    """The replies to one group, which is committed, and the group."""
    group = open_group(space, others, now_ms)
    replies = [decide(group, operation) for operation in operations]
    group.replies.fill_old_values(dict.fromkeys(group.commit(100), (b"old", "a/b", 7)))
    space.check()
    return replies, group


def codes(replies: Sequence[Reply | Starved]) -> list[str]:
    return [_code(reply) for reply in replies]


def _code(reply: Reply | Starved) -> str:
    if isinstance(reply, Starved):
        return "starved"
    return reply.code if isinstance(reply, Failed) else ""


def evicted(group: Group) -> list[bytes]:
    return [event.key for event in group.events if isinstance(event, DeleteEvent) and event.cause == "evict"]


class TestReject:
    def test_the_last_byte_fits_and_no_other(self) -> None:
        assert codes(do(keyspace(20, b"a"), Put(b"k", b"v" * 9))[0]) == [""]
        [reply], group = do(keyspace(20, b"a"), Put(b"k", b"v" * 10))
        assert reply == Failed(
            "memory_limit", "10 of 20 bytes are used, 11 more are needed", 0, {"limit": 20, "used": 10, "needed": 11}
        )
        assert group.events == []

    def test_what_other_shards_hold_counts(self) -> None:
        assert codes(do(keyspace(30, b"a"), Put(b"k", b"v" * 9), others=10)[0]) == [""]
        [reply], _ = do(keyspace(30, b"a"), Put(b"k", b"v" * 9), others=11)
        assert isinstance(reply, Failed) and reply.members == {"limit": 30, "used": 21, "needed": 10}

    def test_what_the_group_decided_before_counts(self) -> None:
        replies, _ = do(keyspace(20), Put(b"a", b"v" * 9), Put(b"b", b"v" * 10), Put(b"b", b"v" * 9), Put(b"c", b""))
        assert codes(replies) == ["", "memory_limit", "", "memory_limit"]

    def test_a_delete_in_the_group_makes_room(self) -> None:
        assert codes(do(keyspace(10, b"a"), Put(b"b", b""), Delete(b"a"), Put(b"b", b"v" * 9))[0]) == [
            "memory_limit",
            "",
            "",
        ]

    @pytest.mark.parametrize(
        "operation",
        [Delete(b"a"), Touch(b"a", 5), Put(b"a", b"v" * 9), Put(b"a", b""), Get(b"a", 1), Incr(b"n", 1), Incr(b"n", 9)],
    )
    def test_what_does_not_grow_works_however_full_it_is(self, operation: Operation) -> None:
        assert codes(do(keyspace(20, b"a", b"n"), operation, others=1000)[0]) == [""]

    def test_an_expired_key_counts_until_it_is_deleted(self) -> None:
        space = keyspace(20)
        do(space, Put(b"a", b"v" * 9, ttl_ms=5))
        assert codes(do(space, Put(b"b", b"v" * 10), now_ms=NOW + 6)[0]) == ["memory_limit"]
        assert codes(do(space, Put(b"a", b"v" * 20), now_ms=NOW + 6)[0]) == ["memory_limit"]
        assert codes(do(space, Put(b"a", b"v" * 19), now_ms=NOW + 6)[0]) == [""]

    def test_an_increment_and_a_patch_grow(self) -> None:
        replies, _ = do(keyspace(4), Incr(b"n", 99), Incr(b"n", 900), Incr(b"n", 1), Incr(b"n", -1), Incr(b"m", 1))
        assert codes(replies) == ["", "", "memory_limit", "", "memory_limit"]
        replies, _ = do(keyspace(8), Patch(b"j", b'{"a":1}'), Patch(b"j", b'{"a":22}'), Patch(b"j", b'{"a":2}'))
        assert codes(replies) == ["", "memory_limit", ""]

    def test_a_condition_that_does_not_hold_comes_first(self) -> None:
        assert codes(do(keyspace(5), Put(b"k", b"v" * 9, condition=Condition([5])))[0]) == ["precondition_failed"]

    def test_an_atomic_batch_is_done_whole_or_refused_whole(self) -> None:
        space = keyspace(20, b"a")
        batch: list[Put | Delete] = [Put(b"{t}1", b"v"), Put(b"{t}2", b"vv")]
        [reply], group = do(space, AtomicBatch([*batch]))
        assert isinstance(reply, Failed) and reply.code == "memory_limit"
        assert reply.members == {"limit": 20, "used": 15, "needed": 6}
        assert group.events == [] and space.bytes == 10
        assert isinstance(do(keyspace(21, b"a"), AtomicBatch([*batch]))[0][0], Results)

    def test_more_than_the_limit_at_the_start_is_kept_and_does_not_grow(self) -> None:
        space = keyspace(15, b"a", b"b", b"c")
        replies, _ = do(space, Put(b"d", b""), Put(b"a", b"v" * 10), Put(b"a", b"v" * 9), Put(b"b", b""))
        assert codes(replies) == ["memory_limit", "memory_limit", "", ""]
        replies, _ = do(space, Delete(b"a"), Put(b"b", b"v" * 4), Put(b"b", b"v" * 5))
        assert codes(replies) == ["", "", "memory_limit"]


class TestEvict:
    def test_the_oldest_goes_first_and_no_more_than_must(self) -> None:
        space = keyspace(30, b"a", b"b", b"c", evicting=9)
        [reply], group = do(space, Put(b"k", b"v" * 9))
        assert group.events == [DeleteEvent(b"a", "evict"), PutEvent(b"k", b"v" * 9, "", 0)]
        assert reply == Done(101, False)
        assert space.bytes == 30
        assert evicted(do(space, Put(b"l", b"v" * 10))[1]) == [b"b", b"c"]

    def test_the_last_byte_needs_no_eviction(self) -> None:
        assert evicted(do(keyspace(31, b"a", evicting=9), Put(b"k", b"v" * 20))[1]) == []
        assert evicted(do(keyspace(30, b"a", evicting=9), Put(b"k", b"v" * 20))[1]) == [b"a"]

    def test_a_use_makes_young(self) -> None:
        for use in (Get(b"a", 1), Touch(b"a"), Put(b"a", b"v" * 9), Incr(b"a", 0)):
            space = keyspace(30, b"a", b"b", b"c", evicting=9)
            do(space, use)
            assert evicted(do(space, Put(b"k", b"v" * 9))[1]) == [b"b"]

    def test_neither_the_key_that_is_written_nor_one_of_the_group_goes(self) -> None:
        space = keyspace(30, b"a", b"b", b"c", evicting=9)
        replies, group = do(space, Put(b"b", b""), Put(b"a", b"v" * 28))
        assert (codes(replies), evicted(group)) == (["", ""], [b"c"])
        assert set(held(space)) == {b"a", b"b"}

    def test_what_no_eviction_can_make_fit_evicts_nothing(self) -> None:
        [reply], group = do(keyspace(30, b"a", b"b", evicting=9), Put(b"k", b"v" * 30))
        assert isinstance(reply, Failed) and reply.code == "memory_limit"
        assert group.events == []

    def test_when_its_own_keys_must_go_another_group_goes_on(self) -> None:
        space = keyspace(30, b"a", evicting=9)
        replies, group = do(space, Put(b"k", b"v" * 19), Put(b"l", b"v" * 19))
        assert (codes(replies), evicted(group)) == (["", "starved"], [])
        replies, group = do(space, Put(b"l", b"v" * 19))
        assert (codes(replies), evicted(group)) == ([""], [b"a", b"k"])

    def test_another_group_goes_on_after_a_batch_too(self) -> None:
        replies, _ = do(keyspace(30, evicting=9), AtomicBatch([Put(b"{t}1", b"v" * 16)]), Put(b"l", b"v" * 19))
        assert codes(replies) == ["", "starved"]

    def test_a_group_evicts_only_so_many(self) -> None:
        space = keyspace(100, *(b"%d" % n for n in range(10)), evicting=4)
        for _ in range(2):
            replies, group = do(space, Put(b"k", b"v" * 99))
            assert (codes(replies), len(evicted(group))) == (["starved"], 4)
        replies, group = do(space, Put(b"k", b"v" * 99))
        assert (codes(replies), len(evicted(group))) == ([""], 2)

    def test_an_expired_key_that_goes_has_expired(self) -> None:
        space = keyspace(20, evicting=9)
        do(space, Put(b"a", b"v" * 9, ttl_ms=5))
        _, group = do(space, Put(b"b", b"v" * 19), now_ms=NOW + 6)
        assert group.events[0] == DeleteEvent(b"a", "expire")
        assert evicted(group) == []

    def test_a_discarded_group_has_evicted_nothing(self) -> None:
        space = keyspace(30, b"a", b"b", b"c", evicting=9)
        group = open_group(space)
        assert isinstance(decide(group, Put(b"k", b"v" * 29)), Done)
        group.discard()
        space.check()
        assert (set(held(space)), space.bytes) == ({b"a", b"b", b"c"}, 30)
        assert evicted(do(space, Put(b"k", b"v" * 29))[1]) == [b"a", b"b", b"c"]


class TestEvictForABatch:
    def test_what_goes_for_it_goes_before_it(self) -> None:
        space = keyspace(30, b"a", b"b", evicting=9)
        batch = AtomicBatch([Put(b"{t}1", b"v" * 6), Incr(b"{t}2", 1)])
        group = open_group(space)
        assert rules.decide(group, batch) == Starved(5)
        assert (group.events, group.staged.bytes) == ([], 0)
        assert isinstance(decide(group, batch), Results)
        evict, atomic = group.record()
        assert evict == DeleteEvent(b"a", "evict")
        assert isinstance(atomic, Atomic) and len(atomic.changes) == 2

    def test_what_a_batch_needs_counts_where_it_is_most(self) -> None:
        space = keyspace(30, b"a", b"b", evicting=9)
        batch = AtomicBatch([Put(b"{t}1", b"v" * 16), Delete(b"{t}1"), Put(b"{t}2", b"v")])
        assert rules.decide(open_group(space), batch) == Starved(10)
        assert evicted(do(space, batch)[1]) == [b"a"]

    def test_a_batch_that_fails_has_evicted_nothing(self) -> None:
        space = keyspace(30, b"a", b"b", b"c", evicting=9)
        batch = AtomicBatch([Put(b"{t}1", b"v" * 6), Put(b"{t}2", b"v", condition=Condition([7]))])
        [reply, _], group = do(space, batch, Put(b"d", b""))
        assert isinstance(reply, Results) and reply.failed == 1
        assert group.events == [DeleteEvent(b"a", "evict"), PutEvent(b"d", b"", "", 0)]
        assert set(held(space)) == {b"b", b"c", b"d"}

    def test_a_batch_that_can_never_fit_evicts_nothing(self) -> None:
        space = keyspace(30, b"a", b"b", evicting=9)
        replies, group = do(space, AtomicBatch([Put(b"{t}1", b"v" * 12), Put(b"{t}2", b"v" * 12)]))
        assert (codes(replies), group.events) == (["memory_limit"], [])
        assert set(held(space)) == {b"a", b"b"}

    def test_one_that_needs_more_than_a_group_may_evict_gets_it_bit_by_bit(self) -> None:
        space = keyspace(100, *(b"%d" % n for n in range(10)), evicting=4)
        batch = AtomicBatch([Put(b"{t}1", b"v" * 40), Put(b"{t}2", b"v" * 40)])
        for left in (6, 2):
            replies, _ = do(space, batch)
            assert (codes(replies), len(space)) == (["starved"], left)
        [reply], _ = do(space, batch)
        assert isinstance(reply, Results) and reply.failed is None


class TestInAnOrder:
    """Nothing is evicted but by an `Evict`, and the shard stays within what it held."""

    def test_what_does_not_fit_says_what_it_needs(self) -> None:
        space = keyspace(30, b"a", b"b", evicting=9)
        group = Group(space, at(NOW))
        put = Put(b"k", b"v" * 12)
        assert rules.decide(group, put) == Starved(3)
        assert rules.decide(group, Evict([(b"b", 2)])) == Done(-1, True)
        assert rules.decide(group, put) == Done(-2, False)
        assert isinstance(rules.decide(group, Put(b"k", b"v" * 30)), Failed)

    def test_one_that_holds_more_than_the_limit_does_not_grow(self) -> None:
        group = Group(keyspace(15, b"a", b"b", b"c", evicting=9), at(NOW))
        assert rules.decide(group, Put(b"a", b"v" * 10)) == Starved(1)
        assert rules.decide(group, Put(b"a", b"v" * 9)) == Done(-1, True)

    def test_keys_are_proposed_for_what_may_grow(self) -> None:
        space = keyspace(32, b"a", b"b", b"c", evicting=9)
        for operation in (Put(b"a", b"v" * 11), Put(b"k", b"v"), Delete(b"a"), Get(b"a", 1), Touch(b"a")):
            assert propose_evictions(space, [operation], at(NOW), 0) is None
        evict = propose_evictions(space, [Put(b"a", b"v" * 10), Incr(b"n", 1)], at(NOW), 0)
        assert evict == Evict([(b"b", 2), (b"c", 3)]), "a number may have 20 digits"
        assert propose_evictions(space, [], at(NOW), 10) == Evict([(b"a", 1)])
        assert propose_evictions(space, [], at(NOW), 10) is None
        space.restore_taken()
        patch = AtomicBatch([Patch(b"{c}", b"{}"), Put(b"c", b"")])
        assert propose_evictions(space, [patch], at(NOW), 0) == Evict([(b"a", 1)])
        space.restore_taken()
        space.check()
        assert propose_evictions(keyspace(30, b"a"), [Put(b"k", b"v" * 29)], at(NOW), 0) is None

    def test_a_victim_that_changes_can_be_one_again(self) -> None:
        space = keyspace(30, b"a", b"b", evicting=9)
        assert propose_evictions(space, [], at(NOW), 20) == Evict([(b"a", 1), (b"b", 2)])
        do(space, Put(b"a", b"x"), Delete(b"b"))
        assert propose_evictions(space, [], at(NOW), 20) == Evict([(b"a", 100)])


class TestMoreThanTheLimit:
    def test_a_start_with_more_is_worked_off_by_the_writes(self) -> None:
        space = keyspace(50, *(b"%d" % n for n in range(10)), evicting=2)
        sizes = []
        for n in range(5):
            assert codes(do(space, Put(b"k%d" % n, b"v" * 8))[0]) == [""]
            sizes.append(space.bytes)
        assert sizes == [90, 80, 70, 60, 50]

    def test_a_shard_that_holds_little_keeps_it_when_another_holds_too_much(self) -> None:
        space = keyspace(100, b"{t}a", b"{t}b", b"{t}c", size=6, evicting=9, shards=2)
        replies, group = do(space, Put(b"{t}k", b"v" * 6), others=500)
        assert (codes(replies), evicted(group), space.bytes) == ([""], [b"{t}a"], 30)

    def test_one_that_holds_more_than_its_share_goes_down_to_it(self) -> None:
        space = keyspace(40, b"{t}a", b"{t}b", b"{t}c", size=6, evicting=9, shards=2)
        replies, group = do(space, Put(b"{t}a", b"v" * 7), others=500)
        assert (codes(replies), evicted(group), space.bytes) == ([""], [b"{t}b", b"{t}c"], 11)

    def test_one_that_has_nothing_to_evict_refuses(self) -> None:
        replies, group = do(keyspace(40, evicting=9, shards=2), Put(b"{t}a", b""), others=40)
        assert (codes(replies), group.events) == (["memory_limit"], [])


def test_a_key_that_went_may_come_back_in_the_same_group() -> None:
    replies, group = do(keyspace(20, b"a", b"b", evicting=9), Put(b"k", b"v" * 9), Incr(b"a", 5), Get(b"a", 1))
    assert evicted(group) == [b"a", b"b"]
    assert replies == [Done(101, False), Value(103, False, b"5", "text/plain"), Value(103, True, b"5", "text/plain")]


class TestGroupLoad:
    def test_work_fills_a_group(self) -> None:
        load = GroupLoad()
        load.count_work(FULL_BYTES)
        assert not load.is_full
        load.count_work(1)
        assert load.is_full

    def test_events_are_weighed_once(self) -> None:
        load = GroupLoad()
        events: list[Change] = [PutEvent(b"key", b"value", "a/b", 0)]
        assert load.weigh(events) == load.weigh(events) == 24 + 11
        events += [DeleteEvent(b"key", "request"), PrefixMarked(b"pre")]
        assert load.weigh(events) == 3 * 24 + 17
        assert not load.is_full

    def test_events_fill_a_group_until_they_are_taken_back(self) -> None:
        load = GroupLoad()
        load.weigh([PutEvent(b"k", bytes(FULL_BYTES), "", 0)])
        assert load.is_full
        load.rewind_events(0, 0)
        assert (load.is_full, load.weigh([DeleteEvent(b"k", "request")])) == (False, 25)
