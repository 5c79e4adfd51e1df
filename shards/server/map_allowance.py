"""How much still fits into a map: measured now and then, and estimated in between."""

from __future__ import annotations

import time
from typing import Final

from shards.keys.budget import FULL_BYTES
from shards.maps.owner import MapOwner

MAP_RESERVE: Final = 8 << 20
"""Bytes of the map's file system that are reserved for deletes and expiries."""

_MEASURE_S = 0.05  # between measurements of the free space while it seems to run out
_PAGES = 3  # bytes of the map that a byte of a change may take: whole pages, and copies of those above them


class MapAllowance:
    """How many bytes of changes certainly fit into a map: measured now and then, and estimated in between.

    Attributes:
        bytes_left: below 0 if the reserve is in use.
    """

    def __init__(self, map: MapOwner) -> None:
        self.bytes_left = 0
        self._map = map
        self._measured_at = 0.0  # by time.monotonic()

    def admits(self, size: int) -> bool:
        """Whether a group that changes `size` bytes fits. Measures if it seems to be close."""
        if self.bytes_left < size + FULL_BYTES and time.monotonic() >= self._measured_at + _MEASURE_S:
            self.measure()
        return not self._map.storage.full and self.bytes_left >= size

    def measure(self) -> None:
        """Ask the file system."""
        self.bytes_left = (self._map.storage.free_bytes() - MAP_RESERVE) // _PAGES
        self._measured_at = time.monotonic()
