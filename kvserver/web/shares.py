"""What one address may hold of a worker while it has not finished asking: connections, unfinished requests, bytes."""

from __future__ import annotations

from typing import NamedTuple

from kvserver.settings import ServerSettings
from shards.errors import Overloaded


class Limits(NamedTuple):
    """Settings of those names; `upload_rate` is `--min-upload-rate`. 0: no limit."""

    connections: int
    unfinished: int
    unfinished_bytes: int
    upload_rate: int

    @classmethod
    def of(cls, settings: ServerSettings) -> Limits:
        """Those of `settings`."""
        return cls(
            settings.connections_per_address,
            settings.unfinished_per_address,
            settings.unfinished_bytes_per_address,
            settings.min_upload_rate,
        )


class Shares:
    """Counts by address, in the form of `proxies.group`. What is 0 takes no memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections: dict[str, int] = {}
        self._unfinished: dict[str, int] = {}
        self._bytes: dict[str, int] = {}

    def connect(self, address: str) -> int:
        """Count a connection in; returns how many more there are now than may be, 0 or less if it has a place."""
        count = _add(self._connections, address, 1)
        return count - self._limits.connections if self._limits.connections else 0

    def disconnect(self, address: str) -> None:
        """Count a connection out."""
        _add(self._connections, address, -1)

    def add(self, address: str, unfinished: int, size: int) -> None:
        """Count so many requests that are unfinished, and bytes of such; negative ones are finished, or given up."""
        _add(self._unfinished, address, unfinished)
        _add(self._bytes, address, size)

    def check(self, address: str, more: int = 0) -> None:
        """Raise `Overloaded` if the address holds more than its share, or would with `more` bytes."""
        most, most_bytes = self._limits.unfinished, self._limits.unfinished_bytes
        if most and self._unfinished.get(address, 0) > most:
            raise Overloaded(f"more than {most} requests from this address have not arrived whole")
        if most_bytes and self._bytes.get(address, 0) + more > most_bytes:
            raise Overloaded(f"more than {most_bytes} bytes from this address belong to requests that are not whole")

    @property
    def is_empty(self) -> bool:
        """Whether nobody holds anything."""
        return not (self._connections or self._unfinished or self._bytes)


def _add(counts: dict[str, int], address: str, change: int) -> int:
    count = counts.get(address, 0) + change
    if count:
        counts[address] = count
    else:
        counts.pop(address, None)
    return count
