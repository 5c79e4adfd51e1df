"""A group from its first operation to its commit or discard: expiries, order, revisions, undoing."""

from __future__ import annotations

import pytest

from shards.keys import rules
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.wire.clock import Now
from shards.wire.protocol import (
    Atomic,
    AtomicBatch,
    Delete,
    DeleteEvent,
    Done,
    Failed,
    Put,
    PutEvent,
    Replaced,
    Touch,
)
from tests.times import at
from tests.unit.shards.keys.groups import MAX_VALUE, NOW, decide, expire_due, held, keyspace, load


class TestExpiry:
    def test_due_keys_in_order_of_time(self) -> None:
        space = keyspace(Put(b"b", b"", ttl_ms=2), Put(b"a", b"", ttl_ms=3), Put(b"c", b"", ttl_ms=1), Put(b"d", b""))
        assert space.expiries.due_in_ms(at(NOW)) == 1
        group = Group(space, at(NOW + 2))
        assert expire_due(group, 10) == 2
        assert group.events == [DeleteEvent(b"c", "expire"), DeleteEvent(b"b", "expire")]
        group.commit(9)
        space.check()
        assert (len(space), space.expiries.due_in_ms(at(NOW))) == (2, 3)

    def test_at_most_the_limit(self) -> None:
        space = keyspace(*(Put(b"%d" % i, b"", ttl_ms=1) for i in range(5)))
        group = Group(space, at(NOW + 1))
        assert expire_due(group, 3) == 3
        group.commit(9)
        assert len(space) == 2
        assert expire_due(Group(space, at(NOW + 1)), 3) == 2

    def test_moved_on_again_and_again_is_looked_at_once(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10))
        for i in range(100):
            decide(space, Touch(b"k", ttl_ms=10 + i), first_revision=100 + i)
        assert space.expiries.due_in_ms(at(NOW)) == 10
        assert expire_due(Group(space, at(NOW + 50)), 10) == 0
        assert space.expiries.due_in_ms(at(NOW)) == 109
        assert expire_due(Group(space, at(NOW + 109)), 10) == 1

    def test_shortened_is_punctual(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=100), Touch(b"k", ttl_ms=10))
        assert space.expiries.due_in_ms(at(NOW)) == 10
        group = Group(space, at(NOW + 10))
        assert expire_due(group, 10) == 1
        group.commit(9)
        space.check()
        assert expire_due(Group(space, at(NOW + 100)), 10) == 0

    def test_discarded_is_due_again(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=1))
        group = Group(space, at(NOW + 1))
        assert expire_due(group, 10) == 1
        group.discard()
        space.check()
        assert expire_due(Group(space, at(NOW + 1)), 10) == 1

    def test_times_are_of_the_clock_as_it_is_set_and_lifetimes_are_not(self) -> None:
        space = keyspace(Put(b"t", b"", expires_ms=NOW + 10), Put(b"l", b"", ttl_ms=10))
        reply = rules.decide(Group(space, Now(NOW + 99, NOW + 9)), Touch(b"l", ttl_ms=1))
        assert isinstance(reply, Done)
        assert (reply.existed, reply.expires_ms) == (True, NOW + 100)
        assert space.expiries.due_in_ms(Now(NOW + 99, NOW + 9)) == -89
        group = Group(space, Now(NOW + 99, NOW + 9))
        assert expire_due(group, 10) == 1
        assert group.events == [DeleteEvent(b"t", "expire")]
        assert group.expiry_lag_ms == 89

    @pytest.mark.parametrize("touch", [Touch(b"k", ttl_ms=9), Touch(b"k", expires_ms=NOW + 9)])
    def test_a_key_that_changed_its_clock_expires_once(self, touch: Touch) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10))
        decide(space, Touch(b"k", expires_ms=NOW + 10))
        decide(space, touch, first_revision=101)
        group = Group(space, at(NOW + 20))
        assert expire_due(group, 10) == 1
        group.commit(102)
        space.check()
        assert (space.bytes, len(space)) == (0, 0)

    def test_a_clock_that_is_set_back_brings_nothing_back(self) -> None:
        space = keyspace(Put(b"t", b"", expires_ms=NOW + 10), Put(b"l", b"", ttl_ms=10))
        group = Group(space, Now(NOW - 10**9, NOW + 10))
        assert expire_due(group, 10) == 1
        assert group.events == [DeleteEvent(b"l", "expire")]
        group.commit(9)
        space.check()
        assert space.expiries.due_in_ms(Now(NOW - 10**9, NOW + 10)) == 10**9 + 10


