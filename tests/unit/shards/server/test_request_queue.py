"""What comes into the next group of a shard: order, turns, deadlines, on messages of any kind."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.server import request_queue
from shards.server.request_queue import QueuedMessage, RequestQueue, UnreadMessage
from shards.wire.errors import KVError
from shards.wire.protocol import AtomicBatch, Delete, DeletePrefix, Get, Once, Operation, Patch, Put, Touch

KEYS = st.sampled_from([b"a", b"b", b"c"])
OPERATIONS = st.one_of(
    st.builds(lambda key, previous: Put(key, b"v", want_previous=previous), KEYS, st.booleans()),
    st.builds(lambda key: Delete(key, want_previous=True), KEYS),
    st.builds(lambda key: Patch(key, b"{}"), KEYS),
    st.builds(Touch, KEYS),
    st.just(DeletePrefix(b"", b"", 1, 1)),
)
MESSAGES = st.lists(st.lists(OPERATIONS, min_size=1, max_size=6), min_size=1, max_size=6)


class Lines:
    """The lines, and what was refused."""

    def __init__(self, sizes: dict[bytes, int] | None = None) -> None:
        self.refused: list[tuple[QueuedMessage, str]] = []
        self.waiting = RequestQueue(self._read, self._refuse, lambda key: (sizes or {}).get(key, 0))

    def add(self, id: int, operations: Sequence[Operation], size: int = 100, deadline_ns: int = 10) -> None:
        self.waiting.add(QueuedMessage(b"", id, deadline_ns, operations, size))

    def _refuse(self, unit: QueuedMessage, error: KVError) -> None:
        self.refused.append((unit, error.code))

    def _read(self, message: UnreadMessage) -> QueuedMessage | None:
        return QueuedMessage(b"", 99, 10, [Put(b"read", message.frame)], 100) if message.frame else None


@given(MESSAGES, st.data())
def test_each_is_done_once_and_those_of_a_key_in_their_order(
    messages: list[list[Operation]], data: st.DataObject
) -> None:
    lines = Lines({b"a": 1 << 20})
    for id, operations in enumerate(messages):
        lines.add(id, operations)
    done: dict[int, list[int]] = {id: [] for id in range(len(messages))}
    turns = 0
    while len(lines.waiting):
        turns += 1
        small = turns % 2 == 0
        group = lines.waiting.take_group(0, small=small)
        total = sum(len(unit.operations) for unit in group)
        left = data.draw(st.integers(1, total)) if total else 0
        numbers = []
        for unit in group:
            assert not unit.is_prefix_delete or (len(group) == 1 == len(unit.operations)), "alone"
            number = min(left, len(unit.operations))
            left -= number
            numbers.append(number)
            places = unit.places if unit.places is not None else range(len(unit.operations))
            assert [messages[unit.id][place] for place in places] == list(unit.operations)
            done[unit.id] += places[:number]
        lines.waiting.return_rest(group, numbers, small=small)
    assert not lines.refused
    for id, operations in enumerate(messages):
        assert sorted(done[id]) == list(range(len(operations)))
        for key in (b"a", b"b", b"c"):
            of_key = [place for place in done[id] if getattr(operations[place], "key", None) == key]
            assert of_key == sorted(of_key), operations


def test_small_and_large_have_lines_of_their_own() -> None:
    lines = Lines()
    lines.add(1, [Patch(b"k", b"{}")])
    lines.add(2, [Put(b"k", b"v")])
    lines.add(3, [Put(b"k", b"v")] * (request_queue.SMALL_OPS + 1))
    lines.add(4, [Put(b"k", b"v")], size=request_queue.SMALL_BYTES + 1)
    lines.add(5, [Put(b"k", b"v")] * request_queue.SMALL_OPS, size=request_queue.SMALL_BYTES)
    assert [unit.id for unit in lines.waiting.take_group(0, small=True)] == [2, 5]
    assert [unit.id for unit in lines.waiting.take_group(0, small=False)] == [1, 3, 4]


def test_what_turns_out_to_take_long_goes_behind_the_small_ones() -> None:
    lines = Lines({b"large": request_queue.COSTLY_BYTES + 1, b"small": request_queue.COSTLY_BYTES})
    lines.add(1, [Touch(b"large")])
    lines.add(2, [Touch(b"large"), Put(b"k", b"v"), Delete(b"large")])
    lines.add(3, [Touch(b"small")])
    lines.add(4, [Put(b"large", b"v", want_previous=True)])
    group = lines.waiting.take_group(0, small=True)
    lines.waiting.return_rest(group, [1, 0, 0, 0], small=True)
    assert [(unit.id, unit.operations) for unit in lines.waiting.take_group(0, small=True)] == [
        (2, [Put(b"k", b"v")]),
        (3, [Touch(b"small")]),
    ]
    assert [(unit.id, unit.operations) for unit in lines.waiting.take_group(0, small=False)] == [
        (2, [Touch(b"large"), Delete(b"large")]),
        (4, [Put(b"large", b"v", want_previous=True)]),
    ]


def test_who_had_a_turn_goes_behind_the_others() -> None:
    lines = Lines()
    for id in (1, 2, 3):
        lines.add(id, [Patch(b"k", b"{}")] * 3)
    group = lines.waiting.take_group(0, small=False)
    lines.waiting.return_rest(group, [1, 0, 0], small=False)
    assert [unit.id for unit in lines.waiting.take_group(0, small=False)] == [2, 3, 1]


def test_an_unread_message_is_read_in_its_turn() -> None:
    lines = Lines()
    for frame in (b"", b"v"):
        lines.waiting.add(UnreadMessage(b"", frame))
    assert len(lines.waiting) == 2
    assert [unit.operations for unit in lines.waiting.take_group(0, small=False)] == [[Put(b"read", b"v")]]


@pytest.mark.parametrize("operation", [Put(b"k", b"v"), Patch(b"k", b"{}")])
def test_what_is_late_is_refused(operation: Operation) -> None:
    lines = Lines()
    lines.add(1, [operation], deadline_ns=5)
    lines.add(2, [operation], deadline_ns=6)
    small = isinstance(operation, Put)
    assert [unit.id for unit in lines.waiting.take_group(6, small=small)] == [2]
    assert [(unit.id, code) for unit, code in lines.refused] == [(1, "deadline_passed")]


def test_all_can_be_taken_out() -> None:
    lines = Lines()
    lines.add(1, [Put(b"k", b"v")])
    lines.add(2, [Patch(b"k", b"{}"), DeletePrefix(b"", b"", 1, 1)])
    lines.waiting.add(UnreadMessage(b"", b"v"))
    assert [unit.id for unit in lines.waiting.drain()] == [1, 2, 2, 99]
    assert not len(lines.waiting)


def test_what_is_done_once_waits_where_its_operation_would() -> None:
    lines = Lines({b"large": request_queue.COSTLY_BYTES + 1})

    def once(operation: Put | Delete | Touch | Patch | AtomicBatch) -> Once:
        return Once(operation, bytes(18), bytes(16))

    lines.add(1, [once(Put(b"k", b"v")), once(Delete(b"k"))])
    lines.add(2, [once(Patch(b"k", b"{}"))])
    lines.add(3, [once(AtomicBatch([Put(b"k", b"v")] * (request_queue.SMALL_OPS + 1)))])
    lines.add(4, [once(Touch(b"large"))])
    lines.add(5, [once(AtomicBatch([Put(b"k", b"v")]))])
    group = lines.waiting.take_group(0, small=True)
    assert [unit.id for unit in group] == [1, 4, 5]
    lines.waiting.return_rest(group, [2, 0, 1], small=True)
    assert [unit.id for unit in lines.waiting.take_group(0, small=False)] == [2, 3, 4]
    lines.add(6, [once(Patch(b"k", b"{}")), Get(b"k", 1)])
    [unit] = lines.waiting.take_group(0, small=False)
    assert [part.operations for part in unit.split_patches()] == [[Get(b"k", 1)], [once(Patch(b"k", b"{}"))]]


def test_late_messages_are_refused_also_while_no_group_is_taken() -> None:
    lines = Lines()
    lines.add(1, [Put(b"a", b"v")], deadline_ns=5)
    lines.add(2, [Put(b"a", b"v")], deadline_ns=6)
    lines.add(3, [Patch(b"a", b"{}")], deadline_ns=5)
    lines.waiting.add(UnreadMessage(b"", b"its deadline is not known yet"))
    lines.waiting.refuse_late(6)
    assert [(unit.id, code) for unit, code in lines.refused] == [(1, "deadline_passed"), (3, "deadline_passed")]
    assert len(lines.waiting) == 2


def test_a_message_is_split_by_what_is_refused_of_it() -> None:
    operations = [Put(b"a", b"1"), Delete(b"a"), Put(b"b", b"2")]
    kept, refused = QueuedMessage(b"", 1, 10, operations, 100).split_refused([True, False, True])
    assert (kept.operations, kept.places) == ([Delete(b"a")], [1])
    assert (refused.operations, refused.places) == ([Put(b"a", b"1"), Put(b"b", b"2")], [0, 2])
