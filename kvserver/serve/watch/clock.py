"""Messages to the operator about the clock. Pure. `shards.wire.clock` explains the two kinds of time."""

from __future__ import annotations

from typing import Final

from kvserver.api.times import rfc3339
from shards.wire.clock import Now, counted_ms

TOLERATED_MS: Final = 60_000
"""Largest deviation of the clock, in milliseconds, that is not reported."""

_UNITS: Final = ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"))


class ClockWatch:
    """Compares the two clocks during one run of the server."""

    def __init__(self, last: Now, now: Now) -> None:
        """`last`: latest moment recorded before the run; (0, 0) for a new store."""
        self._last, self._behind_ms = last, now.behind_ms
        self._in_the_future = last.wall_ms - now.wall_ms > TOLERATED_MS

    def start_message(self) -> str | None:
        """Return the message to log when the run begins, or None."""
        if self._in_the_future:
            return (
                f"the store's last record is dated {rfc3339(self._last.wall_ms)}, which is in the future: the clock "
                "was ahead then, or is behind now. The server uses the current clock. Items written then are shown as "
                "modified now until the clock has passed that time; with --clock-reset they count as written now"
            )
        if abs(self._behind_ms) > TOLERATED_MS:
            return (
                f"the clock is {_span_text(self._behind_ms)} {_direction(self._behind_ms)} the time that "
                "lifetimes (ttl) count by, because it was set while they ran. Lifetimes keep their length; "
                "--clock-reset aligns the two"
            )
        return None

    def step_message(self, now: Now) -> str | None:
        """Return a message if the clock was set since the last call, or has caught up; else None. Call it every few
        seconds."""
        step_ms = self._behind_ms - now.behind_ms
        if abs(step_ms) > TOLERATED_MS:
            self._behind_ms = now.behind_ms
            way = "forwards" if step_ms > 0 else "back"
            return (
                f"the clock was set {way} by {_span_text(step_ms)}, to {rfc3339(now.wall_ms)}: `expires` follows it "
                "immediately, lifetimes (ttl) keep their length"
            )
        if self._in_the_future and now.wall_ms >= self._last.wall_ms:
            self._in_the_future = False
            return "the clock has passed the last record written before this start"
        return None


def out_of_range(clock_ms: int) -> str:
    """Return the message for a clock outside the supported range."""
    counted = counted_ms(clock_ms)
    return (
        f"the clock shows a time {'before 1970' if clock_ms < counted else 'after the year 8999'}, which counts as "
        f"{rfc3339(counted)} until it is set"
    )


def is_away(last: Now, now: Now) -> bool:
    """Return whether `--clock-reset` has an effect at this start."""
    return abs(now.behind_ms) > TOLERATED_MS or last.wall_ms - now.wall_ms > TOLERATED_MS


def _direction(behind_ms: int) -> str:
    return "behind" if behind_ms > 0 else "ahead of"


def _span_text(ms: int) -> str:
    """Format a duration as `3 days` or `1 hour`: rounded, in the largest unit that is not zero."""
    ms = round(abs(ms), -3)  # the two clocks are read one after the other: a day may come as a millisecond less
    size, unit = next(((size, unit) for size, unit in _UNITS if ms >= size), (1000, "second"))
    count = round(ms / size)
    return f"{count:,} {unit}{'' if count == 1 else 's'}"
