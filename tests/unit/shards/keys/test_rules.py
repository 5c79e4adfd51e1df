"""Conditions, increments, patches, gets and atomic batches, one by one. All at once: test_keyspace_machine."""

from __future__ import annotations

import msgspec
import pytest

from shards.keys import rules
from shards.keys.budget import Starved
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.server.room import Room, WritePolicy
from shards.wire.protocol import (
    BATCH_OPS,
    MUST_EXIST,
    MUST_NOT_EXIST,
    Atomic,
    AtomicBatch,
    Condition,
    Delete,
    DeleteEvent,
    Done,
    Failed,
    Get,
    Incr,
    OfOneKey,
    Operation,
    Patch,
    Put,
    PutEvent,
    Replaced,
    Reply,
    Results,
    Touch,
    TouchEvent,
    Value,
)
from tests.times import at
from tests.unit.shards.keys.groups import load

NOW = 1_700_000_000_000
STORED: dict[bytes, tuple[bytes, str, int]] = {
    b"n": (b"41", "x/counter", NOW + 9),
    b"j": (b'{"a":1}', "application/geo+json", NOW + 9),
    b"t": (b"text", "text/plain", 0),
    b"gone": (b"1", "", NOW),
}
"""Key to value, content type, expiry; their revisions are 11, 12, 13, 14."""


def keyspace(max_value: int = 100) -> Keyspace:
    made = Keyspace(0, 1, max_value, lambda key: STORED[key][:2])
    load(
        made,
        [
            (key, number, number, expires_ms, len(value))
            for number, (key, (value, _, expires_ms)) in enumerate(STORED.items(), 11)
        ],
    )
    return made


ALL_ROOM, NO_GROWTH, DELETES = Room(), Room(WritePolicy.NO_GROWTH), Room(WritePolicy.DELETES)


def decide(*operations: Operation, space: Keyspace | None = None, room: Room = ALL_ROOM) -> list[Reply | Starved]:
    """The replies to one group, whose first revision is 20."""
    space = space or keyspace()
    group = Group(space, at(NOW))
    replies = [room.decide(group, operation) for operation in operations]
    group.replies.fill_old_values(dict.fromkeys(group.commit(20), (b"old", "a/b", 7)))
    space.check()
    return replies


def failure(reply: Reply | Starved) -> tuple[str, int]:
    assert isinstance(reply, Failed)
    return reply.code, reply.revision


class TestConditions:
    @pytest.mark.parametrize(
        ("condition", "holds"),
        [
            (Condition(), True),
            (Condition([13]), True),
            (Condition([5, 13]), True),
            (Condition([12]), False),
            (Condition([]), False),
            (Condition([0]), False),
            (MUST_EXIST, True),
            (MUST_NOT_EXIST, False),
            (Condition(None, [13]), False),
            (Condition(None, [12]), True),
            (Condition(None, []), True),
            (Condition([13], [13]), False),
            (Condition("*", [12]), True),
        ],
    )
    @pytest.mark.parametrize(
        "operation", [Put(b"t", b"v"), Delete(b"t"), Touch(b"t"), Patch(b"t", b"1"), Incr(b"t", 1), Get(b"t", 1)]
    )
    def test_of_a_key_that_is_there(self, operation: OfOneKey, condition: Condition, holds: bool) -> None:
        operation = msgspec.structs.replace(operation, condition=condition)
        [reply] = decide(operation)
        if not holds:
            assert failure(reply) == ("precondition_failed", 13)
        elif isinstance(operation, Incr):
            assert failure(reply) == ("not_an_integer", 0)
        elif isinstance(operation, Patch):
            assert failure(reply) == ("not_json", 0)
        else:
            assert isinstance(reply, Done | Value) and reply.existed

    @pytest.mark.parametrize("key", [b"x", b"gone"])
    def test_of_an_absent_key(self, key: bytes) -> None:
        for condition in (MUST_EXIST, Condition([14])):
            for operation in (Put(key, b"v"), Incr(key, 1), Patch(key, b"{}"), Get(key, 1)):
                operation.condition = condition
                assert failure(decide(operation)[0]) == ("precondition_failed", 0)
            assert decide(Delete(key, condition=condition), Touch(key, 1, condition=condition)) == [Done(0, False)] * 2
        for operation in (Put(key, b"v"), Incr(key, 1), Patch(key, b"{}"), Get(key, 1)):
            operation.condition = MUST_NOT_EXIST
            reply = decide(operation)[0]
            assert isinstance(reply, Done | Value) and not reply.existed

    def test_a_refusal_names_what_the_group_put_there(self) -> None:
        replies = decide(Put(b"t", b"v"), Put(b"t", b"w", condition=Condition([13])), Put(b"t", b"x"))
        assert replies[0] == Done(20, True)
        assert failure(replies[1]) == ("precondition_failed", 20)
        assert replies[2] == Done(21, True)

    def test_nobody_guesses_a_revision_of_an_open_group(self) -> None:
        for guess in (20, -1, 1 << 60):
            replies = decide(Put(b"t", b"v"), Delete(b"t", condition=Condition([guess])))
            assert failure(replies[1]) == ("precondition_failed", 20)

    def test_what_is_wrong_in_itself_comes_first(self) -> None:
        assert failure(decide(Put(b"t", b"v", "none", condition=Condition([1])))[0])[0] == "bad_request"
        assert failure(decide(Put(b"t", b"v" * 101, condition=Condition([1])))[0])[0] == "value_too_large"


