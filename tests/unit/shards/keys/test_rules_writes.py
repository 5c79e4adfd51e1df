"""Puts, deletes, touches and deletes of a prefix, rule by rule. (All at once: test_rules_machine.)"""

from __future__ import annotations

import pytest

from shards.keys import rules
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.wire.keys import MAX_KEY, MAX_TIME_MS, MAX_TTL_MS, shard_of
from shards.wire.protocol import (
    Delete,
    Deleted,
    DeleteEvent,
    DeletePrefix,
    Done,
    Failed,
    MarkPrefix,
    Operation,
    PrefixMarked,
    Put,
    PutEvent,
    Replaced,
    Touch,
    TouchEvent,
)
from tests.times import at
from tests.unit.shards.keys.groups import MAX_VALUE, NOW, decide, expire_due, held, keyspace, load


def refusal(operation: Operation, space: Keyspace | None = None) -> str:
    """The code with which `operation` is refused, after a look that the refusal left nothing behind."""
    space = space or keyspace()
    group = Group(space, at(NOW))
    reply = rules.decide(group, operation)
    assert isinstance(reply, Failed)
    assert group.events == []
    group.commit(100)
    space.check()
    return reply.code


class TestPut:
    def test_new_key(self) -> None:
        space = keyspace()
        assert decide(space, Put(b"k", b"value", want_previous=True)) == Done(100, False, None)
        assert (len(space), space.bytes) == (1, 6)

    def test_rewrite_gives_the_old_value_only_where_wanted(self) -> None:
        space = keyspace(Put(b"k", b"1"))
        assert decide(space, Put(b"k", b"22"), 100) == Done(100, True, None)
        assert decide(space, Put(b"k", b"333", want_previous=True), 101) == Replaced(101, True, b"old", 0, "a/b", 7)
        assert space.bytes == 4

    def test_empty_value_is_a_value(self) -> None:
        space = keyspace(Put(b"k", b""))
        assert decide(space, Delete(b"k")) == Done(100, True)

    def test_event_carries_what_was_put(self) -> None:
        group = Group(keyspace(), at(NOW))
        rules.decide(group, Put(b"k", b"v", "text/plain", ttl_ms=5))
        rules.decide(group, Put(b"k", b"v", "", expires_ms=NOW + 9))
        assert group.events == [
            PutEvent(b"k", b"v", "text/plain", -(NOW + 5)),
            PutEvent(b"k", b"v", "", NOW + 9),
        ]

    def test_on_an_expired_key_expires_it_first(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10))
        group = Group(space, at(NOW + 10))
        reply = rules.decide(group, Put(b"k", b"new", want_previous=True))
        assert group.events == [DeleteEvent(b"k", "expire"), PutEvent(b"k", b"new", "", 0)]
        assert group.commit(50) == set()
        assert reply == Done(51, False, None)
        assert [event.cause for event in group.events if isinstance(event, DeleteEvent)] == ["expire"]
        space.check()

    def test_rewrite_without_ttl_removes_it(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10), Put(b"k", b"v"))
        group = Group(space, at(NOW + 11))
        assert expire_due(group, 10) == 0

    @pytest.mark.parametrize(
        ("operation", "code"),
        [
            (Put(b"", b"v"), "bad_key"),
            (Put(b"\xff", b"v"), "bad_key"),
            (Put(b"k\xed\xa0\x80", b"v"), "bad_key"),
            (Put(b"k" * (MAX_KEY + 1), b"v"), "key_too_long"),
            (Put(b"k", b"v" * (MAX_VALUE + 1)), "value_too_large"),
            (Put(b"k", b"v", "text"), "bad_request"),
            (Put(b"k", b"v", ttl_ms=1, expires_ms=NOW + 1), "bad_request"),
            (Put(b"k", b"v", ttl_ms=-1), "bad_request"),
            (Put(b"k", b"v", expires_ms=-1), "bad_request"),
            (Put(b"k", b"v", ttl_ms=MAX_TTL_MS + 1), "bad_request"),
            (Put(b"k", b"v", expires_ms=NOW - 1), "bad_request"),
            (Put(b"k", b"v", expires_ms=MAX_TIME_MS + 1), "bad_request"),
        ],
    )
    def test_refusals(self, operation: Put, code: str) -> None:
        assert refusal(operation) == code

    @pytest.mark.parametrize(
        "operation",
        [
            Put(b"k" * MAX_KEY, b"v"),
            Put("ü€😀".encode(), b"v"),
            Put(b"\x00", b"v"),
            Put(b"k", b"v" * MAX_VALUE),
            Put(b"k", b"v", expires_ms=MAX_TIME_MS),
            Put(b"k", b"v", expires_ms=NOW),
            Put(b"k", b"v", ttl_ms=MAX_TTL_MS),
        ],
    )
    def test_limits_are_inclusive(self, operation: Put) -> None:
        reply = decide(keyspace(), operation)
        assert isinstance(reply, Done)
        assert (reply.revision, reply.existed) == (100, False)


class TestDelete:
    def test_present(self) -> None:
        space = keyspace(Put(b"k", b"v"))
        assert decide(space, Delete(b"k", want_previous=True)) == Replaced(100, True, b"old", 0, "a/b", 7)
        assert (len(space), space.bytes) == (0, 0)

    def test_absent_logs_nothing(self) -> None:
        group = Group(keyspace(), at(NOW))
        assert rules.decide(group, Delete(b"k", want_previous=True)) == Done(0, False)
        assert group.events == []

    def test_expired_is_absent(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10))
        assert decide(space, Delete(b"k"), now_ms=NOW + 10) == Done(0, False)

    def test_key_is_checked(self) -> None:
        assert refusal(Delete(b"")) == "bad_key"


