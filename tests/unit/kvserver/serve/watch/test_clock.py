"""What the operator is told of the clock."""

from __future__ import annotations

import pytest

from kvserver.serve.watch.clock import ClockWatch
from shards.wire.clock import Now

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("step_ms", "words"),
    [
        (30 * DAY_MS, "forwards by 30 days"),
        (30 * DAY_MS - 1, "forwards by 30 days"),
        (1 - DAY_MS, "back by 1 day,"),
        (3_600_000, "forwards by 1 hour,"),
        (61_000, "forwards by 1 minute,"),
        (-7_199_999, "back by 2 hours,"),
    ],
)
def test_a_step_is_told_in_the_largest_unit(step_ms: int, words: str) -> None:
    """The two clocks are read one after the other, so a step may seem a millisecond shorter than it was."""
    watch = ClockWatch(Now(0, 0), Now(100 * DAY_MS, 5))
    message = watch.step_message(Now(100 * DAY_MS + step_ms, 5))
    assert message is not None and words in message


def test_a_minute_is_no_step() -> None:
    watch = ClockWatch(Now(0, 0), Now(DAY_MS, 5))
    assert watch.step_message(Now(DAY_MS + 60_000, 5)) is None
    assert watch.step_message(Now(DAY_MS + 60_001, 5)) is not None
    assert watch.step_message(Now(DAY_MS + 60_001, 5)) is None