class TestIncr:
    def test_keeps_expiry_and_type(self) -> None:
        space = keyspace()
        group = Group(space, at(NOW))
        reply = rules.decide(group, Incr(b"n", 1, ttl_ms=500))
        assert group.events == [PutEvent(b"n", b"42", "x/counter", NOW + 9)]
        group.commit(20)
        assert reply == Value(20, True, b"42", "x/counter", NOW + 9)

    def test_new(self) -> None:
        assert decide(Incr(b"x", -5, ttl_ms=500), Incr(b"x", 1, ttl_ms=9), Incr(b"gone", 3)) == [
            Value(20, False, b"-5", "text/plain", NOW + 500),
            Value(21, True, b"-4", "text/plain", NOW + 500),
            Value(23, False, b"3", "text/plain", 0),
        ]

    def test_sees_what_the_group_put(self) -> None:
        replies = decide(Put(b"n", b"7", "a/b"), Touch(b"n", ttl_ms=4), Incr(b"n", 1), Delete(b"n"), Incr(b"n", 1))
        assert replies[2] == Value(22, True, b"8", "a/b", NOW + 4)
        assert replies[4] == Value(24, False, b"1", "text/plain", 0)

    @pytest.mark.parametrize(
        ("operation", "code"),
        [
            (Incr(b"t", 1), "not_an_integer"),
            (Incr(b"n", (1 << 63) - 1), "overflow"),
            (Incr(b"n", 1 << 63), "bad_request"),
            (Incr(b"n", -(1 << 63) - 1), "bad_request"),
            (Incr(b"n", 1, ttl_ms=-1), "bad_request"),
            (Incr(b"", 1), "bad_key"),
        ],
    )
    def test_refusals(self, operation: Incr, code: str) -> None:
        assert failure(decide(operation)[0]) == (code, 0)

    def test_a_large_value_is_not_even_read(self) -> None:
        space = Keyspace(0, 1, 1 << 30)
        load(space, [(b"k", 1, 1, 0, 1 << 29)])
        assert failure(decide(Incr(b"k", 1), space=space)[0]) == ("not_an_integer", 0)