class TestTouch:
    def test_a_large_value_is_counted_once_as_it_is_written_again_once(self) -> None:
        size = rules.SMALL_VALUE + 1
        space = Keyspace(0, 1, 9999, lambda key: (bytes(size), ""))
        load(space, [(key, 5, 5, 0, length) for key, length in ((b"k", size), (b"l", size), (b"s", size - 1))])
        group = Group(space, at(NOW))
        for operation, counted in (
            (Touch(b"s", 9), 0),
            (Touch(b"x", 9), 0),
            (Touch(b"k", 9), size),
            (Touch(b"k"), size),
            (Touch(b"l", 9), 2 * size),
            (Touch(b"k", 7), 2 * size),
            (Put(b"k", bytes(size)), 3 * size),
            (Touch(b"k", 7), 4 * size),
            (Touch(b"k", 8), 4 * size),
        ):
            free = rules.is_no_work(group, operation)
            before = group.load.work_bytes
            rules.decide(group, operation)
            assert group.load.work_bytes == counted, operation
            assert not free or group.load.work_bytes == before, operation
        assert rules.is_no_work(group, Touch(b"k")) and not rules.is_no_work(group, Touch(b"x"))

    def test_changes_the_expiry_alone(self) -> None:
        space = keyspace(Put(b"k", b"v"))
        group = Group(space, at(NOW))
        reply = rules.decide(group, Touch(b"k", ttl_ms=10))
        assert group.events == [TouchEvent(b"k", -(NOW + 10))]
        group.commit(7)
        assert reply == Done(7, True, None, NOW + 10)
        assert decide(space, Delete(b"k"), now_ms=NOW + 9) == Done(100, True)

    def test_persists(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10), Touch(b"k"))
        assert decide(space, Delete(b"k"), now_ms=NOW + 10) == Done(100, True)

    def test_absent_and_expired_log_nothing(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10))
        assert decide(space, Touch(b"k"), now_ms=NOW + 10) == Done(0, False)
        assert decide(space, Touch(b"x")) == Done(0, False)

    def test_arguments_are_checked(self) -> None:
        assert refusal(Touch(b"k", 1, 1), keyspace(Put(b"k", b"v"))) == "bad_request"


class TestPrefix:
    def test_mark_takes_a_revision(self) -> None:
        group = Group(keyspace(), at(NOW))
        replies = [rules.decide(group, MarkPrefix(b"a/")), rules.decide(group, Put(b"k", b"v"))]
        assert group.events[0] == PrefixMarked(b"a/")
        group.commit(40)
        assert replies == [Done(40, False), Done(41, False)]

    @pytest.mark.parametrize(("prefix", "code"), [(b"\xff", "bad_key"), (b"p" * (MAX_KEY + 1), "key_too_long")])
    def test_mark_is_checked(self, prefix: bytes, code: str) -> None:
        assert refusal(MarkPrefix(prefix)) == code

    def test_deletes_what_is_not_newer_than_the_cut(self) -> None:
        space = keyspace(Put(b"a", b"1"), Put(b"b", b"2"), Put(b"c", b"3"), Touch(b"a", ttl_ms=99), first_revision=10)
        group = Group(space, at(NOW))
        # `a` was touched by revision 13, which does not save it; `c` was written by 12.
        assert rules.delete_prefix(group, DeletePrefix(b"", b"", 11, 10), sorted(held(space).items()), b"c") == Deleted(
            [b"a", b"b"], b"c"
        )
        assert group.events == [DeleteEvent(b"a", "prefix", 11), DeleteEvent(b"b", "prefix", 11)]
        group.commit(20)
        space.check()
        assert len(space) == 1

    def test_leaves_the_expired_to_their_expiry(self) -> None:
        space = keyspace(Put(b"a", b"1", ttl_ms=10))
        group = Group(space, at(NOW + 10))
        candidates = sorted(held(space).items())
        assert rules.delete_prefix(group, DeletePrefix(b"", b"", 99, 10), candidates, None) == Deleted([], None)

    def test_cut_counts_values_of_earlier_groups(self) -> None:
        space = keyspace(Put(b"k", b"v"), Touch(b"k", ttl_ms=5), first_revision=10)
        group = Group(space, at(NOW))
        candidates = sorted(held(space).items())
        assert rules.delete_prefix(group, DeletePrefix(b"", b"", 9, 10), candidates, None).keys == []
        assert rules.delete_prefix(group, DeletePrefix(b"", b"", 10, 10), candidates, None).keys == [b"k"]

    def test_prefix_delete_is_not_decided_alone(self) -> None:
        with pytest.raises(KeyError):
            rules.decide(Group(keyspace(), at(NOW)), DeletePrefix(b"", b"", 1, 1))


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 256])
def test_each_key_is_decided_by_its_shard_alone(shards: int) -> None:
    spaces = [Keyspace(index, shards, MAX_VALUE) for index in range(shards)]
    for number in range(50):
        key = b"key-%d" % number
        answers = [rules.decide(Group(space, at(NOW)), Delete(key)) for space in spaces]
        owner = answers.pop(shard_of(key, shards))
        assert owner == Done(0, False)
        assert all(isinstance(answer, Failed) and answer.code == "protocol_error" for answer in answers)
