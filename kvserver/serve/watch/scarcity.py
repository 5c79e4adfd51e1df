"""Temporary shortage of descriptors, processes or memory: steps that are repeated anyway survive it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Final

from shards.wire.errors import EXHAUSTED

log = logging.getLogger(__name__)

_PASSING: Final = EXHAUSTED | {errno.EAGAIN, errno.EINTR}


def is_scarcity(error: OSError) -> bool:
    """Return whether `error` reports a temporary shortage in the process, for the user or on the machine."""
    return error.errno in _PASSING


class ScarcityRetry:
    """Runs steps that are repeated anyway, and tolerates shortages.

    Logs once when a step begins to fail and once when it works again. Other errors propagate.
    """

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def attempt(self, what: str, step: Callable[[], object]) -> bool:
        """Run `step` and return whether it worked. `what`: its name in messages.

        Exceptions of `step` propagate, except for an `OSError` of scarcity.
        """
        try:
            step()
        except OSError as error:
            if not is_scarcity(error):
                raise
            if what not in self._failing:
                self._failing.add(what)
                log.warning("%s has to wait, will retry: %s", what, error)
            return False
        if what in self._failing:
            self._failing.discard(what)
            log.info("%s works again", what)
        return True
