"""What one address may hold of a worker while it has not finished asking: connections, unfinished requests, bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvserver.settings import ServerSettings
from shards.errors import Overloaded

if TYPE_CHECKING:
    from kvserver.web.traffic import Traffic


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


class Stake:
    """What one connection adds to the share of an address, and to the bytes that its worker holds.

    Attributes:
        address: to whose share, in the form of `proxies.group`; empty: to nobody's.
        size: bytes of what has not arrived whole, and of what waits behind it.
    """

    __slots__ = ("_place", "_traffic", "_unfinished", "address", "size")

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.address = self._place = ""
        self._unfinished = False
        self.size = 0

    def connect(self, address: str) -> int:
        """Count the connection in the share of `address`; returns by how many it is exceeded, 0 or less if by none."""
        self.address = self._place = address
        return self._traffic.shares.connect(address)

    def disconnect(self) -> None:
        """The connection is gone, and what had not arrived whole was given up."""
        self.count(False, 0)
        if self._place:
            self._traffic.shares.disconnect(self._place)

    def move(self, address: str) -> None:
        """What arrives from now on is in the share of `address`."""
        self.count(False, 0)
        self.address = address

    def count(self, unfinished: bool, size: int) -> None:
        """There is a request that has not arrived whole, or none, and so many bytes are held for what is none yet."""
        if self.address:
            self._traffic.shares.add(self.address, unfinished - self._unfinished, size - self.size)
        self._traffic.bytes_held += size - self.size
        self._unfinished, self.size = unfinished, size

    def check(self, more: int = 0) -> None:
        """Raise `Overloaded` if `more` bytes would be more than the address's share, or than the worker may hold."""
        traffic = self._traffic
        traffic.check_bytes(more)
        try:
            if self.address:
                traffic.shares.check(self.address, more)
        except Overloaded:
            traffic.counts.overloads += 1
            raise


def _add(counts: dict[str, int], address: str, change: int) -> int:
    count = counts.get(address, 0) + change
    if count:
        counts[address] = count
    else:
        counts.pop(address, None)
    return count