class TestPatch:
    def test_keeps_expiry_and_type(self) -> None:
        assert decide(Patch(b"j", b'{"b":2}')) == [
            Value(20, True, b'{"a":1,"b":2}', "application/geo+json", NOW + 9),
        ]

    def test_new(self) -> None:
        replies = decide(Patch(b"x", b'{"b":{"c":null}}'), Patch(b"x", b'{"b":1}'))
        assert replies == [
            Value(20, False, b'{"b":{}}', "application/json", 0),
            Value(21, True, b'{"b":1}', "application/json", 0),
        ]

    @pytest.mark.parametrize(
        ("operation", "code"),
        [
            (Patch(b"t", b"{}"), "not_json"),
            (Patch(b"j", b"{"), "bad_request"),
            (Patch(b"j", b'{"b":"' + b"v" * 90 + b'"}'), "value_too_large"),
            (Patch(b"", b"{}"), "bad_key"),
        ],
    )
    def test_refusals(self, operation: Patch, code: str) -> None:
        assert failure(decide(operation)[0]) == (code, 0)

    def test_room(self) -> None:
        for operation in (Patch(b"j", b'{"b":2}'), Incr(b"n", 100), Incr(b"x", 1)):
            assert failure(decide(operation, room=NO_GROWTH)[0]) == ("insufficient_storage", 0)
        for operation in (Patch(b"j", b'{"a":2}'), Incr(b"n", 1)):
            assert isinstance(decide(operation, room=NO_GROWTH)[0], Value)
            assert failure(decide(operation, room=DELETES)[0]) == ("insufficient_storage", 0)

    def test_results_need_room_that_was_not_foreseen(self) -> None:
        group, room = Group(keyspace(), at(NOW)), Room(WritePolicy.ALL, 40)
        replies = [room.decide(group, Patch(b"x", patch)) for patch in (b'{"a":1}', b'{"a":2}', b'{"b":1}')]
        assert [isinstance(reply, Value) for reply in replies] == [True, True, False]
        assert failure(replies[2]) == ("insufficient_storage", 0)


class TestGet:
    def test_from_the_map(self) -> None:
        assert decide(Get(b"n", 1), Get(b"gone", 1), Get(b"x", 1)) == [
            Value(11, True, b"41", "x/counter", NOW + 9),
            Value(0, False),
            Value(0, False),
        ]

    def test_sees_what_the_group_decided(self) -> None:
        replies = decide(Touch(b"n"), Get(b"n", 1), Put(b"n", b"", "a/b"), Get(b"n", 1), Delete(b"n"), Get(b"n", 1))
        assert replies[1::2] == [
            Value(20, True, b"41", "x/counter", 0),
            Value(21, True, b"", "a/b", 0),
            Value(0, False),
        ]

    def test_a_check_sees_what_the_group_decided(self) -> None:
        replies = decide(Put(b"t", b"v"), Get(b"t", 1, Condition([13])), Delete(b"t"), Get(b"t", 1, MUST_NOT_EXIST))
        assert failure(replies[1]) == ("precondition_failed", 20)
        assert replies[3] == Value(0, False)

    def test_a_check_that_fails_answers_no_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.replies.ANSWER_BYTES", 4)
        failed, got = decide(Get(b"t", 1, Condition([12])), Get(b"t", 1))
        assert failure(failed) == ("precondition_failed", 13)
        assert isinstance(got, Value)

    def test_answers_of_a_batch_end_at_a_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.replies.ANSWER_BYTES", 8)
        replies = decide(Get(b"t", 1), Get(b"n", 1), Get(b"t", 1), Get(b"n", 1), Get(b"x", 1), Get(b"t", 2))
        assert [failure(reply)[0] if isinstance(reply, Failed) else reply.existed for reply in replies] == [  # type: ignore[union-attr]
            True,
            True,
            "answer_too_large",
            "answer_too_large",
            False,
            True,
        ]

    def test_all_values_in_replies_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.replies.MAX_ANSWERS", 10)
        replies = decide(Get(b"t", 1), Put(b"t", b"", want_previous=True), Get(b"n", 2), Incr(b"n", 1), Get(b"t", 3))
        assert [isinstance(reply, Failed) for reply in replies] == [False, False, False, True, False]
        assert failure(replies[3]) == ("overloaded", 0)


