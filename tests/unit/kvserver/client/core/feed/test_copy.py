"""`Copy`: what each change does to it, and that it is never empty or half while a snapshot is built."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kvserver.client.changes import Activity, Change, Delete, Envelope, Put, Reset, Synced, Touch
from kvserver.client.core.feed.copy import Copy, Difference
from kvserver.client.model import Entry

NOW = datetime(2026, 11, 22, tzinfo=UTC)
START = Reset("start", True)


def put(key: str, revision: int, value: bytes | None = b"v") -> Put:
    return Put(key, value, 1, revision, NOW, "t/t", None, "live")


def entry(key: str, revision: int, expires: datetime | None = None) -> Entry:
    return Entry(key, b"v", revision, "t/t", expires, NOW)


def apply(copy: Copy, cursor: str, *changes: Change) -> list[Difference]:
    return copy.apply(Envelope(cursor, changes))


@pytest.fixture
def copy() -> Copy:
    """A copy of `a` and `b`."""
    copy = Copy()
    apply(copy, "e.1.YQ.0", START, put("a", 1))
    assert (copy.cursor, dict(copy.state), copy.is_building) == (None, {}, True)
    found = apply(copy, "e.3", put("b", 3), Synced("e.3"))
    assert found == [Difference("a", None, entry("a", 1)), Difference("b", None, entry("b", 3))]
    assert not copy.is_building
    return copy


def test_changes_change_it(copy: Copy) -> None:
    assert apply(copy, "e.4", put("a", 4)) == [Difference("a", entry("a", 1), entry("a", 4))]
    assert apply(copy, "e.5", Touch("a", 5, NOW, NOW)) == [Difference("a", entry("a", 4), entry("a", 5, NOW))]
    assert apply(copy, "e.6", Delete("b", 6, NOW, "expire")) == [Difference("b", entry("b", 3), None)]
    assert (copy.cursor, dict(copy.state)) == ("e.6", {"a": entry("a", 5, NOW)})


def test_what_is_not_there_changes_nothing(copy: Copy) -> None:
    before = dict(copy.state)
    assert apply(copy, "e.7", Touch("x", 4, NOW, NOW), Delete("x", 5, NOW, "request"), Activity("read", "a", NOW)) == []
    assert (copy.cursor, copy.state) == ("e.7", before)


def test_a_snapshot_replaces_it_at_its_end(copy: Copy) -> None:
    before = dict(copy.state)
    assert apply(copy, "e.9..0", Reset("trimmed", True)) == []
    assert apply(copy, "e.9.YQ.0", START, put("a", 1), put("c", 9), put("d", 9)) == []
    assert apply(copy, "e.10.YQ.0", Delete("d", 10, NOW, "request"), Touch("c", 11, NOW, None)) == []
    assert (copy.cursor, copy.state, copy.is_building) == ("e.3", before, True)
    found = apply(copy, "e.12", Synced("e.12"))
    assert found == [Difference("b", entry("b", 3), None), Difference("c", None, entry("c", 11))]
    assert (copy.cursor, sorted(copy.state)) == ("e.12", ["a", "c"])


def test_a_snapshot_that_begins_again_forgets_the_one_before(copy: Copy) -> None:
    apply(copy, "e.9.eA.0", START, put("x", 9))
    apply(copy, "e.10", START, put("a", 1), Synced("e.10"))
    assert sorted(copy.state) == ["a"]


def test_a_gap_without_a_snapshot_keeps_what_there_is(copy: Copy) -> None:
    assert apply(copy, "e.8", Reset("epoch", False)) == []
    assert (copy.cursor, sorted(copy.state), copy.is_building) == ("e.8", ["a", "b"], False)


def test_a_kept_state_goes_on() -> None:
    copy = Copy("e.3", {"a": entry("a", 1)})
    assert apply(copy, "e.4", put("b", 4)) == [Difference("b", None, entry("b", 4))]
    assert apply(copy, "e.5", Synced("e.5")) == []
    assert sorted(copy.state) == ["a", "b"]


def test_a_bookmark_before_the_first_page_brings_no_state() -> None:
    copy = Copy()
    apply(copy, "e.1..0")
    assert copy.cursor is None
    apply(copy, "e.2", START, Synced("e.2"))
    assert copy.cursor == "e.2"


def test_it_needs_values(copy: Copy) -> None:
    with pytest.raises(ValueError, match="values=False"):
        apply(copy, "e.4", put("a", 4, None))
