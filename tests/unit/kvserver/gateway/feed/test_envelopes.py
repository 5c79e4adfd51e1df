"""How much fits into an envelope."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.feed import envelopes
from kvserver.gateway.feed.envelopes import EnvelopeBuilder


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), max_size=30))
def test_an_envelope_has_room_for_whole_units(units: list[tuple[int, int]]) -> None:
    """For the first one always; then as long as neither count nor size is passed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelopes, "MOST_EVENTS", 8)
        patch.setattr(envelopes, "MOST_BYTES", envelopes._AROUND + 100)
        builder = EnvelopeBuilder()
    taken = 0
    for number, (count, size) in enumerate(units, 1):
        if not all(builder.add(b"x" * size, number) for _ in range(count)):
            break
        taken = number
    fitting = 0
    for number in range(1, len(units) + 1):
        parts = [size for count, size in units[:number] for _ in range(count)]
        if number > 1 and (len(parts) > 8 or sum(parts) + len(parts) > 100):
            break
        fitting = number
    assert taken == fitting == builder.unit
    assert len(builder.parts) == sum(count for count, _ in units[:taken])