class TestAtomicBatch:
    def test_all(self) -> None:
        space = keyspace()
        group = Group(space, at(NOW))
        before = rules.decide(group, Put(b"{t}0", b"v"))
        reply = rules.decide(
            group,
            AtomicBatch(
                [
                    Put(b"t", b"5", want_previous=True, condition=Condition([13])),
                    Incr(b"t", 1),
                    Get(b"t", 1),
                    Touch(b"t", ttl_ms=3),
                    Get(b"{t}1", 1, MUST_NOT_EXIST),
                    Delete(b"{t}1"),
                ]
            ),
        )
        after = rules.decide(group, Delete(b"t", condition=Condition([13])))
        assert group.record() == [
            PutEvent(b"{t}0", b"v", "", 0),
            Atomic([PutEvent(b"t", b"5", "", 0), PutEvent(b"t", b"6", "", 0), TouchEvent(b"t", -(NOW + 3))]),
        ]
        group.replies.fill_old_values(dict.fromkeys(group.commit(20), (b"text", "text/plain", 13)))
        assert before == Done(20, False)
        assert reply == Results(
            [
                Replaced(21, True, b"text", 0, "text/plain", 13),
                Value(22, True, b"6", "", 0),
                Value(22, True, b"6", "", 0),
                Done(23, True, None, NOW + 3),
                Value(0, False),
                Done(0, False),
            ]
        )
        assert failure(after) == ("precondition_failed", 23)
        space.check()

    @pytest.mark.parametrize(
        ("failing", "code", "revision"),
        [
            (Put(b"t", b"v", condition=Condition([13])), "precondition_failed", 20),
            (Put(b"{t}1", b"v", condition=MUST_EXIST), "precondition_failed", 0),
            (Delete(b"{t}1", condition=MUST_EXIST), "not_found", 0),
            (Touch(b"{t}1"), "not_found", 0),
            (Get(b"t", 1, Condition([13])), "precondition_failed", 20),
            (Get(b"{t}1", 1, MUST_EXIST), "precondition_failed", 0),
            (Get(b"{t}2", 1, MUST_NOT_EXIST), "precondition_failed", 0),
            (Incr(b"t", (1 << 63) - 1), "overflow", 0),
            (Patch(b"t", b"{"), "bad_request", 0),
            (Put(b"t", b"v" * 101), "value_too_large", 0),
            (Put(b"t", b"v", "none"), "bad_request", 0),
        ],
    )
    def test_or_nothing(self, failing: OfOneKey, code: str, revision: int) -> None:
        space = keyspace()
        group = Group(space, at(NOW))
        rules.decide(group, Put(b"t", b"1"))
        before = (space.bytes, list(group.events), group.replies.bytes)
        reply = rules.decide(
            group,
            AtomicBatch(
                [Incr(b"t", 1), Put(b"{t}2", b"v", ttl_ms=1), Delete(b"t"), Put(b"t", b"9"), failing, Get(b"t", 1)]
            ),
        )
        assert (space.bytes, group.events, group.replies.bytes) == before
        last = rules.decide(group, Get(b"t", 1))
        group.commit(20)
        space.check()
        assert isinstance(reply, Results) and reply.failed == 4
        assert failure(reply.replies[4]) == (code, revision)
        assert [failure(other) for other in reply.replies[:4] + reply.replies[5:]] == [("failed_dependency", 0)] * 5
        assert last == Value(20, True, b"1", "", 0)
        assert len(space) == len(STORED)

    def test_what_the_store_refuses_is_no_fault_of_an_operation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = AtomicBatch([Delete(b"t"), Put(b"t", b"v"), Put(b"{t}1", b"v"), Get(b"t", 1)])
        assert failure(decide(batch, room=NO_GROWTH)[0]) == ("insufficient_storage", 0)
        monkeypatch.setattr("shards.keys.replies.MAX_ANSWERS", 0)
        space = keyspace()
        group = Group(space, at(NOW))
        assert failure(rules.decide(group, batch)) == ("overloaded", 0)
        assert group.events == []
        group.commit(20)
        space.check()

    def test_an_expired_key_expires_with_it_or_not_at_all(self) -> None:
        expired = [Atomic([DeleteEvent(b"gone", "expire"), PutEvent(b"gone", b"v", "", 0)])]
        both: list[OfOneKey] = [Put(b"gone", b"v"), Touch(b"{gone}")]
        for batch, logged in ((both[:1], expired), (both, [])):
            space = keyspace()
            group = Group(space, at(NOW))
            rules.decide(group, AtomicBatch(batch))
            assert group.record() == logged
            group.commit(20)
            space.check()

    def test_of_one_event_is_logged_as_that(self) -> None:
        group = Group(keyspace(), at(NOW))
        rules.decide(group, AtomicBatch([Delete(b"t"), Get(b"t", 1)]))
        assert group.record() == [DeleteEvent(b"t", "request")]

    def test_of_nothing(self) -> None:
        assert decide(AtomicBatch([])) == [Results([])]

    def test_slots(self) -> None:
        batch = AtomicBatch([Put(b"{t}1", b""), Put(b"a", b"")])
        assert failure(decide(batch)[0]) == ("cross_slot", 0)

    def test_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        most = [Delete(b"x") for _ in range(BATCH_OPS)]
        assert isinstance(decide(AtomicBatch(list(most)))[0], Results)
        assert failure(decide(AtomicBatch([*most, Delete(b"x")]))[0]) == ("batch_too_large", 0)
        monkeypatch.setattr("shards.keys.rules.RECORD_BYTES", 300)
        space = keyspace()
        group = Group(space, at(NOW))
        rules.decide(group, Put(b"t", b"v" * 100))
        for count, fits in ((2, True), (3, False)):
            reply = rules.decide(group, AtomicBatch([Put(b"t", b"v" * 100, "a/b") for _ in range(count)]))
            assert isinstance(reply, Results) == fits, "24 bytes beside key, type and value, whatever stood before"
        assert len(group.events) == 3
        group.commit(20)
        space.check()

    def test_what_its_patches_handle_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.rules.PATCH_WORK_BYTES", 50)
        space = keyspace()
        group = Group(space, at(NOW))
        rules.decide(group, Put(b"t", b'{"a":"0123456789"}'))
        for count, fits in ((1, True), (2, False)):
            reply = rules.decide(group, AtomicBatch([Patch(b"t", b'{"a":"0123456789"}') for _ in range(count)]))
            assert isinstance(reply, Results) == fits, "read and written, 18 bytes each"
        assert len(group.events) == 2
        group.commit(20)
        space.check()

    def test_the_values_that_it_touches_count_once_each_as_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.rules.SMALL_VALUE", 0)
        monkeypatch.setattr("shards.keys.rules.RECORD_BYTES", 4 * 25 + 2 * 100)
        space = keyspace()
        setup = Group(space, at(NOW))
        for number in range(3):
            rules.decide(setup, Put(b"{t}%d" % number, b"v" * 100))
        setup.commit(20)
        for keys, fits in (("0000", True), ("0101", False), ("01", True), ("012", False)):
            group = Group(space, at(NOW))
            reply = rules.decide(group, AtomicBatch([Touch(b"{t}%s" % bytes([ord(key)]), 5) for key in keys]))
            assert isinstance(reply, Results) == fits, keys
            group.discard()


