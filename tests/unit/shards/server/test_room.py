"""What is refused for want of room, what is not, and that nothing is left of it. (All at once: test_rules_machine.)"""

from __future__ import annotations

import random
from array import array

import pytest

from shards.keys.budget import FULL_BYTES, Starved
from shards.keys.eviction import STAMPS, Evictor
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.server.room import Room, WritePolicy
from shards.wire.protocol import (
    RECORD_BYTES,
    REMEMBERED_BYTES,
    AtomicBatch,
    Condition,
    Delete,
    Done,
    Evict,
    Expire,
    Failed,
    Get,
    Incr,
    MarkPrefix,
    Once,
    Operation,
    Patch,
    Put,
    Replayed,
    Reply,
    Results,
    Touch,
    Value,
)
from tests.times import at
from tests.unit.shards.keys.groups import NOW, keyspace, load

ALL, NO_GROWTH, DELETES = Room(), Room(WritePolicy.NO_GROWTH), Room(WritePolicy.DELETES)
STORED = (Put(b"k", b"12"), Put(b"{k}e", b"12", ttl_ms=1))


def code(reply: Reply | Starved | None) -> str:
    return reply.code if isinstance(reply, Failed) else ""


def stored() -> Keyspace:
    space = keyspace(*STORED)
    space.read_value = lambda key: (b"12", "")
    return space


def decide(room: Room, *operations: Operation, now_ms: int = NOW) -> list[str]:
    """The codes with which operations of one group are refused, after a look that a refusal leaves nothing behind."""
    space = stored()
    group = Group(space, at(now_ms))
    codes = []
    for operation in operations:
        before = len(group.events), dict(group.staged.changes), group.staged.bytes, len(group.outcomes)
        codes.append(code(room.decide(group, operation)))
        if codes[-1]:
            assert before == (len(group.events), group.staged.changes, group.staged.bytes, len(group.outcomes))
    group.commit(100)
    space.check()
    return codes


class TestDecide:
    @pytest.mark.parametrize("operation", [Put(b"x", b""), Put(b"k", b"123"), Incr(b"x", 1), Patch(b"x", b"{}")])
    def test_a_full_map_refuses_growth(self, operation: Operation) -> None:
        once = Once(operation, b"i" * 18, b"f" * 16)  # type: ignore[arg-type]
        refused = ["insufficient_storage"] * 3
        assert decide(NO_GROWTH, operation, once, once) == refused
        assert decide(DELETES, operation, once, once) == refused
        assert decide(ALL, operation, once, once) == ["", "", ""]

    def test_a_full_map_takes_what_does_not_grow(self) -> None:
        kept = (Put(b"k", b"21"), Touch(b"k", 9), Get(b"k", 1), Incr(b"k", 1), MarkPrefix(b"k"), Delete(b"k"))
        assert decide(NO_GROWTH, *kept) == [""] * 6

    def test_an_expired_value_counts_until_another_is_put(self) -> None:
        puts = [Put(b"{k}e", b"21"), Put(b"{k}e", b"213")]
        assert decide(NO_GROWTH, *puts, now_ms=NOW + 9) == ["", "insufficient_storage"]

    def test_a_full_log_is_for_deletes(self) -> None:
        others = [Delete(b"k"), Get(b"k", 1), MarkPrefix(b"k"), Expire([(b"k", 1)]), Evict([(b"{k}e", 2)])]
        writes = [Put(b"k", b""), Touch(b"k"), Incr(b"k", 1)]
        assert decide(DELETES, *writes, *others) == ["insufficient_storage"] * 3 + [""] * 5

    def test_what_fails_anyway_fails_as_always(self) -> None:
        wrong = [Put(b"k", b"123", condition=Condition([9])), Put(b"", b""), Patch(b"k", b"{")]
        for room in (NO_GROWTH, DELETES):
            assert decide(room, *wrong) == ["precondition_failed", "bad_key", "bad_request"]

    def test_a_batch_is_refused_whole_and_by_each_of_its_operations(self) -> None:
        batch = AtomicBatch([Delete(b"k"), Put(b"k", b"1")])
        assert decide(NO_GROWTH, batch) == ["insufficient_storage"], "the key was absent for a moment"
        assert decide(NO_GROWTH, AtomicBatch([Put(b"k", b"1"), Put(b"k", b"2"), Delete(b"k")])) == [""]
        assert decide(DELETES, AtomicBatch([Delete(b"k"), Get(b"k", 1)]), AtomicBatch([Touch(b"{k}e")])) == [
            "",
            "insufficient_storage",
        ]

    def test_results_need_room_that_was_not_foreseen(self) -> None:
        patches = [Patch(b"x", patch) for patch in (b'{"a":1}', b'{"a":2}', b'{"b":1}')]
        assert decide(Room(bytes_left=40), *patches) == ["", "", "insufficient_storage"]
        assert decide(Room(bytes_left=6), patches[0]) == ["insufficient_storage"]
        assert decide(Room(bytes_left=6), AtomicBatch([*patches])) == ["insufficient_storage"]
        assert decide(Room(bytes_left=7), patches[0]) == [""]
        assert decide(Room(bytes_left=0), Put(b"x", b"1234")) == [""], "it was asked for room for what is sent"

    def test_what_needs_evictions_is_refused_before_them(self) -> None:
        evictor = Evictor(memoryview(array("I", bytes(4 * STAMPS))), random.Random(1).random)
        space = Keyspace(0, 1, 100, max_memory=10, evictor=evictor)
        load(space, [(b"k", 1, 1, 0, 9)])
        for put in (Put(b"x", b"1"), Put(b"x", b"v" * 20)):
            group = Group(space, at(NOW))
            assert [code(room.decide(group, put)) for room in (NO_GROWTH, DELETES)] == ["insufficient_storage"] * 2
            assert group.events == []
        assert isinstance(ALL.decide(Group(space, at(NOW)), Put(b"x", b"1")), Starved)

    def test_what_is_done_once_is_not_remembered_if_it_is_refused(self) -> None:
        space = keyspace()
        group = Group(space, at(NOW))
        once = Once(AtomicBatch([Put(b"{x}1", b"1"), Put(b"{x}2", b"1")]), b"i" * 18, b"f" * 16)
        assert code(NO_GROWTH.decide(group, once)) == "insufficient_storage"
        assert isinstance(ALL.decide(group, once), Results)
        assert isinstance(ALL.decide(group, once), Replayed)
        assert len(group.record()) == 2


