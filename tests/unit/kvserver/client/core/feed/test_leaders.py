"""Who leads: each change once, and none who only renews."""

from __future__ import annotations

from datetime import UTC, datetime

from kvserver.client.changes import Change, Delete, Envelope, Put, Reset, Synced, Touch
from kvserver.client.core.feed.leaders import Leaders

NOW = datetime(2026, 11, 22, tzinfo=UTC)
START, END = Reset("start", True), Synced("e.9")


def put(owner: str, revision: int, origin: str = "live") -> Put:
    return Put("lead", b"host", 4, revision, NOW, f"t/t; owner={owner}", None, origin)  # type: ignore[arg-type]


def leaders_of(*envelopes: tuple[Change, ...]) -> list[str | None]:
    leaders = Leaders("lead")
    found = [leader for changes in envelopes for leader in leaders.of(Envelope("e.1", changes))]
    return [leader and leader.content_type.rpartition("=")[2] for leader in found]


def test_nobody_leads_at_first() -> None:
    assert leaders_of((START, END)) == [None]
    assert leaders_of((START,), (put("a", 1),)) == [], "before the state is whole nobody knows"


def test_each_leader_and_none_between() -> None:
    gone = Delete("lead", 5, NOW, "expire")
    assert leaders_of((START, put("a", 1), END), (gone,), (put("b", 6),), (put("c", 7),)) == ["a", None, "b", "c"]
    assert leaders_of((START, END), (put("a", 1), gone, put("a", 6))) == [None, "a", None, "a"]


def test_a_renewal_is_no_change() -> None:
    assert leaders_of((START, put("a", 1), END), (Touch("lead", 2, NOW, NOW),), (Touch("lead", 3, NOW, NOW),)) == ["a"]


def test_a_resync_tells_only_what_changed() -> None:
    lost = (Reset("trimmed", True), START)
    assert leaders_of((START, put("a", 1), END), (*lost, put("a", 5, "snapshot"), END)) == ["a"]
    assert leaders_of((START, put("a", 1), END), (*lost, put("b", 5, "snapshot"), END)) == ["a", "b"]
    assert leaders_of((START, put("a", 1), END), (*lost, END)) == ["a", None]
