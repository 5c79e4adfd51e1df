"""Fair turns for greenlets: `breathe` lets others run where gevent alone would not."""

from __future__ import annotations

import time
from typing import Any, Final

import gevent  # type: ignore[import-untyped]

_LONGEST_TURN_S: Final = 0.010


class _LoopClock:
    """Knows when the event loop last looked for I/O."""

    def __init__(self) -> None:
        self._watcher: Any = None
        self._hub: Any = None
        self._polled_at = 0.0

    def seconds_since_poll(self) -> float:
        """Return the seconds since the loop's last turn; watches the loop of the calling thread from the first call."""
        hub = gevent.get_hub()
        if hub is not self._hub:
            self._hub, self._watcher = hub, hub.loop.check(ref=False)
            self._watcher.start(self._note_poll)
            self._note_poll()
        return time.monotonic() - self._polled_at

    def _note_poll(self) -> None:
        self._polled_at = time.monotonic()


_loop_clock = _LoopClock()


def breathe() -> None:
    """Let other greenlets run if the event loop has had no turn for 10 ms.

    Reading from a socket that always has data never switches greenlets. `sleep(0)` would not do: it runs what
    is ready, but looks for no I/O.
    """
    if _loop_clock.seconds_since_poll() > _LONGEST_TURN_S:
        gevent.sleep(0.001)
