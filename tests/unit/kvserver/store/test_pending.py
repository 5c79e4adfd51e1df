"""Requests that wait for a shard, and messages that are answered whole or in parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.store.pending import PACKED_BYTES, InFlight, Pending, Portion, Single, is_small
from shards.wire.errors import Unavailable
from shards.wire.protocol import SMALL_OPS, AtomicBatch, Done, Get, OfOneKey, Once, Patch, Put, Reply, size_of


def portion(operations: list[OfOneKey], answers: list[Any]) -> Portion:
    return Portion(operations, sum(map(size_of, operations)), 0, answers.append)


def test_each_takes_its_own_replies() -> None:
    first: list[Any] = []
    second: list[Any] = []
    replies: list[Reply] = [Done(n, True) for n in range(1, 5)]
    left = iter(replies)
    portion([Put(b"a", b""), Put(b"b", b"")], first).answer(left)
    Single(Put(b"c", b""), 0, second.append).answer(left)
    assert (first, second, list(left)) == ([replies[:2]], [replies[2]], replies[3:])


def test_a_failure_is_delivered_once_for_all_of_a_portion() -> None:
    answers: list[Any] = []
    error = Unavailable("gone")
    portion([Get(b"a", 1), Get(b"b", 1)], answers).fail(error)
    Single(Get(b"a", 1), 0, answers.append).fail(error)
    assert answers == [error, error]


def test_operations_of_atomic_batches_count_singly() -> None:
    batch = Single(AtomicBatch([Put(b"a", b"xy"), Put(b"b", b"z")]), 0, print)
    assert (batch.count, batch.size) == (2, 5)
    once = Single(Once(AtomicBatch([Put(b"a", b"xy"), Put(b"b", b"z")]), bytes(18), bytes(16)), 0, print)
    assert (once.count, once.size) == (2, 5)


@pytest.mark.parametrize(
    ("operations", "small"),
    [
        ([Put(b"k", b"v")], True),
        ([Put(b"k", b"v")] * SMALL_OPS, True),
        ([Put(b"k", b"v")] * (SMALL_OPS + 1), False),
        ([Put(b"k", bytes(PACKED_BYTES - 1))], True),
        ([Put(b"k", bytes(PACKED_BYTES))], False),
        ([Patch(b"k", b"{}")], False),
    ],
    ids=["one", "most", "too many", "largest", "too large", "a patch"],
)
def test_what_may_travel_with_others(operations: list[OfOneKey], small: bool) -> None:
    assert is_small(portion(operations, [])) == small


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.randoms(use_true_random=False), st.data())
def test_parts_in_any_order_complete_each_request_once(counts: list[int], random: Any, data: st.DataObject) -> None:
    answers: list[list[Any]] = [[] for _ in counts]
    requests: list[Pending] = [
        portion([Put(b"k", b"")] * count, own) for count, own in zip(counts, answers, strict=True)
    ]
    total = sum(counts)
    message = InFlight(0, requests, total)
    places = list(range(total))
    random.shuffle(places)
    while places:
        size = data.draw(st.integers(1, len(places)))
        part, places = places[:size], places[size:]
        for pending, replies in message.add_part(part, [Done(place + 1, True) for place in part]):
            pending.answer(replies)
        begin = 0
        for count, own in zip(counts, answers, strict=True):
            whole = not set(range(begin, begin + count)) & set(places)
            assert own == ([[Done(place + 1, True) for place in range(begin, begin + count)]] if whole else [])
            begin += count
    assert not message.unanswered
