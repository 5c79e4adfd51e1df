"""The cursor is behind what was taken, and never behind what was not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserver.client.changes import Change, Envelope, Synced
from kvserver.client.core.feed.delivery import Delivery


@given(st.lists(st.integers(0, 3)), st.data())
def test_every_change_once_and_the_cursor_behind_whole_envelopes(sizes: list[int], data: st.DataObject) -> None:
    delivery = Delivery("e.0")
    taken: list[Change] = []
    expected: list[Change] = []
    for at, size in enumerate(sizes, 1):
        changes = tuple(Synced(f"{at}.{n}") for n in range(size))
        expected += changes
        before = delivery.cursor
        delivery.add(Envelope(f"e.{at}", changes))
        for left in range(size, 0, -1):
            assert delivery.cursor == before
            if data.draw(st.booleans()):
                rest = delivery.take_rest()
                assert rest is not None and rest.cursor == f"e.{at}" and len(rest.changes) == left
                taken += rest.changes
                break
            change = delivery.take()
            assert change is not None
            taken.append(change)
        assert delivery.cursor == f"e.{at}" and delivery.take() is None and delivery.take_rest() is None
    assert taken == expected