class TestFull:
    @pytest.mark.parametrize(
        "operation",
        [
            Put(b"k", b"v" * 101),
            Put(b"t", b"", want_previous=True),
            Delete(b"t", want_previous=True),
            Get(b"t", 1),
            Patch(b"t", b"{}"),
            AtomicBatch([Get(b"t", 1)]),
        ],
        ids=lambda operation: type(operation).__name__,
    )
    def test_what_is_read_answered_and_put_closes_a_group(
        self, operation: Operation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shards.keys.budget.FULL_BYTES", 150)
        monkeypatch.setattr("shards.keys.rules.SMALL_VALUE", 0)
        space = Keyspace(0, 1, 1000, lambda key: (b'{"a":"%b"}' % (b"x" * 192), ""))
        load(space, [(b"t", 12, 12, 0, 200)])
        group = Group(space, at(NOW))
        for number in range(4):
            assert not group.load.is_full, f"after {number}"
            rules.decide(group, operation)
            if group.load.is_full:
                break
        assert group.load.is_full
        assert 150 < group.load.work_bytes <= 500

    def test_what_results_take_closes_a_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.budget.FULL_BYTES", 200)
        group = Group(keyspace(), at(NOW))
        rules.decide(group, Put(b"k", b"v" * 100))
        rules.decide(group, Put(b"k", b"v" * 100))
        assert not group.load.is_full, "what was sent was bounded before"
        rules.decide(group, Incr(b"n", 1))
        assert group.load.is_full

    def test_what_a_batch_did_not_do_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.budget.FULL_BYTES", 200)
        group = Group(keyspace(), at(NOW))
        rules.decide(group, AtomicBatch([Put(b"t", b"v" * 100), Put(b"t", b"v" * 100), Touch(b"{t}x")]))
        assert not group.load.is_full
        rules.decide(group, AtomicBatch([Put(b"t", b"v" * 100), Put(b"t", b"v" * 100)]))
        assert group.load.is_full
