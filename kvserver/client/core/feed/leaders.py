"""Who leads, from the changes of the key of an election. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from kvserver.client.changes import Envelope
from kvserver.client.core.feed.copy import Copy
from kvserver.client.model import Entry


class Leaders:
    """Turns envelopes into leaders, one after the other."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._copy = Copy()
        self._has_told = False
        self._last: tuple[bytes, str] | None = None

    def of(self, envelope: Envelope) -> Iterator[Entry | None]:
        """Yield each leader that an envelope brings; None for none. That one renewed its expiry is no change."""
        for change in envelope.changes:
            self._copy.apply(Envelope(envelope.cursor, (change,)))
            if self._copy.cursor is None or self._copy.is_building:
                continue
            entry = self._copy.state.get(self._key)
            leader = None if entry is None else (entry.value, entry.content_type)  # which names the owner
            if leader != self._last or not self._has_told:
                self._last, self._has_told = leader, True
                yield entry
