"""Envelopes of `/v1/feed`, as large as they may be, and the fields of a message of activity. Pure."""

from __future__ import annotations

from typing import Any, Final

from kvserver.api.times import rfc3339
from shards.wire.protocol import Activity

MOST_EVENTS: Final = 1000
"""Events in an envelope, and in the answer to a poll."""
MOST_BYTES: Final = 1 << 20
"""Bytes of an envelope: many clients refuse larger messages."""

_AROUND: Final = 1024  # bytes of an envelope besides its parts, at most: in a cursor there may be a key


class EnvelopeBuilder:
    """Collects the parts of an envelope, as many as fit.

    Parts of one unit (an atomic batch) stay together, and the first unit always fits.

    Attributes:
        parts: encoded, in order.
        unit: that of the last part.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.unit = 0
        self._count, self._size = MOST_EVENTS, MOST_BYTES - _AROUND
        self._unit_at = self._before = 0

    def add(self, part: bytes, unit: int) -> bool:
        """Add `part` of `unit`; False if there is no room: then no part of its unit stays in the envelope."""
        self._size -= len(part) + 1
        fits = len(self.parts) < self._count and self._size >= 0
        if unit != self.unit:
            if self.parts and not fits:
                return False
            self._before, self.unit, self._unit_at = self.unit, unit, len(self.parts)
        elif self._unit_at and not fits:
            del self.parts[self._unit_at :]
            self.unit = self._before
            return False
        self.parts.append(part)
        return True


def activity_fields(line: Activity) -> dict[str, Any]:
    """Return the fields of a message about `line`."""
    fields: dict[str, Any] = {"op": line.kind}
    if name := _SUBJECTS[line.kind]:
        fields[name] = line.subject.decode(errors="replace")
    return fields | {"time": rfc3339(line.time_ms)}


_SUBJECTS: Final = {
    "read": "key",
    "list": "",
    "list_prefix": "prefix",
    "delete": "key",
    "delete_prefix": "prefix",
    "delete_all": "",
    "heartbeat": "peer",
}
