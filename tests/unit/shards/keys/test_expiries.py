"""Expiries by two clocks: every key is found in time, and the heaps stay small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.keys.entries import Entry
from shards.keys.expiries import ExpiryHeap, ExpiryHeaps
from shards.wire.clock import Now, is_live
from tests.times import at

NOW = 1_700_000_000_000
KEYS = st.sampled_from([b"a", b"b", b"c"])
EXPIRIES = st.integers(-20, 20)


class TestExpiryHeap:
    def test_keys_are_given_in_order_of_time_and_once(self) -> None:
        heap = ExpiryHeap()
        for key, at_ms in ((b"b", 20), (b"a", 10), (b"c", 30), (b"a", 15)):
            heap.push(key, at_ms)
        assert heap.next_ms() == 10
        assert list(heap.pop_due(25)) == [(10, b"a"), (20, b"b")]
        assert list(heap.pop_due(25)) == []
        assert heap.next_ms() == 30

    def test_an_earlier_time_counts_and_a_later_one_does_not(self) -> None:
        heap = ExpiryHeap()
        for at_ms in (20, 30, 10, 40):
            heap.push(b"k", at_ms)
        assert [list(heap.pop_due(now_ms)) for now_ms in (9, 10, 50)] == [[], [(10, b"k")], []]

    def test_a_key_that_is_postponed_again_and_again_has_one_item(self) -> None:
        heap = ExpiryHeap()
        for at_ms in range(10, 10_000):
            heap.push(b"k", at_ms)
        assert len(heap.items) == 1
        assert heap.next_ms() == 10

    def test_an_empty_one_is_never_due(self) -> None:
        heap = ExpiryHeap()
        assert (heap.next_ms(), list(heap.pop_due(NOW))) == (None, [])

    def test_what_is_cancelled_is_not_given_unless_it_is_pushed_again(self) -> None:
        heap = ExpiryHeap()
        for key, at_ms in ((b"a", 10), (b"b", 10), (b"c", 10)):
            heap.push(key, at_ms)
            heap.cancel(key)
        heap.push(b"b", 20)
        heap.push(b"c", 10)
        assert [list(heap.pop_due(now_ms)) for now_ms in (10, 20)] == [[(10, b"c")], [(20, b"b")]]

    def test_what_does_not_count_goes_when_it_is_most(self) -> None:
        heap = ExpiryHeap()
        for number in range(10_000):
            heap.push(b"%d" % number, number)
        lengths = []
        for number in range(7_100):
            heap.cancel(b"%d" % number)
            heap.compact()
            lengths.append(len(heap.items))
        assert sorted(set(lengths)) == [2_951, 10_000] and lengths.index(2_951) == 7_048
        assert list(heap.pop_due(10_000)) == [(number, b"%d" % number) for number in range(7_100, 10_000)]


class TestExpiryHeaps:
    @pytest.mark.parametrize("expiry", [50, -50])
    def test_they_are_empty_until_a_key_is_scheduled_and_after_it_is_taken(self, expiry: int) -> None:
        expiries, entries = ExpiryHeaps(), {b"k": (1, 1, expiry, 0)}
        assert expiries.is_empty
        expiries.schedule(b"k", expiry)
        assert not expiries.is_empty
        assert expiries.take_due(at(60), 9, entries.get) == [(b"k", entries[b"k"])]
        assert expiries.is_empty

    @given(st.lists(st.tuples(KEYS, EXPIRIES, st.integers(0, 5))), st.integers(1, 3))
    def test_every_key_is_found_when_its_time_has_come(self, changes: list[tuple[bytes, int, int]], limit: int) -> None:
        """Expiries are changed at random while both clocks go on, as a shard would: due keys are deleted."""
        expiries, entries, now_ms = ExpiryHeaps(), dict[bytes, Entry](), 0
        for revision, (key, delay, elapsed_ms) in enumerate(changes, 1):
            now_ms += elapsed_ms
            expiry = delay and (now_ms + delay if delay > 0 else -(now_ms - delay))
            entries[key] = (revision, revision, expiry, 0)
            if expiry:
                expiries.schedule(key, expiry)
            else:
                expiries.cancel(key)
            expiries.compact()
            expiries.check(entries)
            due = {key for key, entry in entries.items() if not is_live(entry[2], at(now_ms))}
            found = expiries.take_due(at(now_ms), limit, entries.get)
            assert len(found) == min(limit, len(due)) and due.issuperset(key for key, _ in found)
            for key, entry in found:
                assert entries.pop(key) == entry

    def test_both_clocks_count(self) -> None:
        entries: dict[bytes, Entry] = {b"wall": (1, 1, 50, 0), b"steady": (2, 2, -70, 0), b"never": (3, 3, 0, 0)}
        expiries = ExpiryHeaps()
        expiries.schedule(b"wall", 50)
        expiries.schedule(b"steady", -70)
        assert expiries.due_in_ms(Now(0, 0)) == 50
        assert expiries.due_in_ms(Now(0, 60)) == 10
        assert expiries.take_due(Now(49, 70), 9, entries.get) == [(b"steady", entries[b"steady"])]
        assert expiries.take_due(Now(50, 69), 9, entries.get) == [(b"wall", entries[b"wall"])]
        assert expiries.due_in_ms(Now(0, 0)) is None

    def test_a_key_that_changed_its_clock_is_due_by_the_new_one(self) -> None:
        expiries = ExpiryHeaps()
        expiries.schedule(b"k", 50)
        expiries.schedule(b"k", -200)
        entries: dict[bytes, Entry] = {b"k": (1, 1, -200, 0)}
        assert expiries.take_due(Now(100, 100), 9, entries.get) == []
        assert expiries.take_due(Now(100, 200), 9, entries.get) == [(b"k", entries[b"k"])]

    def test_a_key_with_times_by_both_clocks_is_due_once(self) -> None:
        """As after a put with `expires` and a touch with `ttl` that are both over when the shard looks."""
        for first, second in ((50, -50), (-50, 50)):
            expiries = ExpiryHeaps()
            expiries.schedule(b"k", first)
            expiries.schedule(b"k", second)
            assert expiries.take_due(at(60), 9, {b"k": (1, 1, second, 0)}.get) == [(b"k", (1, 1, second, 0))]

    def test_the_order_is_of_the_expiries_and_not_of_what_they_were(self) -> None:
        entries: dict[bytes, Entry] = {
            b"a": (1, 1, 50, 0),
            b"b": (2, 2, 40, 0),
            b"c": (3, 3, 40, 0),
            b"d": (4, 4, -30, 0),
            b"e": (5, 5, -20, 0),
        }
        orders = []
        for postponed in (b"", b"a", b"c", b"d"):
            expiries = ExpiryHeaps()
            if postponed:
                expiries.schedule(postponed, 10 if entries[postponed][2] > 0 else -10)
            for key, entry in entries.items():
                expiries.schedule(key, entry[2])
            orders.append([key for _ in range(5) for key, _ in expiries.take_due(at(60), 1, entries.get)])
        assert orders == [[b"e", b"d", b"b", b"c", b"a"]] * 4

    def test_a_postponed_key_is_scheduled_again(self) -> None:
        expiries = ExpiryHeaps()
        expiries.schedule(b"k", 50)
        entries: dict[bytes, Entry] = {b"k": (1, 1, 90, 0)}
        assert expiries.take_due(at(60), 9, entries.get) == []
        assert expiries.due_in_ms(at(60)) == 30

    def test_what_was_deleted_does_not_stay(self) -> None:
        expiries = ExpiryHeaps()
        for round in range(40):
            for number in range(1000):
                expiries.schedule(b"%d-%d" % (round, number), -(NOW + number))
                expiries.cancel(b"%d-%d" % (round, number))
            expiries.compact()
        assert len(expiries._by_steady.items) <= 4096
