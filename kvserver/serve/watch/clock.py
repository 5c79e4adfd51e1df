"""What the operator is told of the clock. Pure: see `shards.wire.clock` for the two kinds of time."""

from __future__ import annotations

from typing import Final

from kvserver.api.times import rfc3339
from shards.wire.clock import Now, counted_ms

TOLERATED_MS: Final = 60_000
"""By how much the clock may be away before anything is said of it."""

_UNITS: Final = ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"))


class ClockWatch:
    """Compares the clocks of one run of the server."""

    def __init__(self, last: Now, now: Now) -> None:
        """`last`: the latest moment on record before the run; (0, 0) for a new store."""
        self._last, self._behind_ms = last, now.behind_ms
        self._in_the_future = last.wall_ms - now.wall_ms > TOLERATED_MS

    def at_start(self) -> str | None:
        """What is to be said when the run begins; None: nothing."""
        if self._in_the_future:
            return (
                f"the last record of the store says {rfc3339(self._last.wall_ms)}, which is still to come: the clock "
                "was ahead then, or is behind now. Everything works by the clock as it is; what was written then is "
                "shown as modified now until the clock has passed that time, or counts as written now, at once, with "
                "--clock-reset"
            )
        if abs(self._behind_ms) > TOLERATED_MS:
            return (
                f"the clock is {_span(self._behind_ms)} {_behind(self._behind_ms)} the time that lifetimes (ttl) count "
                "by: it was set while they ran. They last as long as was said; --clock-reset makes the two one again"
            )
        return None

    def observe(self, now: Now) -> str | None:
        """What is to be said at `now`, called every few seconds; None: nothing."""
        step_ms = self._behind_ms - now.behind_ms
        if abs(step_ms) > TOLERATED_MS:
            self._behind_ms = now.behind_ms
            way = "forwards" if step_ms > 0 else "back"
            return (
                f"the clock was set {way} by {_span(step_ms)}, to {rfc3339(now.wall_ms)}: `expires` goes by it at "
                "once, lifetimes (ttl) last as long as was said"
            )
        if self._in_the_future and now.wall_ms >= self._last.wall_ms:
            self._in_the_future = False
            return "the clock has passed the last record that was written before this start"
        return None


def out_of_range(clock_ms: int) -> str:
    """What is to be said of a clock that says a time which does not count."""
    counted = counted_ms(clock_ms)
    return (
        f"the clock says a time {'before 1970' if clock_ms < counted else 'after the year 8999'}, which counts as "
        f"{rfc3339(counted)} until it is set"
    )


def is_away(last: Now, now: Now) -> bool:
    """Whether there is something for `--clock-reset` to do at a start."""
    return abs(now.behind_ms) > TOLERATED_MS or last.wall_ms - now.wall_ms > TOLERATED_MS


def _behind(behind_ms: int) -> str:
    return "behind" if behind_ms > 0 else "ahead of"


def _span(ms: int) -> str:
    """`3 days`, `1 hour`: rounded, in the largest unit that there is one of."""
    ms = round(abs(ms), -3)  # the two clocks are read one after the other: a day may come as a millisecond less
    size, unit = next(((size, unit) for size, unit in _UNITS if ms >= size), (1000, "second"))
    count = round(ms / size)
    return f"{count:,} {unit}{'' if count == 1 else 's'}"