class TestForeseeRefusal:
    @pytest.mark.parametrize(
        ("operation", "grows", "writes"),
        [
            (Put(b"k", b"12"), False, True),
            (Put(b"k", b"123"), True, True),
            (Put(b"x", b""), True, True),
            (Incr(b"k", 1), False, True),
            (Incr(b"x", 1), True, True),
            (Patch(b"k", b"{}"), True, True),
            (Touch(b"k"), False, True),
            (Delete(b"k"), False, False),
            (Get(b"k", 1), False, False),
            (Evict([(b"k", 1)]), False, False),
            (AtomicBatch([Delete(b"k"), Put(b"{k}x", b"")]), True, True),
            (AtomicBatch([Delete(b"k")]), False, False),
            (Once(Put(b"x", b""), b"i" * 18, b"f" * 16), True, True),
        ],
    )
    def test_what_may_grow(self, operation: Operation, grows: bool, writes: bool) -> None:
        find = stored().find_entry
        assert ALL.foresee_refusal(operation, find) is None
        assert code(NO_GROWTH.foresee_refusal(operation, find)) == ("insufficient_storage" if grows else "")
        assert code(DELETES.foresee_refusal(operation, find)) == ("insufficient_storage" if writes else "")


def test_plenty_is_what_a_group_can_never_take() -> None:
    most = 30 + FULL_BYTES + RECORD_BYTES + 100
    assert Room(bytes_left=most).is_plenty(30, 100)
    assert not Room(bytes_left=most - 1).is_plenty(30, 100)
    assert not NO_GROWTH.is_plenty(0, 0) and not DELETES.is_plenty(0, 0)


def test_a_map_without_room_remembers_no_values() -> None:
    assert [room.remembered_bytes for room in (ALL, NO_GROWTH, DELETES)] == [REMEMBERED_BYTES, 0, 0]


def test_a_reply_that_is_kept_is_right() -> None:
    space = stored()
    group = Group(space, at(NOW))
    replies = [NO_GROWTH.decide(group, operation) for operation in (Put(b"x", b""), Incr(b"k", 1), Delete(b"k"))]
    group.commit(100)
    assert replies[1:] == [Value(100, True, b"13"), Done(101, True)]
