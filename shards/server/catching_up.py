"""Says in the log how a machine of a cluster that is far behind gets on. Pure, but for the log."""

from __future__ import annotations

import logging
from typing import Final

FAR: Final = 500
"""Messages behind the others, from which on it is said. After an ordinary restart it is less, and over at once."""
SAY_S: Final = 10.0
"""Between two sentences."""

log = logging.getLogger("shards")


class CatchingUp:
    """Of one process. Times are by a clock that is never set."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None  # when, and from which message on
        self._said_at = 0.0

    def look(self, sequence: int, last: int, now: float) -> None:
        """Look at how far it is: at message `sequence` of `last`. To be called every second or so."""
        behind = last - sequence
        if self._begun is None:
            if behind > FAR:
                self._begun, self._said_at = (now, sequence), now
                log.info("catching up: this machine is %d messages behind, at message %d of %d", behind, sequence, last)
            return
        begun_at, begun_with = self._begun
        if behind <= FAR // 10:
            log.info("caught up: %d messages in %.1f s, up to message %d", sequence - begun_with, now - begun_at, last)
            self._begun = None
        elif now >= self._said_at + SAY_S:
            self._said_at = now
            log.info("still catching up: at message %d of %d, %d behind", sequence, last, behind)
