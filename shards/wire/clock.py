"""The two kinds of time, and when a key's has come. Pure.

- **Wall time** is Unix time by the machine's clock as it is set now. Clients mean it by `expires=`, and see it in
  created, modified and expires. It may be set at any moment, forwards and backwards.
- **Steady time** is what a lifetime (`ttl=`) counts by: CLOCK_BOOTTIME and an offset (see `resumed`). It cannot
  be set, continues while the machine sleeps, and never goes back. Clients never see its number.

An **expiry** is one number: 0 is never, above 0 a wall time, below 0 the negation of a steady time. Milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple


class Now(NamedTuple):
    """One moment, in milliseconds by either clock."""

    wall_ms: int
    steady_ms: int

    @property
    def behind_ms(self) -> int:
        """Milliseconds by which the wall clock is behind the steady one; below 0: ahead of it."""
        return self.steady_ms - self.wall_ms


FIRST_MS = 1
LAST_MS = 221_845_392_000_000
"""The wall times that count: from 1970 until the year 9000, so that all that begins then ends in a year of four digits.
A clock that says another one counts as the nearer of the two."""

BEGINNING = Now(0, 0)
"""Nothing has expired yet."""


def counted_ms(wall_ms: int) -> int:
    """Clamp the wall time `wall_ms` to the range that counts, `FIRST_MS` to `LAST_MS`."""
    return min(max(wall_ms, FIRST_MS), LAST_MS)


def is_live(expiry: int, now: Now) -> bool:
    """Whether a key with this `expiry` exists at `now`. At the very moment of its expiry it does not."""
    if expiry > 0:
        return expiry > now.wall_ms
    return not expiry or -expiry > now.steady_ms


def lifetime(ttl_ms: int, now: Now) -> int:
    """Return the expiry of a key that begins at `now` and lasts `ttl_ms`, above 0."""
    return -(now.steady_ms + ttl_ms)


def overdue_ms(expiry: int, now: Now) -> int:
    """Milliseconds since `expiry` passed."""
    return now.wall_ms - expiry if expiry > 0 else now.steady_ms + expiry


def unix_ms(expiry: int, now: Now) -> int:
    """Return the wall time that clients see for `expiry`, 0 for never.

    The end of a lifetime is shown by the wall clock as it is set at `now`.
    """
    return expiry if expiry >= 0 else max(-expiry - now.behind_ms, 1)


def resumed(last: Now, wall_ms: int, boottime_ms: int, offset_ms: int | None) -> int:
    """Return the offset that makes steady time of CLOCK_BOOTTIME in the run that begins now.

    Lifetimes continue while no server runs. Within a boot the offset stays; over a boot only the wall clock knows how
    long that was. If it was set back in the meantime, lifetimes do not shorten for that time: it is better to keep a
    value for too long than to lose it too early.

    Args:
        last: the last moment on record; (0, 0) for a new store.
        wall_ms, boottime_ms: now.
        offset_ms: that of the last run, if it was in this boot; else None.
    """
    if not last.steady_ms:
        return wall_ms - boottime_ms
    if offset_ms is not None and boottime_ms + offset_ms >= last.steady_ms:
        return offset_ms
    return max(last.steady_ms, min(last.steady_ms + max(0, wall_ms - last.wall_ms), LAST_MS)) - boottime_ms
