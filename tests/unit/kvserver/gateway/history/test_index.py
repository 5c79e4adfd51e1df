"""The index of the log."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.history.index import EVERY, LogIndex
from kvserver.gateway.wal.tail import Position


@settings(deadline=None)
@given(st.lists(st.integers(1, 3 * EVERY), max_size=40), st.integers(0, 60))
def test_the_index_leads_to_a_place_before(steps: list[int], revision: int) -> None:
    index, place = LogIndex(), Position(0, 0)
    for step in steps:
        index.note(place)
        place = Position(place.lsn + step, place.revision + 1)
    found = index.before(revision)
    if found is not None:
        assert found.revision <= revision
        assert found.lsn == sum(steps[: found.revision])
        wanted = sum(steps[: min(revision, max(len(steps) - 1, 0))])
        assert wanted - found.lsn < 4 * EVERY
    index.forget(place.lsn + 1)
    assert len(index) == 0


def test_what_is_noted_late_leads_to_what_is_before_all_others() -> None:
    """A gateway that has just begun knows its own place first, and that of older records when it is asked."""
    index = LogIndex()
    index.note(Position(1000, 50))
    assert index.before(49) is None
    index.note(Position(0, 10))
    assert index.before(49) == Position(0, 10) and index.before(9) is None
    assert index.before(50) == Position(1000, 50)
