"""Entries: when they are live, and how those that a group stages hide the committed ones."""

from __future__ import annotations

import pytest

from shards.keys.entries import Entry, StagedEntries, is_live
from shards.wire.clock import Now

COMMITTED: dict[bytes, Entry] = {b"a": (5, 5, 0, 10), b"b": (6, 4, 99, 20)}


@pytest.mark.parametrize(
    ("expiry", "live"), [(0, True), (101, True), (100, False), (99, False), (-201, True), (-200, False), (-199, False)]
)
def test_an_entry_is_live_until_its_clock_says_its_expiry(expiry: int, live: bool) -> None:
    assert is_live((7, 7, expiry, 1), Now(100, 200)) == live


def test_no_entry_is_not_live() -> None:
    assert not is_live(None, Now(100, 200))


class TestStagedEntries:
    def test_what_is_not_staged_is_as_committed(self) -> None:
        staged = StagedEntries(COMMITTED.get)
        assert (staged.lookup(b"a"), staged.lookup(b"x")) == ((5, 5, 0, 10), None)
        assert (staged.changes, staged.keys, staged.bytes, staged.expiring) == ({}, 0, 0, 0)

    def test_the_last_change_counts(self) -> None:
        staged = StagedEntries(dict(COMMITTED).get)
        staged.stage(b"a", staged.lookup(b"a"), (-1, -1, -7, 12))
        staged.stage(b"b", staged.lookup(b"b"), None)
        staged.stage(b"a", staged.lookup(b"a"), (-2, -2, 0, 1))
        staged.stage(b"new", None, (-3, -3, 8, 3))
        assert [staged.lookup(key) for key in (b"a", b"b", b"new")] == [(-2, -2, 0, 1), None, (-3, -3, 8, 3)]
        assert (staged.keys, staged.bytes, staged.expiring) == (0, -9 - 21 + 6, 0)

    def test_the_committed_ones_are_left_alone(self) -> None:
        committed = dict(COMMITTED)
        StagedEntries(committed.get).stage(b"a", committed[b"a"], None)
        assert committed == COMMITTED

    def test_a_savepoint_is_restored(self) -> None:
        staged = StagedEntries(dict(COMMITTED).get)
        staged.stage(b"a", staged.lookup(b"a"), None)
        before = (dict(staged.changes), staged.keys, staged.bytes, staged.expiring)
        restore = staged.set_savepoint([b"a", b"b", b"new"])
        staged.stage(b"a", None, (-1, -1, 9, 1))
        staged.stage(b"b", staged.lookup(b"b"), (-2, -2, 0, 1))
        restore()
        assert (staged.changes, staged.keys, staged.bytes, staged.expiring) == before
