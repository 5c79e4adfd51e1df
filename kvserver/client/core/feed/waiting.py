"""Waiting for what a key holds. Pure."""

from __future__ import annotations

from collections.abc import Callable

from kvserver.client.changes import Envelope
from kvserver.client.core.feed.copy import Copy
from kvserver.client.model import Entry


class Waiter:
    """Looks for the first state of a key that satisfies a condition.

    Attributes:
        entry: what the key holds; None: it is absent.
    """

    def __init__(self, key: str, until: Callable[[Entry | None], bool] | None) -> None:
        """Wait until the key exists, if `until` is None."""
        self.entry: Entry | None = None
        self._key, self._until = key, until or (lambda entry: entry is not None)
        self._copy = Copy()
        self._has_asked = False

    def is_over(self, envelope: Envelope) -> bool:
        """Return whether a change in `envelope` satisfies the condition; later ones are then skipped."""
        for change in envelope.changes:
            self._copy.apply(Envelope(envelope.cursor, (change,)))
            if self._copy.cursor is None or self._copy.is_building:
                continue
            entry = self._copy.state.get(self._key)
            if self._has_asked and entry == self.entry:
                continue
            self.entry, self._has_asked = entry, True
            if self._until(entry):
                return True
        return False

    def error(self, timeout: float | None) -> TimeoutError:
        """Return the error of a wait that took too long."""
        return TimeoutError(f"{self._key!r} is not as wanted after {0 if timeout is None else timeout:g} s")
