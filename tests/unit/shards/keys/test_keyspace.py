"""The dict's rules, one by one, and all of them against a plain dict."""

from __future__ import annotations

import pytest

from shards.keys.entries import Room
from shards.keys.keyspace import Keyspace
from shards.wire.clock import Now
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
    Reply,
    Touch,
    TouchEvent,
)
from tests.times import at

MAX_VALUE = 100
NOW = 1_700_000_000_000


def keyspace(*operations: Operation, now_ms: int = NOW, first_revision: int = 1) -> Keyspace:
    """A keyspace of all slots in which `operations` were done."""
    made = Keyspace(0, 1, MAX_VALUE)
    group = made.begin(at(now_ms))
    for operation in operations:
        assert not isinstance(group.decide(operation), Failed)
    group.commit(first_revision)
    made.check()
    return made


def decide(space: Keyspace, operation: Operation, first_revision: int = 100, now_ms: int = NOW) -> Reply:
    """Do one operation in a group of its own."""
    group = space.begin(at(now_ms))
    reply = group.decide(operation)
    wanted = group.commit(first_revision)
    group.answer(dict.fromkeys(wanted, (b"old", "a/b", 7)))
    space.check()
    return reply


def refusal(operation: Operation, space: Keyspace | None = None, room: Room = Room.ALL) -> str:
    """The code with which `operation` is refused, after a look that the refusal left nothing behind."""
    space = space or keyspace()
    group = space.begin(at(NOW), room)
    reply = group.decide(operation)
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
        group = keyspace().begin(at(NOW))
        group.decide(Put(b"k", b"v", "text/plain", ttl_ms=5))
        group.decide(Put(b"k", b"v", "", expires_ms=NOW + 9))
        assert group.events == [
            PutEvent(b"k", b"v", "text/plain", -(NOW + 5)),
            PutEvent(b"k", b"v", "", NOW + 9),
        ]

    def test_on_an_expired_key_expires_it_first(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10))
        group = space.begin(at(NOW + 10))
        reply = group.decide(Put(b"k", b"new", want_previous=True))
        assert group.events == [DeleteEvent(b"k", "expire"), PutEvent(b"k", b"new", "", 0)]
        assert group.commit(50) == set()
        assert reply == Done(51, False, None)
        assert group.expired == 1
        space.check()

    def test_rewrite_without_ttl_removes_it(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10), Put(b"k", b"v"))
        group = space.begin(at(NOW + 11))
        assert group.expire(10) == 0

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
        group = keyspace().begin(at(NOW))
        assert group.decide(Delete(b"k", want_previous=True)) == Done(0, False)
        assert group.events == []

    def test_expired_is_absent(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10))
        assert decide(space, Delete(b"k"), now_ms=NOW + 10) == Done(0, False)

    def test_key_is_checked(self) -> None:
        assert refusal(Delete(b"")) == "bad_key"


class TestTouch:
    def test_changes_the_expiry_alone(self) -> None:
        space = keyspace(Put(b"k", b"v"))
        group = space.begin(at(NOW))
        reply = group.decide(Touch(b"k", ttl_ms=10))
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
        group = keyspace().begin(at(NOW))
        replies = [group.decide(MarkPrefix(b"a/")), group.decide(Put(b"k", b"v"))]
        assert group.events[0] == PrefixMarked(b"a/")
        group.commit(40)
        assert replies == [Done(40, False), Done(41, False)]

    @pytest.mark.parametrize(("prefix", "code"), [(b"\xff", "bad_key"), (b"p" * (MAX_KEY + 1), "key_too_long")])
    def test_mark_is_checked(self, prefix: bytes, code: str) -> None:
        assert refusal(MarkPrefix(prefix)) == code

    def test_deletes_what_is_not_newer_than_the_cut(self) -> None:
        space = keyspace(Put(b"a", b"1"), Put(b"b", b"2"), Put(b"c", b"3"), Touch(b"a", ttl_ms=99), first_revision=10)
        group = space.begin(at(NOW))
        # `a` was touched by revision 13, which does not save it; `c` was written by 12.
        assert group.delete_prefix(DeletePrefix(b"", b"", 11, 10), [b"a", b"b", b"c"], b"c") == Deleted(
            [b"a", b"b"], b"c"
        )
        assert group.events == [DeleteEvent(b"a", "prefix", 11), DeleteEvent(b"b", "prefix", 11)]
        group.commit(20)
        space.check()
        assert len(space) == 1

    def test_leaves_the_expired_to_their_expiry(self) -> None:
        space = keyspace(Put(b"a", b"1", ttl_ms=10))
        group = space.begin(at(NOW + 10))
        assert group.delete_prefix(DeletePrefix(b"", b"", 99, 10), [b"a"], None) == Deleted([], None)


