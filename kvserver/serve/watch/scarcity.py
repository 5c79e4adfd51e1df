"""Want of descriptors, processes or memory: it passes, so it ends nothing that is tried again anyway."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Final

from shards.wire.errors import EXHAUSTED

log = logging.getLogger(__name__)

_PASSING: Final = EXHAUSTED | {errno.EAGAIN, errno.EINTR}


def is_scarcity(error: OSError) -> bool:
    """Whether `error` says that the process, the user or the machine has no more of something for the moment."""
    return error.errno in _PASSING


class Patience:
    """Takes steps that are repeated anyway, and bears with those that want something which is short.

    It is told once when a step begins to fail, and once when it works again. Any other error is the caller's.
    """

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def attempt(self, what: str, step: Callable[[], object]) -> bool:
        """Take `step`, which is for `what` (as a message names it); whether it worked.

        Raises what `step` raises but for `OSError` of scarcity.
        """
        try:
            step()
        except OSError as error:
            if not is_scarcity(error):
                raise
            if what not in self._failing:
                self._failing.add(what)
                log.warning("%s has to wait, and is tried again and again: %s", what, error)
            return False
        if what in self._failing:
            self._failing.discard(what)
            log.info("%s works again", what)
        return True
