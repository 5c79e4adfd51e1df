"""Operations that are done once: within a group, from group to group, undone, and refused."""

from __future__ import annotations

import pytest

from shards.keys import rules
from shards.keys.budget import Starved
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.wire.clock import Now
from shards.wire.keys import slot_of
from shards.wire.outcomes import KEEP_MS, OutcomeRecord
from shards.wire.protocol import (
    REMEMBERED_BYTES,
    Atomic,
    AtomicBatch,
    Condition,
    Delete,
    Done,
    Failed,
    Get,
    Incr,
    Once,
    Operation,
    Patch,
    Put,
    Replaced,
    Replayed,
    Reply,
    Results,
    Touch,
    Value,
)
from tests.times import at
from tests.unit.shards.keys.groups import load

NOW = 1_700_000_000_000
LARGE = b"x" * (REMEMBERED_BYTES + 1)
STORED = {b"n": b"41", b"edge": LARGE[1:], b"large": LARGE}


class Space:
    """A keyspace that remembers what its groups log, as a map does."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, OutcomeRecord] = {}
        self.keys = Keyspace(0, 1, 1 << 20, lambda key: (STORED[key], "a/b"), find_outcome=self.outcomes.get)
        load(self.keys, [(key, number, number, 0, len(value)) for number, (key, value) in enumerate(STORED.items(), 5)])
        self.revision = 20

    def open(self, now: Now | None = None, remembered_bytes: int = REMEMBERED_BYTES) -> Group:
        return Group(self.keys, now or at(NOW), remembered_bytes=remembered_bytes)

    def commit(self, group: Group) -> None:
        wanted = group.commit(self.revision)
        group.replies.fill_old_values(dict.fromkeys(wanted, (b"filled in", "a/b", 7)))
        for outcome in group.outcomes:
            self.outcomes[outcome.identity] = OutcomeRecord.of(outcome, self.revision, group.now)
        self.revision += len(group.events)

    def do(
        self, *operations: Operation, now: Now | None = None, remembered_bytes: int = REMEMBERED_BYTES
    ) -> list[Reply | Starved]:
        """The replies of one group."""
        group = self.open(now, remembered_bytes)
        replies = [rules.decide(group, operation) for operation in operations]
        self.commit(group)
        return replies


def once(
    operation: Put | Delete | Touch | Incr | Patch | AtomicBatch, name: bytes = b"i", fingerprint: bytes = b"f"
) -> Once:
    return Once(operation, name * 18, fingerprint * 16)


class TestRepeat:
    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize(
        ("operation", "reply"),
        [
            (Put(b"k", b"v", ttl_ms=5), Done(20, False, None, NOW + 5)),
            (Put(b"n", b"v", want_previous=True), Replaced(20, True, b"41", 0, "a/b", 5)),
            (Put(b"edge", b"v", want_previous=True), Replaced(20, True, LARGE[1:], 0, "a/b", 6)),
            (Delete(b"n"), Done(20, True)),
            (Touch(b"n", ttl_ms=5), Done(20, True, None, NOW + 5)),
            (Incr(b"n", 1), Value(20, True, b"42", "a/b")),
            (Incr(b"new", 1), Value(20, False, b"1", "text/plain")),
            (Patch(b"new", b'{"a":1}'), Value(20, False, b'{"a":1}', "application/json")),
            (
                AtomicBatch([Incr(b"n", 1), Get(b"n", 1), Delete(b"{n}absent"), Put(b"{n}p", b"", ttl_ms=5)]),
                Results(
                    [Value(20, True, b"42", "a/b"), Value(20, True, b"42", "a/b"), Done(0, False), Done(21, False)]
                ),
            ),
        ],
    )
    def test_is_answered_as_the_first(self, operation: Put, reply: Reply, together: bool) -> None:
        space = Space()
        if together:
            _, *replies = space.do(once(operation), once(operation), once(operation))
        else:
            space.do(once(operation))
            replies = [*space.do(once(operation)), *space.do(once(operation), now=at(NOW + KEEP_MS - 1))]
        assert replies == [Replayed(reply)] * 2  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("operation", "reply"),
        [
            (Put(b"large", b"v", want_previous=True), Replaced(20, True, None, 0, "", 7)),
            (Patch(b"new", b'"%b"' % LARGE), Value(20, False)),
            (AtomicBatch([Get(b"large", 1), Delete(b"large")]), Results([Value(7, True), Done(20, True)])),
        ],
    )
    def test_lacks_a_large_value(self, operation: Put, reply: Reply) -> None:
        space = Space()
        [first] = space.do(once(operation))
        assert first != reply
        assert space.do(once(operation)) == [Replayed(reply, True)]  # type: ignore[arg-type]

    def test_names_revisions_of_its_own_group(self) -> None:
        space = Space()
        replies = space.do(
            Put(b"k", b"1"), once(Put(b"k", b"2", want_previous=True)), once(Put(b"k", b"2", want_previous=True))
        )
        assert replies[2] == Replayed(Replaced(21, True, b"1", 0, "", 20))
        assert space.do(once(Put(b"k", b"2", want_previous=True))) == [replies[2]]

    def test_may_have_a_condition_that_holds_no_more(self) -> None:
        space, create = Space(), once(Put(b"k", b"v", condition=Condition(if_none_match="*")))
        assert space.do(create, create) == [Done(20, False), Replayed(Done(20, False))]

    def test_is_done_again_when_it_is_known_no_more(self) -> None:
        space = Space()
        assert space.do(once(Incr(b"n", 1))) == [Value(20, True, b"42", "a/b")]
        later = at(NOW + KEEP_MS)
        assert [type(reply) for reply in space.do(once(Incr(b"m", 1)), once(Incr(b"m", 1)), now=later)] == [
            Value,
            Replayed,
        ]

    def test_leaves_no_value_where_the_map_is_full(self) -> None:
        space, put = Space(), once(Put(b"n", b"4", want_previous=True))
        replies = space.do(put, put, remembered_bytes=0)
        assert replies[1] == Replayed(Replaced(20, True, None, 0, "", 5), True)


class TestOther:
    @pytest.mark.parametrize("together", [True, False])
    def test_is_refused_and_does_nothing(self, together: bool) -> None:
        space, first = Space(), once(Incr(b"n", 1))
        others = [once(Incr(b"n", 2), fingerprint=b"g"), once(Delete(b"x"), fingerprint=b"h")]
        replies = space.do(first, *others) if together else [*space.do(first), *space.do(*others)]
        for reply in replies[1:]:
            assert isinstance(reply, Failed) and reply.code == "idempotency_mismatch"
        assert space.revision == 21

    def test_of_another_identity_is_done(self) -> None:
        space = Space()
        replies = space.do(*[once(Incr(b"m", 1), name) for name in (b"a", b"b", b"a")])
        assert replies == [
            Value(20, False, b"1", "text/plain"),
            Value(21, True, b"2", "text/plain"),
            Replayed(Value(20, False, b"1", "text/plain")),
        ]


class TestNothingDone:
    @pytest.mark.parametrize(
        "operation",
        [
            Delete(b"absent"),
            Touch(b"absent", ttl_ms=5),
            Incr(b"large", 1),
            Put(b"n", b"", condition=Condition(if_none_match="*")),
            Put(b"", b""),
            AtomicBatch([]),
            AtomicBatch([Get(b"n", 1), Delete(b"{n}absent")]),
            AtomicBatch([Incr(b"n", 1), Touch(b"{n}absent", ttl_ms=5)]),
        ],
    )
    def test_is_not_remembered(self, operation: Put) -> None:
        space = Space()
        [first, second] = space.do(once(operation), once(operation))
        assert type(first) is type(second) is not Replayed
        assert not space.outcomes and space.revision == 20

    def test_of_a_group_that_was_discarded(self) -> None:
        space = Space()
        group = space.open()
        rules.decide(group, once(Incr(b"n", 1)))
        group.discard()
        assert space.do(once(Incr(b"n", 1))) == [Value(20, True, b"42", "a/b")]


def test_outcomes_stand_behind_the_events_with_their_places() -> None:
    space = Space()
    group = space.open()
    for operation in (
        Put(b"a", b""),
        once(Put(b"b", b""), b"1"),
        once(AtomicBatch([Put(b"{b}c", b""), Put(b"{b}d", b"")]), b"2"),
        Put(b"e", b""),
        once(Delete(b"b"), b"3"),
    ):
        rules.decide(group, operation)
    record = group.record()
    assert [type(event) for event in record[:5]][2] is Atomic and list(record[5:]) == group.outcomes
    assert [(outcome.at, outcome.slot) for outcome in group.outcomes] == [
        (1, slot_of(b"b")),
        (3, slot_of(b"b")),
        (5, slot_of(b"b")),
    ]
