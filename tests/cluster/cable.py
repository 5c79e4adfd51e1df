"""One direction of a cable: when a frame that is sent now comes out, or that it is lost. Pure, but for its chance."""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

_WAITS_S: Final = 0.4
"""How long a frame waits for its turn at most, where the cable carries little."""


class Conditions(NamedTuple):
    """What a cable does to frames. By default nothing.

    Attributes:
        delay_s, jitter_s: a frame takes `delay_s`, and by chance `jitter_s` more or less. None overtakes another.
        loss: the share of frames that is lost.
        kbit: it carries so many kbit a second; 0: as many as come.
        is_cut: all frames are lost.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    kbit: int = 0
    is_cut: bool = False


class Line:
    """One direction of a cable, which is whole at first.

    Attributes:
        conditions: may change at any time; what is on its way then comes out as it would have.
    """

    def __init__(self, chance: Random) -> None:
        self.conditions = Conditions()
        self._chance = chance
        self._free_at = self._last_out = 0.0

    def comes_out(self, now: float, size: int) -> float | None:
        """When a frame of `size` bytes that is sent `now` comes out; None: it is lost. `now` never goes back."""
        delay_s, jitter_s, loss, kbit, is_cut = self.conditions
        if is_cut or (loss and self._chance.random() < loss):
            return None
        if kbit:
            begins = max(now, self._free_at)
            if begins - now > _WAITS_S:
                return None
            self._free_at = now = begins + size * 8 / (kbit * 1000)
        if jitter_s:
            delay_s += self._chance.uniform(-jitter_s, jitter_s)
        self._last_out = max(self._last_out, now + delay_s)
        return self._last_out