class TestExpiry:
    def test_due_keys_in_order_of_time(self) -> None:
        space = keyspace(Put(b"b", b"", ttl_ms=2), Put(b"a", b"", ttl_ms=3), Put(b"c", b"", ttl_ms=1), Put(b"d", b""))
        assert space.due_in_ms(at(NOW)) == 1
        group = space.begin(at(NOW + 2))
        assert group.expire(10) == 2
        assert group.events == [DeleteEvent(b"c", "expire"), DeleteEvent(b"b", "expire")]
        group.commit(9)
        space.check()
        assert (len(space), space.due_in_ms(at(NOW))) == (2, 3)

    def test_at_most_the_limit(self) -> None:
        space = keyspace(*(Put(b"%d" % i, b"", ttl_ms=1) for i in range(5)))
        group = space.begin(at(NOW + 1))
        assert group.expire(3) == 3
        group.commit(9)
        assert len(space) == 2
        assert space.begin(at(NOW + 1)).expire(3) == 2

    def test_moved_on_again_and_again_is_looked_at_once(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=10))
        for i in range(100):
            decide(space, Touch(b"k", ttl_ms=10 + i), first_revision=100 + i)
        assert space.due_in_ms(at(NOW)) == 10
        assert space.begin(at(NOW + 50)).expire(10) == 0
        assert space.due_in_ms(at(NOW)) == 109
        assert space.begin(at(NOW + 109)).expire(10) == 1

    def test_shortened_is_punctual(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=100), Touch(b"k", ttl_ms=10))
        assert space.due_in_ms(at(NOW)) == 10
        group = space.begin(at(NOW + 10))
        assert group.expire(10) == 1
        group.commit(9)
        space.check()
        assert space.begin(at(NOW + 100)).expire(10) == 0

    def test_what_was_deleted_does_not_stay_in_the_heap(self) -> None:
        space = keyspace()
        for i in range(40):
            group = space.begin(at(NOW))
            for j in range(1000):
                group.decide(Put(b"%d" % j, b"", ttl_ms=1000 + i))
                group.decide(Delete(b"%d" % j))
                group.decide(Put(b"%d-%d" % (i, j), b"", ttl_ms=1000))
            group.commit(1 + 3000 * i)
            group = space.begin(at(NOW))
            for j in range(1000):
                group.decide(Delete(b"%d-%d" % (i, j)))
            group.commit(200_000 + 1000 * i)
        assert len(space) == 0
        assert len(space._by_steady._heap) <= 4096

    def test_discarded_is_due_again(self) -> None:
        space = keyspace(Put(b"k", b"v", ttl_ms=1))
        group = space.begin(at(NOW + 1))
        assert group.expire(10) == 1
        group.discard()
        space.check()
        assert space.begin(at(NOW + 1)).expire(10) == 1

    def test_loaded_keys_expire(self) -> None:
        space = Keyspace(0, 1, MAX_VALUE)
        space.load([(b"a", 5, 4, NOW + 1, 3), (b"b", 6, 6, 0, 2)])
        space.check()
        assert (len(space), space.bytes, space.due_in_ms(at(NOW))) == (2, 7, 1)
        assert space.begin(at(NOW + 1)).expire(10) == 1

    def test_times_are_of_the_clock_as_it_is_set_and_lifetimes_are_not(self) -> None:
        space = keyspace(Put(b"t", b"", expires_ms=NOW + 10), Put(b"l", b"", ttl_ms=10))
        reply = space.begin(Now(NOW + 99, NOW + 9)).decide(Touch(b"l", ttl_ms=1))
        assert isinstance(reply, Done)
        assert (reply.existed, reply.expires_ms) == (True, NOW + 100)
        assert space.due_in_ms(Now(NOW + 99, NOW + 9)) == -89
        group = space.begin(Now(NOW + 99, NOW + 9))
        assert group.expire(10) == 1
        assert group.events == [DeleteEvent(b"t", "expire")]
        assert group.lag_ms == 89

    def test_a_clock_that_is_set_back_brings_nothing_back(self) -> None:
        space = keyspace(Put(b"t", b"", expires_ms=NOW + 10), Put(b"l", b"", ttl_ms=10))
        group = space.begin(Now(NOW - 10**9, NOW + 10))
        assert group.expire(10) == 1
        assert group.events == [DeleteEvent(b"l", "expire")]
        group.commit(9)
        space.check()
        assert space.due_in_ms(Now(NOW - 10**9, NOW + 10)) == 10**9 + 10


