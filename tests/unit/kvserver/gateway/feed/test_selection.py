"""Sets of keys."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.feed.events import Block
from kvserver.gateway.feed.selection import KeyRange, Selection
from shards.wire.protocol import PutEvent
from tests.unit.kvserver.gateway.feed.histories import event

SOME = st.binary(max_size=3).map(lambda raw: bytes(b"ab"[byte & 1] for byte in raw))


@settings(deadline=None)
@given(st.lists(SOME, max_size=5), st.lists(SOME, max_size=5), SOME)
def test_a_selection_covers_what_it_was_made_of(prefixes: list[bytes], keys: list[bytes], key: bytes) -> None:
    selection = Selection.of(prefixes, keys)
    wanted = key in keys or any(key.startswith(prefix) for prefix in prefixes)
    assert selection.covers(key) == wanted
    in_ranges = [key == start if is_key else key.startswith(start) for start, is_key in selection.ranges()]
    assert sum(in_ranges) == wanted, "ranges cover the same, and none overlaps another"
    assert selection.covers_all(key) == any(key.startswith(prefix) for prefix in prefixes)


def test_ranges_are_in_byte_order() -> None:
    selection = Selection.of([b"b", b"ba", b"d"], [b"c", b"bx", b"a"])
    assert selection.ranges() == [
        KeyRange(b"a", True),
        KeyRange(b"b", False),
        KeyRange(b"c", True),
        KeyRange(b"d", False),
    ]


def test_events_of_a_block() -> None:
    """Those of a few keys are looked up, those of prefixes are not."""
    events = [event(PutEvent(b"%d" % (number % 4), b"", "", 0), number) for number in range(1, 21)]
    block = Block(0, 20, 0, events)
    found = Selection.of([], [b"1", b"2"]).events_in(block, 10)
    assert [each.revision for each in found] == [13, 14, 17, 18]
    found = Selection.of([b"1"], [b"2"]).events_in(block, 10)
    assert [each.revision for each in found] == list(range(11, 21))
