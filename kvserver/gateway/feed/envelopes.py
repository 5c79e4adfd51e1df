"""How much goes into one message of `/v1/feed`, and what a message of activity says. Pure."""

from __future__ import annotations

from typing import Any, Final

from kvserver.api.times import rfc3339
from shards.wire.protocol import Activity

MOST_EVENTS: Final = 1000
"""Events in an envelope, and in the answer to a poll."""
MOST_BYTES: Final = 1 << 20
"""Bytes of an envelope: clients commonly refuse larger messages."""

_AROUND: Final = 1024  # bytes of an envelope beside its parts, at most: in a cursor there may be a key


class EnvelopeBuilder:
    """The parts of an envelope, as many as fit; but what belongs together stays so, and one such unit always fits.

    Attributes:
        parts: in order.
        unit: the last one of which there are parts.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.unit = 0
        self._count, self._size = MOST_EVENTS, MOST_BYTES - _AROUND
        self._unit_at = self._before = 0

    def add(self, part: bytes, unit: int) -> bool:
        """Take `part`, which belongs to `unit`; False if there is no room: then nothing of its unit was taken."""
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
    """What a message about `line` says."""
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