class TestGroup:
    def test_later_operations_see_earlier_ones(self) -> None:
        space = keyspace()
        group = Group(space, at(NOW))
        replies = [
            rules.decide(group, operation)
            for operation in (
                Put(b"k", b"1"),
                Put(b"k", b"2", want_previous=True),
                Delete(b"k", want_previous=True),
                Delete(b"k"),
                Put(b"k", b"3", want_previous=True),
                Touch(b"k", ttl_ms=5),
            )
        ]
        assert group.commit(10) == {11, 12}
        group.replies.fill_old_values({11: (b"1", "", 10), 12: (b"2", "", 11)})
        assert replies == [
            Done(10, False),
            Replaced(11, True, b"1", 0, "", 10),
            Replaced(12, True, b"2", 0, "", 11),
            Done(0, False),
            Done(13, False, None),
            Done(14, True, None, NOW + 5),
        ]
        space.check()

    def test_discard_leaves_the_dict_alone(self) -> None:
        space = keyspace(Put(b"k", b"v"))
        group = Group(space, at(NOW))
        rules.decide(group, Put(b"k", b"longer", ttl_ms=3))
        rules.decide(group, Delete(b"k"))
        rules.decide(group, Put(b"x", b"v"))
        group.discard()
        space.check()
        assert (len(space), space.bytes) == (1, 2)
        assert decide(space, Delete(b"x")) == Done(0, False)
        assert decide(space, Delete(b"k")) == Done(100, True)

    def test_answer_bytes_are_those_of_replies(self) -> None:
        group = Group(keyspace(Put(b"k", b"12345")), at(NOW))
        rules.decide(group, Put(b"k", b"", want_previous=True))
        rules.decide(group, Put(b"k", b"123", want_previous=True))
        rules.decide(group, Delete(b"k"))
        assert group.replies.bytes == 5

    def test_old_values_in_replies_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.replies.MAX_ANSWERS", 10)
        group = Group(keyspace(Put(b"a", b"123456"), Put(b"b", b"12345")), at(NOW))
        assert isinstance(rules.decide(group, Put(b"a", b"", want_previous=True)), Done)
        for operation in (Put(b"b", b"", want_previous=True), Delete(b"b", want_previous=True)):
            reply = rules.decide(group, operation)
            assert isinstance(reply, Failed) and reply.code == "overloaded"
        assert len(group.events) == 1
        assert isinstance(rules.decide(group, Delete(b"b")), Done)

    def test_an_atomic_batch_is_one_event_of_the_record_among_others(self) -> None:
        group = Group(keyspace(), at(NOW))
        batches = [
            AtomicBatch([Put(b"{t}1", b"v"), Put(b"{t}2", b"v")]),
            AtomicBatch([Put(b"{t}3", b""), Delete(b"t")]),
        ]
        for operation in (Put(b"a", b""), batches[0], Put(b"b", b""), batches[1], Put(b"c", b"")):
            assert not isinstance(rules.decide(group, operation), Failed)
        first, atomic, *singles = group.record()
        assert atomic == Atomic([PutEvent(b"{t}1", b"v", "", 0), PutEvent(b"{t}2", b"v", "", 0)])
        assert [first, *singles] == [PutEvent(key, b"", "", 0) for key in (b"a", b"b", b"{t}3", b"c")]
        assert len(group.events) == 6

    def test_a_savepoint_takes_back_what_came_after_it(self) -> None:
        space = keyspace(Put(b"k", b"1"))
        group = Group(space, at(NOW))
        rules.decide(group, Put(b"k", b"22"))
        undo = group.set_savepoint([b"k", b"x"])
        rules.decide(group, Delete(b"k", want_previous=True))
        rules.decide(group, Put(b"x", b"", ttl_ms=5))
        undo()
        assert group.events == [PutEvent(b"k", b"22", "", 0)]
        assert (group.staged.lookup(b"k"), group.staged.lookup(b"x")) == ((-1, -1, 0, 2), None)
        assert group.replies.bytes == 0
        assert group.commit(10) == set()
        space.check()
        assert held(space) == {b"k": (10, 10, 0, 2)}

    def test_values_come_from_the_group_or_from_the_map(self) -> None:
        space = Keyspace(0, 1, MAX_VALUE, lambda key: (b"of " + key, "a/b"))
        load(space, [(b"k", 3, 3, 0, 4)])
        group = Group(space, at(NOW))
        rules.decide(group, Touch(b"k", ttl_ms=5))
        assert group.value_of(b"k", (-1, 3, -NOW - 5, 4)) == (b"of k", "a/b")
        rules.decide(group, Put(b"k", b"new", "c/d"))
        assert group.value_of(b"k", (-2, -2, 0, 3)) == (b"new", "c/d")

    def test_puts_that_surely_fit_are_not_checked(self) -> None:
        space = Keyspace(0, 1, MAX_VALUE, max_memory=10)
        load(space, [(b"k", 3, 3, 0, 4)])
        sizes = [(0, 5), (0, 6), (1, 5)]
        assert [Group(space, at(NOW), others_bytes=others, put_bytes=size).checks_memory for others, size in sizes] == [
            False,
            True,
            True,
        ]
        assert not Group(keyspace(), at(NOW)).checks_memory