class TestGroup:
    def test_later_operations_see_earlier_ones(self) -> None:
        space = keyspace()
        group = space.begin(at(NOW))
        replies = [
            group.decide(operation)
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
        group.answer({11: (b"1", "", 10), 12: (b"2", "", 11)})
        assert replies == [
            Done(10, False),
            Replaced(11, True, b"1", 0, "", 10),
            Replaced(12, True, b"2", 0, "", 11),
            Done(0, False),
            Done(13, False, None),
            Done(14, True, None, NOW + 5),
        ]
        space.check()

    def test_cut_counts_values_of_earlier_groups(self) -> None:
        space = keyspace(Put(b"k", b"v"), Touch(b"k", ttl_ms=5), first_revision=10)
        group = space.begin(at(NOW))
        assert group.delete_prefix(DeletePrefix(b"", b"", 9, 10), [b"k"], None).keys == []
        assert group.delete_prefix(DeletePrefix(b"", b"", 10, 10), [b"k"], None).keys == [b"k"]

    def test_discard_leaves_the_dict_alone(self) -> None:
        space = keyspace(Put(b"k", b"v"))
        group = space.begin(at(NOW))
        group.decide(Put(b"k", b"longer", ttl_ms=3))
        group.decide(Delete(b"k"))
        group.decide(Put(b"x", b"v"))
        group.discard()
        space.check()
        assert (len(space), space.bytes) == (1, 2)
        assert decide(space, Delete(b"x")) == Done(0, False)
        assert decide(space, Delete(b"k")) == Done(100, True)

    def test_prefix_delete_is_not_decided_alone(self) -> None:
        with pytest.raises(KeyError):
            keyspace().begin(at(NOW)).decide(DeletePrefix(b"", b"", 1, 1))

    def test_answer_bytes_are_those_of_replies(self) -> None:
        group = keyspace(Put(b"k", b"12345")).begin(at(NOW))
        group.decide(Put(b"k", b"", want_previous=True))
        group.decide(Put(b"k", b"123", want_previous=True))
        group.decide(Delete(b"k"))
        assert group.answer_bytes == 5

    def test_old_values_in_replies_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.group.MAX_ANSWERS", 10)
        group = keyspace(Put(b"a", b"123456"), Put(b"b", b"12345")).begin(at(NOW))
        assert isinstance(group.decide(Put(b"a", b"", want_previous=True)), Done)
        for operation in (Put(b"b", b"", want_previous=True), Delete(b"b", want_previous=True)):
            reply = group.decide(operation)
            assert isinstance(reply, Failed) and reply.code == "overloaded"
        assert (len(group.events), group.refused) == (1, 2)
        assert isinstance(group.decide(Delete(b"b")), Done)


class TestRoom:
    def test_a_full_map_refuses_growth_only(self) -> None:
        space = keyspace(Put(b"k", b"12"))
        assert refusal(Put(b"x", b""), space, Room.NO_GROWTH) == "insufficient_storage"
        assert refusal(Put(b"k", b"123"), space, Room.NO_GROWTH) == "insufficient_storage"
        group = space.begin(at(NOW), Room.NO_GROWTH)
        for operation in (Put(b"k", b"21"), Touch(b"k", ttl_ms=1), MarkPrefix(b"k"), Delete(b"k")):
            assert isinstance(group.decide(operation), Done)

    def test_a_full_log_is_for_deletes(self) -> None:
        space = keyspace(Put(b"k", b"12"))
        assert refusal(Put(b"k", b""), space, Room.DELETES) == "insufficient_storage"
        assert refusal(Touch(b"k"), space, Room.DELETES) == "insufficient_storage"
        assert isinstance(space.begin(at(NOW), Room.DELETES).decide(Delete(b"k")), Done)


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 256])
def test_each_key_is_decided_by_its_shard_alone(shards: int) -> None:
    spaces = [Keyspace(index, shards, MAX_VALUE) for index in range(shards)]
    for number in range(50):
        key = b"key-%d" % number
        answers = [space.begin(at(NOW)).decide(Delete(key)) for space in spaces]
        owner = answers.pop(shard_of(key, shards))
        assert owner == Done(0, False)
        assert all(isinstance(answer, Failed) and answer.code == "protocol_error" for answer in answers)
