"""Envelopes in, changes out, one by one. Pure."""

from __future__ import annotations

from collections import deque

from kvserver.client.changes import Change, Envelope


class Delivery:
    """Hands out the changes of envelopes.

    Attributes:
        cursor: after the last envelope all of whose changes were taken.
    """

    def __init__(self, cursor: str | None) -> None:
        self.cursor = cursor
        self._changes: deque[Change] = deque()
        self._behind = cursor

    def add(self, envelope: Envelope) -> None:
        """Add an envelope, after all changes of the one before were taken."""
        self._changes += envelope.changes
        self._behind = envelope.cursor
        if not envelope.changes:
            self.cursor = envelope.cursor

    def take(self) -> Change | None:
        """Remove and return the next change; None: an envelope is needed."""
        if not self._changes:
            return None
        change = self._changes.popleft()
        if not self._changes:
            self.cursor = self._behind
        return change

    def take_rest(self) -> Envelope | None:
        """Remove and return what is left of the envelope; None: nothing is."""
        if not self._changes or self._behind is None:
            return None
        envelope = Envelope(self._behind, tuple(self._changes))
        self._changes.clear()
        self.cursor = self._behind
        return envelope
